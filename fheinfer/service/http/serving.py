"""The HTTP service as a process: its socket, TLS, limits of connections, and signals."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fheinfer.errors import InputError, UsageError
from fheinfer.service.http import problems
from fheinfer.service.http.app import create_app
from fheinfer.service.http.service import Service

HEAD_SECONDS = 10.0
"""Within which a connection has to send the head of a request."""
MOST_CONNECTIONS = 512
MOST_HEAD_BYTES = 32 << 10
CLOSE_SECONDS = 3
"""That answers under way get once jobs have stopped."""


def listen(host: str, port: int, *, protected: bool) -> socket.socket:
    """A listening socket.

    Args:
        port: 0 for a free one.
        protected: whether TLS, or a proxy, is between this socket and others' machines.

    Raises:
        UsageError: an address that this machine does not have or may not use, or an open one without protection.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}; name an address of this machine") from None
    if not protected and not ipaddress.ip_address(where[0]).is_loopback:
        raise UsageError(
            f"--host {host} can be reached from other machines, and tokens would cross the network in clear; give "
            "--tls-cert and --tls-key, or --behind-proxy where a proxy does TLS"
        )
    try:
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None


def serve(service: Service, listening: socket.socket, cert: Path | None = None, key: Path | None = None) -> None:
    """Serves until a signal: prints the address on standard output once it does.

    Raises:
        InputError: a certificate or key that cannot be used.
    """
    config = uvicorn.Config(
        create_app(service),
        http=_Connection,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=int(HEAD_SECONDS),
        timeout_graceful_shutdown=CLOSE_SECONDS,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        ssl_certfile=cert,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot use --tls-cert {cert} with --tls-key {key}: {error}; check both files") from None
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    _Server(config, service, f"{'https' if cert else 'http'}://{shown}:{port}").run([listening])


class _Server(uvicorn.Server):
    """uvicorn's, which stops in our order: jobs first, then connections; a second signal ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service, url: str) -> None:
        super().__init__(config)
        self._service, self._url = service, url
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._url, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        yield

    def _signalled(self, number: int) -> None:
        if self._ending:  # workers see that their parent is gone
            os._exit(128 + number)
        self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        try:
            await asyncio.to_thread(self._service.stop)
        finally:
            self.should_exit = True


class _Connection(H11Protocol):
    """uvicorn's, and one that sends no whole head of a request in time is closed, however it drips."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look = self.loop.call_later(HEAD_SECONDS, self._waiting_since, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP request gets a problem document, as all others do."""
        answer = problems.answer(UsageError("this is no HTTP request that can be read"))
        headers = [*answer.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=answer.status_code, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _waiting_since(self, before: object) -> None:
        """Closes where the request that was the last one before still is, and was answered then."""
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.cycle is before:
            if self.conn.our_state is not h11.ERROR:
                self.transport.close()
            return
        self._look = self.loop.call_later(HEAD_SECONDS, self._waiting_since, self.cycle if answered else self)
