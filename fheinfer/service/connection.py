"""HTTP to one service: bounded answers, typed errors, and patience with connections that break.

Whatever answers there may be hostile or broken: nothing is read without a bound, redirects are not followed, and the
token goes to this address alone.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Literal, TypeVar
from weakref import WeakSet

import httpx
from pydantic import TypeAdapter, ValidationError

from fheinfer import errors
from fheinfer.errors import FheinferError, LimitError, NotFoundError, StorageError, TokenError, UnreachableError
from fheinfer.service.protocol import TOKEN_PATTERN, Problem
from fheinfer.storage import shown

T = TypeVar("T")

VARIABLE = "FHEINFER_TOKEN"
"""Environment variable that may hold the token."""
JSON_BYTES = 4 << 20
LINE_BYTES = 1 << 16
"""Bytes of an answer in JSON, and of a line of events."""
FIRST_PATIENCE, PATIENCE = 2.0, 60.0
"""Seconds that a request is repeated for, before the service has ever answered, and afterwards."""
AWAY = 1.0
"""Seconds without an answer after which that is told."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
ANSWER_SECONDS = 600.0
"""Of a single answer, however slowly it comes."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_AGAIN = frozenset((408, 429, 502, 503, 504))
_CUT = (httpx.RemoteProtocolError, httpx.ReadError)
"""What a server that expects TLS does to a request without."""
_TYPES: dict[int, type[FheinferError]] = {
    401: TokenError,
    403: TokenError,
    404: NotFoundError,
    429: LimitError,
    507: StorageError,
}


class TooLongError(UnreachableError):
    """An answer of more bytes than it can have."""


class BrokenError(Exception):
    """Something that may go better when it is tried again; `pause` is how long the service asks to wait."""

    def __init__(self, reason: FheinferError, pause: float = 0.0) -> None:
        super().__init__(str(reason))
        self.reason, self.pause = reason, pause


@dataclass(frozen=True)
class Answer:
    """What the service answered, read to its end."""

    status: int
    headers: httpx.Headers
    body: bytes


class Connection:
    """Requests to one service. Safe to use from several threads.

    Args:
        url: of the service, without a path: https, or http on this very machine.
        token: sent with every request; from FHEINFER_TOKEN by default.
        transport: instead of the network, for tests.
        verify: True, or a context that has other authorities; certificates are always checked.
        patience: seconds that a request is repeated for where nothing else is said.

    Raises:
        UsageError: no such address, or plain http to another machine.
        TokenError: something that is no token.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        verify: ssl.SSLContext | Literal[True] = True,
        patience: float = PATIENCE,
    ) -> None:
        origin = _origin(url)
        self.url = str(origin).rstrip("/")
        port = origin.port or {"http": 80, "https": 443}[origin.scheme]
        self.name = f"{origin.raw_host.decode()}_{port}"
        """Names the service among files."""
        self._token = _token(token)
        self._answered, self._patience = False, patience
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = Lock()
        self._http = httpx.Client(
            base_url=origin,
            headers={"user-agent": "fheinfer", "accept-encoding": "identity"}
            | ({"authorization": f"Bearer {self._token}"} if self._token else {}),
            timeout=_TIMEOUT,
            transport=transport,
            verify=verify if isinstance(verify, ssl.SSLContext) else True,
            trust_env=origin.scheme == "https",  # through a proxy only under TLS
            follow_redirects=False,
        )

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def json(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """The answer as a type of `protocol`. Options and errors are those of `request`."""
        adapter: TypeAdapter[T] = TypeAdapter(kind)
        return self.request(lambda answer: adapter.validate_json(answer.body), method, path, **options)

    def request(
        self,
        parse: Callable[[Answer], T],
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: dict[str, str | int] | None = None,
        limit: int = JSON_BYTES,
        also: Collection[int] = (),
        patience: float | None = None,
        at_limit: bool = True,
        on_away: Callable[[FheinferError], None] = lambda reason: None,
    ) -> T:
        """What `parse` makes of the answer. Requests are repeated where the connection breaks or the service is busy.

        Args:
            parse: raises a ValueError where the answer is damaged, which is asked for again.
            limit: bytes of the answer.
            also: statuses that are no error, beside those of success.
            patience: seconds to repeat it for.
            at_limit: whether it is repeated, too, where this client asks for too much.
            on_away: told why there is no answer, before each repetition after `AWAY` seconds.

        Raises:
            UnreachableError: no answer within `patience`, or none of such a service.
            FheinferError: what the service says is wrong.
        """
        began, pause = time.monotonic(), SHORTEST_PAUSE
        most = patience if patience is not None else self._patience if self._answered else FIRST_PATIENCE
        while True:
            try:
                with self._errors():
                    answer = self._once(method, path, content, params, limit, also)
                    found = parse(answer)
                self._answered = True
                return found
            except BrokenError as broken:
                wait = max(broken.pause, random.uniform(pause / 2, pause))
                limited = isinstance(broken.reason, LimitError) and not at_limit
                if limited or time.monotonic() - began + wait > most:
                    raise broken.reason from None
                if time.monotonic() - began >= AWAY and not isinstance(broken.reason, LimitError):
                    on_away(broken.reason)
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    def events(self, parse: Callable[[bytes], T], path: str) -> Generator[T, None, None]:
        """What `parse` makes of the data of each server-sent event, as they come.

        Raises:
            BrokenError: the stream broke, or is none.
            FheinferError: what the service says is wrong.
        """
        with self._errors(), ExitStack() as stack:
            with self._in_time():
                response = stack.enter_context(self._stream("GET", path, headers={"accept": "text/event-stream"}))
                self._check(response, ())
            rest, heard = b"", time.monotonic()
            for chunk in response.iter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        yield parse(line[5:])
                        heard = time.monotonic()
                if len(rest) > LINE_BYTES or time.monotonic() > heard + ANSWER_SECONDS:
                    raise ValueError("a line without an end, or nothing but signs of life")

    def error(self, problem: Problem) -> FheinferError:
        """What the service says is wrong, under the type that it has there."""
        found = getattr(errors, problem.kind, None)
        kind = found if isinstance(found, type) and issubclass(found, FheinferError) else errors.ServiceError
        return kind(self._says(problem.detail))

    def _says(self, text: str) -> str:
        return f"{self.url}: {shown(text.replace(self._token, '...') if self._token else text, 500)}"

    def _once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        params: dict[str, str | int] | None,
        limit: int,
        also: Collection[int],
    ) -> Answer:
        with self._in_time(), self._stream(method, path, content=content, params=params) as response:
            self._check(response, also)
            return Answer(response.status_code, response.headers, self._read(response, limit))

    def _stream(self, method: str, path: str, **options: Any) -> AbstractContextManager[httpx.Response]:
        return self._http.stream(method, path, extensions={"trace": self._trace}, **options)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Told by httpx of every step of a request."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._lock:
                self._sockets.add(info["return_value"].get_extra_info("socket"))

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Cuts all connections after `ANSWER_SECONDS`: a head may have no end, and httpx waits for every next byte."""
        over = Event()
        Thread(target=self._cut_unless, args=(over,), name="fheinfer-in-time", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _cut_unless(self, over: Event) -> None:
        while not over.wait(ANSWER_SECONDS):
            with self._lock:
                for found in self._sockets:
                    with suppress(OSError):
                        found.shutdown(socket.SHUT_RDWR)

    def _read(self, response: httpx.Response, limit: int) -> bytes:
        body, began = bytearray(), time.monotonic()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > limit:
                raise TooLongError(f"{self.url}: an answer of more than {limit} bytes; is this the service?")
            if time.monotonic() - began > ANSWER_SECONDS:
                raise UnreachableError(f"{self.url}: an answer that does not end; try again later")
        return bytes(body)

    def _check(self, response: httpx.Response, also: Collection[int]) -> None:
        """Raises the error that a response is."""
        status = response.status_code
        if response.headers.get("content-encoding", "identity") != "identity":  # a few bytes could become gigabytes
            raise UnreachableError(f"{self.url}: a compressed answer, which nobody asked for; is this the service?")
        if 200 <= status < 300 or status in also:
            return
        if 300 <= status < 400:
            raise UnreachableError(f"{self.url} sends elsewhere, which is not followed; give the service's own address")
        problem = False
        try:
            error = self.error(Problem.model_validate_json(self._read(response, LINE_BYTES)))
            problem = True
        except ValidationError:
            kind = _TYPES.get(status, UnreachableError)
            error = kind(f"{self.url}: status {status} without a reason; is this the service?")
        if status == 401 and not self._token:
            error = TokenError(f"{self.url} wants a token; name its file by --token-file, or set {VARIABLE}")
        elif status == 401 and problem:
            error = TokenError(
                f"{self.url} refuses this token: it is wrong, expired or revoked, or another service's; name the right "
                f"one's file by --token-file, or set {VARIABLE}"
            )
        pause = _seconds(response.headers.get("retry-after"))
        final = pause is None and (
            status == 429 or isinstance(error, errors.NotEnoughMemoryError)
        )  # waiting is no help
        if status in _AGAIN and not final:
            raise BrokenError(error, pause or 0.0)
        raise error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Maps what httpx and parsers raise. Causes are left out: they hold requests, and those the token."""
        try:
            yield
        except httpx.TransportError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, ssl.SSLError):
                cause = cause.__cause__ or cause.__context__
            if isinstance(cause, ssl.SSLCertVerificationError):
                reason = (
                    f"its certificate is refused ({cause.verify_message}); check the address, or name the file of the "
                    "authority that signed it, or of the certificate where it signs itself, by SSL_CERT_FILE"
                )
            elif cause is not None and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
                reason = "it speaks no TLS; write http:// if it is a service on this very machine"
            else:
                tls = ", and https:// if it has TLS" if isinstance(error, _CUT) and self.url.startswith("http:") else ""
                reason = (
                    f"no answer ({str(error) or type(error).__name__}); check the address{tls}, and that the service "
                    "is up"
                )
            raise BrokenError(UnreachableError(self._says(reason))) from None
        except (ValueError, httpx.HTTPError):
            raise BrokenError(
                UnreachableError(f"{self.url}: a damaged answer, or none of fheinfer's service; check the address")
            ) from None


