"""The page's process: its socket on this machine alone, and its address."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from fheinfer.errors import UsageError
from fheinfer.service.page.app import LocalPage, create_app


def listen(port: int) -> socket.socket:
    """A listening socket of 127.0.0.1; port 0 takes a free one.

    Raises:
        UsageError: the port is taken, or not for this user.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise UsageError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}; choose another --port"
        ) from None


def serve(page: LocalPage, listening: socket.socket, announce: Callable[[str], None]) -> None:
    """Serves the page until a signal; `announce` is told its address, with the token of this start, once it does."""
    token, port = secrets.token_urlsafe(32), listening.getsockname()[1]
    config = uvicorn.Config(
        create_app(page, port, token),
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=1,  # of a page that is open and follows a run
        ws="none",
    )
    _Server(config, lambda: announce(f"http://127.0.0.1:{port}/?token={token}")).run([listening])


class _Server(uvicorn.Server):
    """uvicorn's, which tells when it serves."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
