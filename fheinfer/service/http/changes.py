"""Wakes event streams when something changed for them: threads tell, coroutines wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from threading import Lock


class Changes:
    """Versions of jobs, and of the queue as a whole. Waited for in one event loop, told of from any thread."""

    def __init__(self) -> None:
        self.queue = 0
        self._jobs: dict[str, int] = {}  # those told of since the queue changed
        self._serial, self._lock = 0, Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, asyncio.Event] = {}

    def attach(self) -> None:
        """Says that it is this loop whose coroutines wait."""
        self._loop = asyncio.get_running_loop()

    def version(self, job_id: str) -> int:
        """Grows with every change of a job, and with every change of the queue."""
        with self._lock:
            return max(self.queue, self._jobs.get(job_id, 0))

    def tell(self, job_id: str | None = None) -> None:
        """A job made progress; without one, the queue changed, and with it the place of every job."""
        with self._lock:
            self._serial += 1
            if job_id is None:
                self.queue = self._serial
                self._jobs.clear()
            else:
                self._jobs[job_id] = self._serial
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake, job_id)

    def _wake(self, job_id: str | None) -> None:
        for name in list(self._waiting) if job_id is None else [job_id]:
            if event := self._waiting.pop(name, None):
                event.set()

    async def wait(self, job_id: str, seen: int, seconds: float) -> None:
        """Returns as soon as the version of a job is not `seen` any more, or after so many seconds."""
        event = self._waiting.setdefault(job_id, asyncio.Event())
        if self.version(job_id) == seen:
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)
