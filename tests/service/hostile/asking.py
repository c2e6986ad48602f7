"""Requests as no client library would send them, straight into the application; and what every answer has to be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from fheinfer import errors
from fheinfer.errors import FheinferError
from fheinfer.service.protocol import Problem

KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FheinferError)}
ON_PURPOSE = (503, 507)
"""Statuses from 500 on that are an answer: no memory or stopping, and no room on the disk."""
Header = tuple[str, str | bytes]


@dataclass(frozen=True)
class Request:
    """`pieces` arrive one after another; then the body is over, or the client is gone where `gone`."""

    method: str
    target: str
    headers: tuple[Header, ...] = ()
    pieces: tuple[bytes, ...] = ()
    gone: bool = False


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Problem:
        return Problem.model_validate_json(self.body)


def request(
    method: str, target: str, body: bytes | None = None, *, token: str = "", headers: Iterable[Header] = ()
) -> Request:
    """An ordinary one, with a token and a Content-Length."""
    more: list[Header] = [("authorization", f"Bearer {token}")] if token else []
    more += [("content-length", str(len(body)))] if body is not None else []
    return Request(method, target, (*more, *headers), () if body is None else (body,))


async def ask(app: Any, asked: Request) -> Answer | None:
    """What the application answers; None where the client was gone before that."""
    path, _, query = asked.target.partition("?")
    pieces, sent, last = list(asked.pieces), [], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if pieces:
            body = pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(pieces) or asked.gone}
        if asked.gone or last.is_set():
            return {"type": "http.disconnect"}
        last.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [
            (name.encode(), value.encode() if isinstance(value, str) else value) for name, value in asked.headers
        ],
        "client": ("192.0.2.1", 1),
        "server": ("testserver", 80),
    }
    await app(scope, receive, send)
    if not sent:
        return None
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


def check(answer: Answer | None, asked: object, secrets: Sequence[str] = ()) -> None:
    """That it is an answer on purpose: a success, or a problem document of a known kind that gives nothing away."""
    if answer is None or answer.status < 400:
        return
    problem, text = None, answer.body.decode("utf-8", "replace")
    if answer.headers["content-type"] == "application/problem+json":
        problem = answer.problem
    given_away = [secret for secret in (*secrets, "Traceback", "site-packages") if secret in text]
    good = problem is not None and problem.status == answer.status and problem.kind in KINDS and not given_away
    if not good or (answer.status >= 500 and answer.status not in ON_PURPOSE):
        raise AssertionError(f"{answer.status} {text[:500]} to {str(asked)[:1000]}")


def over_the_wire(address: tuple[str, int], asked: Request) -> Answer | None:
    """The same to a real service, over a connection of its own; None where it gives no answer."""
    head = f"{asked.method} {asked.target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode("utf-8", "replace")
    for name, value in asked.headers:
        head += name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    data = b""
    with socket.create_connection(address, timeout=60) as peer, suppress(ConnectionError):
        with suppress(OSError):  # refused before all of it was read
            for piece in (head + b"\r\n", *asked.pieces):
                peer.sendall(piece)
            if _waits(asked):
                peer.shutdown(socket.SHUT_WR)
        while not asked.gone and (more := peer.recv(1 << 16)):
            data += more
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or asked.method == "HEAD":  # which has no document to look at
        return None
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), headers, body)


def _waits(asked: Request) -> bool:
    """Whether a server has to wait for more of a request than is sent."""
    sent, lengths = sum(map(len, asked.pieces)), [value for name, value in asked.headers if name == "content-length"]
    decimal = [length for length in lengths if isinstance(length, str) and length.isdecimal()]
    return any(len(length) > 15 or int(length) > sent for length in decimal)
