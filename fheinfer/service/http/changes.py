"""Wakes event streams when something changed: threads tell, coroutines wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Changes:
    """A number that grows with every change. Used in one event loop; told of from any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._happened = asyncio.Event()

    def attach(self) -> None:
        """Says that it is this loop whose coroutines wait."""
        self._loop = asyncio.get_running_loop()

    def tell(self, job_id: str = "") -> None:
        """A job changed, and so may the places of others; without a loop nobody waits, and nothing happens."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self.count += 1
        self._happened.set()
        self._happened = asyncio.Event()

    async def wait(self, seen: int, seconds: float) -> int:
        """The count as soon as it is not `seen` any more, or after so many seconds."""
        if self.count == seen:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._happened.wait(), seconds)
        return self.count
