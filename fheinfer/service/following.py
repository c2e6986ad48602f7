"""Follows a job to its end: by server-sent events, again where they break off, and by asking where there are none."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress

from fheinfer.errors import FheinferError
from fheinfer.service.connection import BrokenError, Connection
from fheinfer.service.protocol import FINAL, PREFIX, JobInfo

TRIES = 3
"""Streams in a row without an event, after which the service is asked instead."""
PERIOD = 1.0
"""Seconds between two questions."""


def follow(
    connection: Connection,
    job_id: str,
    on_info: Callable[[JobInfo], None],
    on_away: Callable[[FheinferError], None] = lambda reason: None,
) -> JobInfo:
    """The job when it is done, failed or cancelled; `on_info` is told of every change on the way.

    `on_away` is told where the service does not answer (`Connection.request`).

    Raises:
        UnreachableError: the service went away for longer than `connection.PATIENCE`.
        NotFoundError: the job was deleted.
        FheinferError: what the service says is wrong.
    """
    path, empty = f"{PREFIX}/jobs/{job_id}", 0

    def parse(raw: bytes) -> JobInfo:
        info = JobInfo.model_validate_json(raw)
        if info.id != job_id:
            raise ValueError("another job")
        return info

    while True:
        if empty < TRIES:
            empty += 1
            with suppress(BrokenError), closing(connection.events(parse, f"{path}/events")) as events:
                for info in events:
                    empty = 0
                    on_info(info)
                    if info.state in FINAL:
                        return info
        info = connection.request(lambda answer: parse(answer.body), "GET", path, on_away=on_away)
        on_info(info)
        if info.state in FINAL:
            return info
        time.sleep(PERIOD)