def _origin(url: str) -> httpx.URL:
    """The address, where it may be asked. Raises UsageError."""
    wants = "write https://HOST or https://HOST:PORT, or http://127.0.0.1:PORT on this machine"
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise errors.UsageError(f"{shown(url)}: no address; {wants}") from None
    host = found.host
    named = re.fullmatch(rb"[a-z0-9.:_-]{1,253}", found.raw_host) and (found.port is None or 0 < found.port < 1 << 16)
    if found.scheme not in ("http", "https") or not named:
        raise errors.UsageError(f"{shown(found.host or url)}: no address of a service; {wants}")
    if found.userinfo or found.query or found.fragment or found.path not in ("", "/"):
        raise errors.UsageError(f"{shown(host)}: a service is named by its host and port alone; {wants}")
    if found.scheme == "http" and not _is_loopback(host):
        raise errors.UsageError(f"{shown(host)}: without TLS anybody on the way could read the token; {wants}")
    return found


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(given: str | None) -> str | None:
    token = (os.environ.get(VARIABLE) if given is None else given) or None
    if token is not None and not re.fullmatch(TOKEN_PATTERN.removesuffix("$"), token):
        raise TokenError("this is no token; the service's owner makes one by `fheinfer serve token add NAME`")
    return token


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After; None where there is none, or a date."""
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else None
