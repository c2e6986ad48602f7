"""Jobs: submitted once, taken fairly, done once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from fheinfer.errors import LimitError, NotFoundError
from fheinfer.service.database import Tables
from fheinfer.service.key_sets import QuotaError, touch
from fheinfer.service.protocol import JobState
from fheinfer.service.rows import JobRow, read_accounts, read_jobs

BURST = 2
"""Jobs of one account that a worker takes in a row where it has the keys in memory."""
MAX_KEPT_JOBS = 1000
"""Jobs of an account, those included whose results are still kept; and how many that were cancelled."""


class Queue(Tables):
    """Part of `store.Store`."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__(path, clock)
        self._bursts: dict[int, tuple[str, int]] = {}  # worker -> account of its last job, how many in a row

    def add_job(
        self, account: str, plan: str, key_id: str, request: str, job_id: str, seconds: float
    ) -> tuple[JobRow, bool]:
        """A job at the end of the account's queue, and True; or the job that has this input already, and False.

        A job that failed is such a job, too: nothing is tried again with the same ciphertext. Its input file has to be
        on the disk already.

        Args:
            seconds: that it is predicted to take.

        Raises:
            NotFoundError: the account has no such keys.
            LimitError: as many jobs wait or run, or are kept, as the account may have.
        """
        with self._transaction() as sql:
            same = "account = ? AND plan = ? AND key_id = ? AND request = ? AND state != 'cancelled'"
            if found := read_jobs(sql, same, account, plan, key_id, request):
                return found[0], False
            now = self.now()
            if not touch(sql, account, key_id, now):
                raise NotFoundError("this account has no such keys; upload them first")
            self._check_jobs(sql, account)
            sql.execute(
                "INSERT INTO jobs (id, account, plan, key_id, request, state, attempts, created, seconds) "
                "VALUES (?, ?, ?, ?, ?, 'queued', 0, ?, ?)",
                (job_id, account, plan, key_id, request, now, seconds),
            )
            sql.execute(
                "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE account = ? AND state = 'cancelled' "
                "ORDER BY seq DESC LIMIT -1 OFFSET ?)",
                (account, MAX_KEPT_JOBS),
            )
            return read_jobs(sql, "id = ?", job_id)[0], True

    def _check_jobs(self, sql: sqlite3.Connection, account: str) -> None:
        limit = read_accounts(sql, "id = ?", account)[0].max_jobs
        active, kept = sql.execute(
            "SELECT ifnull(sum(state IN ('queued', 'running')), 0), count(*) FROM jobs "
            "WHERE account = ? AND state != 'cancelled'",  # those have no files
            (account,),
        ).fetchone()
        if active >= limit:
            raise LimitError(f"{active} jobs of this account wait or run, and it may have {limit}; wait for one")
        if kept >= MAX_KEPT_JOBS:
            raise QuotaError(f"{kept} jobs of this account are kept, the most that can be; delete results you have")

    def job(self, account: str, job_id: str) -> JobRow | None:
        """A job of this account; None where it has no such job."""
        with self._transaction() as sql:
            found = read_jobs(sql, "account = ? AND id = ?", account, job_id)
        return found[0] if found else None

    def jobs(self, account: str) -> list[JobRow]:
        """All jobs of this account, the oldest first."""
        with self._transaction() as sql:
            return read_jobs(sql, "account = ? ORDER BY seq", account)

    def all_jobs(self, *states: JobState) -> list[JobRow]:
        """Jobs of all accounts in these states, in any state by default, the oldest first."""
        marks = f"state IN ({', '.join('?' * len(states))})" if states else "1"
        with self._transaction() as sql:
            return read_jobs(sql, f"{marks} ORDER BY seq", *states)

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state that has some."""
        with self._transaction() as sql:
            return dict(sql.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())

    def positions(self) -> dict[str, int]:
        """Place in the queue by job, 1 being the next, where every account in turn has one job started."""
        with self._transaction() as sql:
            rows = sql.execute(
                "SELECT jobs.id FROM jobs JOIN accounts ON accounts.id = account WHERE state = 'queued' ORDER BY "
                "row_number() OVER (PARTITION BY account ORDER BY seq), turn, min(seq) OVER (PARTITION BY account)"
            )
            return {row[0]: place for place, row in enumerate(rows, 1)}

    def position(self, job_id: str) -> int | None:
        """Place of a job in the queue; None where it is not in it."""
        return self.positions().get(job_id)

    def take_job(self, worker: int, loaded: Collection[str]) -> JobRow | None:
        """The next job for a worker, which is running from now on; None where none waits.

        The account that was started longest ago goes next, and within it the oldest job; the account of the worker's
        last job may go on, `BURST` jobs in a row, while its keys are among the key ids `loaded`: loading takes time.
        """
        with self._transaction() as sql:
            account, taken = self._bursts.get(worker, ("", 0))
            found = read_jobs(sql, "account = ? AND state = 'queued' ORDER BY seq LIMIT 1", account)
            if not found or taken >= BURST or found[0].key_id not in loaded:
                taken = 0
                found = read_jobs(
                    sql,
                    "id = (SELECT jobs.id FROM jobs JOIN accounts ON accounts.id = account WHERE state = 'queued' "
                    "ORDER BY turn, seq LIMIT 1)",
                )
            if not found:
                return None
            job = found[0]
            self._bursts[worker] = job.account, taken + 1
            sql.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ? WHERE id = ?",
                (self.now(), job.id),
            )
            sql.execute("UPDATE accounts SET turn = 1 + (SELECT max(turn) FROM accounts) WHERE id = ?", (job.account,))
            return read_jobs(sql, "id = ?", job.id)[0]

    def finish_job(self, job_id: str, result_sha256: str, result_bytes: int) -> bool:
        """Says that the result of a job is on the disk. False where it was no longer wanted: cancelled, or done."""
        return self._change(
            "state = 'done', finished = ?, result = ?, result_bytes = ?, kind = NULL, message = NULL "
            "WHERE id = ? AND state IN ('running', 'queued')",
            *(self.now(), result_sha256, result_bytes, job_id),
        )

    def fail_job(self, job_id: str, kind: str, message: str) -> bool:
        """Says why a job has no result: the class of an error and its message. False where it was in a final state."""
        return self._change(
            "state = 'failed', finished = ?, kind = ?, message = ? WHERE id = ? AND state IN ('running', 'queued')",
            *(self.now(), kind[:64], message[:2000], job_id),
        )

    def requeue_job(self, job_id: str, *, counted: bool = True) -> bool:
        """Puts a running job back to where it was in the queue. False where it does not run.

        Args:
            counted: whether the attempt counts, as it does where a worker was lost, and not where the service stops.
        """
        return self._change(
            "state = 'queued', started = NULL, attempts = attempts - ? WHERE id = ? AND state = 'running'",
            *(not counted, job_id),
        )

    def cancel_job(self, account: str, job_id: str) -> JobRow | None:
        """Cancels a job that waits or runs, and forgets any other; returns it as it was, None where there is none.

        Whoever calls ends the worker's task of one that ran, and deletes the job's folder.
        """
        with self._transaction() as sql:
            found = read_jobs(sql, "account = ? AND id = ?", account, job_id)
            sql.execute(
                "DELETE FROM jobs WHERE account = ? AND id = ? AND state NOT IN ('queued', 'running')",
                (account, job_id),
            )
            sql.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE account = ? AND id = ?",
                (self.now(), account, job_id),
            )
        return found[0] if found else None

    def recover(self) -> int:
        """At the start: what ran when the service ended waits again, and the attempt does not count. Says how many."""
        with self._transaction() as sql:
            return sql.execute(
                "UPDATE jobs SET state = 'queued', started = NULL, attempts = attempts - 1 WHERE state = 'running'"
            ).rowcount

    def expired_jobs(self, before: float) -> list[JobRow]:
        """Jobs in a final state since before `before`."""
        with self._transaction() as sql:
            return read_jobs(sql, "finished < ? AND state NOT IN ('queued', 'running')", before)

    def forget_jobs(self, ids: Iterable[str]) -> None:
        """Removes jobs in a final state."""
        with self._transaction() as sql:
            sql.executemany(
                "DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", [(job_id,) for job_id in ids]
            )

    def _change(self, what: str, *values: Any) -> bool:
        with self._transaction() as sql:
            return sql.execute(f"UPDATE jobs SET {what}", values).rowcount == 1
