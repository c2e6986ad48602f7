"""Bodies of requests as they arrive: bounded, in time, and on disk instead of in memory."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from fheinfer.service.http.problems import NoLengthError, SlowBodyError, TooLargeError
from fheinfer.storage import require_disk, storage_errors

GAP_SECONDS = 30.0
"""Within which something more of a body has to arrive."""
SLOWEST = 16 << 10
"""Bytes per second that a body has to make on the whole."""
_PIECE = 1 << 20


@asynccontextmanager
async def received(request: Request, bound: int, folder: Path) -> AsyncIterator[memoryview]:
    """The body of a request, in a file of `folder` that has no name and so leaves nothing behind.

    Args:
        bound: bytes that it may have.

    Raises:
        NoLengthError: it does not say how long it is.
        TooLargeError: it says more than `bound`, or is longer than it says.
        SlowBodyError: it does not arrive in time.
        StorageError: no room for it.
        ClientDisconnect: the client went away.
    """
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdecimal() or len(length) > 15:
        raise NoLengthError("a body says its length (Content-Length), in whole bytes")
    size = int(length)
    if size > bound:
        raise TooLargeError(f"a body of {size} bytes where at most {bound} can be")
    await run_in_threadpool(require_disk, folder, size)
    with storage_errors(folder / "body"):
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below
    with file:
        try:
            async with asyncio.timeout(GAP_SECONDS + size / SLOWEST):
                async for piece in _pieces(request, size):
                    await run_in_threadpool(_write, file, piece, folder)
        except TimeoutError:
            raise SlowBodyError("the body did not arrive in time; send it again") from None
        # Unmapped when the last view is gone: errors hold some, and closing it under them would raise another one.
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b"")


def _write(file: IO[bytes], piece: bytes, folder: Path) -> None:
    with storage_errors(folder / "body"):
        file.write(piece)
        file.flush()


async def _pieces(request: Request, size: int) -> AsyncIterator[bytes]:
    """The body in pieces of about a megabyte; never more than `size` bytes altogether."""
    stream, waiting, total = request.stream(), bytearray(), 0
    while True:
        async with asyncio.timeout(GAP_SECONDS):
            chunk = await anext(stream, None)
        if chunk is None:
            break
        total += len(chunk)
        if total > size:
            raise TooLargeError(f"more than the {size} bytes that the body should have")
        waiting += chunk
        if len(waiting) >= _PIECE:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)
