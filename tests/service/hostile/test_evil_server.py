"""A remote client against a server that is not one: typed errors of one line, in bounded time and memory.

Threats: whoever answers may be hostile (chosen answers, replay, confusion); issue: "right answers or typed errors".
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

import fheinfer
from fheinfer.errors import FheinferError, UnreachableError
from fheinfer.service import connection, following
from fheinfer.service.connection import Connection
from fheinfer.service.protocol import ServerInfo

TOKEN = "fi_" + "A" * 43
SECONDS = 30.0
"""That a call may take where nothing is waited for longer than a second."""
BYTES = 48 << 20
PATIENCE = 0.2
CHUNK = b"x" * (1 << 16)
OK = b"HTTP/1.1 200 OK\r\n"
Behaviour = Callable[[socket.socket], None]


def forever(*pieces: bytes, first: bytes = b"", pause: float = 0.0) -> Behaviour:
    """Sends the first, and then the pieces until the client has gone."""

    def behave(peer: socket.socket) -> None:
        peer.sendall(first)
        while True:
            for piece in pieces:
                peer.sendall(piece)
                time.sleep(pause)

    return behave


def once(data: bytes) -> Behaviour:
    return lambda peer: peer.sendall(data)


def answer(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> Behaviour:
    return once(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n" % (status, len(body), headers) + body)


def silent(peer: socket.socket) -> None:
    while peer.recv(1 << 16):
        pass


def then(*behaviours: Behaviour) -> Behaviour:
    def behave(peer: socket.socket) -> None:
        for each in behaviours:
            each(peer)

    return behave


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@contextmanager
def evil(behave: Behaviour, honest: bool = True) -> Iterator[str]:
    """The address of a server that behaves so, but where `honest` to whoever asks which service it is."""
    listening = socket.create_server(("127.0.0.1", 0))
    info = ServerInfo(version="1", signing_key="0" * 64).model_dump_json().encode()

    def talk(peer: socket.socket) -> None:
        with suppress(OSError), peer:
            peer.settimeout(30)
            head = b""
            while b"\r\n\r\n" not in head and (more := peer.recv(1 << 16)):
                head += more
            if honest and head.startswith(b"GET /v1/server "):
                answer(info, b"Connection: close\r\n")(peer)
            else:
                behave(peer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listening.accept()
                threading.Thread(target=talk, args=(peer,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_TIMEOUT", httpx.Timeout(0.5))
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.7)
    monkeypatch.setattr(connection, "FIRST_PATIENCE", PATIENCE)
    monkeypatch.setattr(connection, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(following, "PERIOD", 0.02)


@contextmanager
def bounded() -> Iterator[None]:
    began, before = time.monotonic(), psutil.Process().memory_info().rss
    yield
    assert time.monotonic() - began < SECONDS
    assert psutil.Process().memory_info().rss - before < BYTES


DEEP = b"[" * 200_000
ANSWERS: dict[str, Behaviour] = {
    "nothing": silent,
    "an end": lambda peer: None,
    "a reset": reset,
    "garbage": forever(CHUNK),
    "another protocol": once(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "HTTP 2": once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100)),
    "HTTP 0.9": once(b"[]"),
    "a status without an end": forever(b"x", first=b"HTTP/1.1 200 ", pause=0.01),
    "an odd status": once(b"HTTP/1.1 999 ?\r\n\r\n"),
    "no status": once(b"HTTP/1.1 -1\r\n\r\n"),
    "a header without an end": forever(CHUNK, first=OK + b"X: "),
    "headers without an end": forever(b"X-A: y\r\n" * 1000, first=OK),
    "a header that drips": forever(b"x", first=OK + b"X: ", pause=0.02),
    "continue, for ever": forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "early hints, for ever": forever(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", pause=0.01),
    "a body without an end": forever(CHUNK, first=OK + b"\r\n"),
    "chunks without an end": forever(b"10000\r\n" + CHUNK + b"\r\n", first=OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    "empty lines": forever(b"\r\n" * 1000),
    "a body that drips": forever(b" ", first=OK + b"\r\n", pause=0.02),
    "a chunk of 2^60": once(OK + b"Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\nx"),
    "a chunk of no size": once(OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx"),
    "a length of 2^60": once(OK + b"Content-Length: 1152921504606846976\r\n\r\n["),
    "a length of -1": once(OK + b"Content-Length: -1\r\n\r\n[]"),
    "two lengths": once(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]"),
    "half of a body": once(OK + b"Content-Length: 100\r\n\r\n["),
    "a redirect to itself": answer(b"", b"Location: /v1/models\r\n", b"302 Found"),
    "a redirect elsewhere": answer(b"", b"Location: file:///etc/passwd\r\n", b"307 Go"),
    "compressed": answer(b"x", b"Content-Encoding: gzip\r\n"),
    "compressed twice": answer(b"x", b"Content-Encoding: gzip, br\r\n"),
    "no content": once(b"HTTP/1.1 204 No\r\n\r\n"),
    "an upgrade": once(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "deep JSON": answer(DEEP),
    "deep objects": answer(b'{"a":' * 200_000),
    "long numbers": answer(b"[" + b"9" * 1_000_000 + b"]"),
    "another type": answer(b'{"models": []}'),
    "odd values": answer(b'[{"name": 1, "plan": null, "seconds": {"fast": NaN}}]'),
    "no UTF-8": answer(b'["\xff\xfe"]'),
    "UTF-16": answer("[{}]".encode("utf-16")),
    "a zero": answer(b"\0"),
    "later": answer(b"{}", b"Retry-After: 999999\r\n", b"503 No"),
    "never": answer(b"{}", b"Retry-After: -1e400\r\n", b"429 No"),
    "a problem of no kind": answer(
        b'{"title": "x", "status": 400, "detail": "x", "kind": "__class__"}', b"", b"400 No"
    ),
    "a long problem": answer(
        json.dumps({"title": "x", "status": 400, "detail": "y\n" * 40_000}).encode(), b"", b"400 No"
    ),
    "a problem that is deep": answer(DEEP, b"", b"400 No"),
    "an error without an end": forever(CHUNK, first=b"HTTP/1.1 500 No\r\n\r\n"),
}


@pytest.mark.parametrize("behaviour", ANSWERS)
def test_an_answer_that_is_none(behaviour: str, tmp_path: Path) -> None:
    with (
        evil(ANSWERS[behaviour]) as url,
        bounded(),
        fheinfer.Remote(url, TOKEN, keys=tmp_path, patience=PATIENCE) as remote,
    ):
        with pytest.raises(FheinferError) as caught:
            remote.models()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert TOKEN not in str(caught.value)


JOB = {"id": "0" * 32, "plan": "0" * 64, "key_id": "0" * 32, "request": "0" * 64, "state": "running", "created": 1.0}
EVENTS = OK + b"Content-Type: text/event-stream\r\n\r\n"
EVENT = b"event: job\ndata: " + json.dumps(JOB).encode() + b"\n\n"
STREAMS: dict[str, Behaviour] = {
    "a line without an end": forever(CHUNK, first=EVENTS + b"data: "),
    "lines without data": forever(b": " + CHUNK + b"\n", first=EVENTS),
    "data that is none": forever(b"data: {\n\n", first=EVENTS),
    "data that is deep": once(EVENTS + b"data: " + b"[" * 60_000 + b"\n\n"),
    "another job": once(EVENTS + EVENT.replace(b"0" * 32, b"1" * 32)),
    "no UTF-8": once(EVENTS + b"data: \xff\xfe\n\n"),
    "silence": then(once(EVENTS + EVENT), silent),
    "an end": once(EVENTS + EVENT),
    "no stream": answer(b"{}"),
    "an endless head": forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("behaviour", STREAMS)
def test_events_that_are_none(behaviour: str) -> None:
    """What ends in the middle is asked for again, and asked without events at last: this server has no answer there."""
    streams = 0

    def behave(peer: socket.socket) -> None:
        nonlocal streams
        streams += 1
        if streams % 2:
            STREAMS[behaviour](peer)
        else:
            answer(b"null")(peer)

    with evil(behave) as url, bounded():
        asked = Connection(url, TOKEN, patience=PATIENCE)
        stopped = time.monotonic() + SECONDS / 12

        def told(info: object) -> None:
            if time.monotonic() > stopped:
                raise UnreachableError("it goes on for ever, as long as there is news")

        with pytest.raises(FheinferError):
            following.follow(asked, "0" * 32, told)
        asked.close()
