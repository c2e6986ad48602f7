"""Progress of a job as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from fastapi.concurrency import run_in_threadpool

from fheinfer.service.http.changes import Changes
from fheinfer.service.protocol import FINAL, JobInfo

PERIOD = 0.2
"""Seconds between two events of a stream, at least."""
SILENCE = 10.0
"""Seconds after which a comment says that the stream is alive."""


async def events(
    job_id: str,
    look: Callable[[], JobInfo | None],
    changes: Changes,
    stopping: Callable[[], bool],
    silence: float = SILENCE,
) -> AsyncIterator[str]:
    """The present state of a job, then every change, up to a final state or until the service stops.

    Args:
        look: the job as it is; None where it was forgotten.
        silence: seconds after which a comment is sent.
    """
    last, told = "", time.monotonic()
    while True:
        seen = changes.version(job_id)
        found = await run_in_threadpool(look)
        if found is None:
            return
        text = found.model_dump_json()
        if text != last:
            last, told = text, time.monotonic()
            yield f"event: job\ndata: {text}\n\n"
        if found.state in FINAL or stopping():
            return
        await asyncio.sleep(PERIOD)
        await changes.wait(job_id, seen, max(0.0, told + silence - time.monotonic()))
        if time.monotonic() >= told + silence:
            told = time.monotonic()
            yield ": waiting\n\n"
