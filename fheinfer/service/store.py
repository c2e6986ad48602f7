"""What the service knows: accounts, tokens, plans, key sets and jobs, in SQLite. Files are others' business.

Every method is one short transaction and safe to call from any thread; what it changed is on the disk when it returns.
All raise `StorageError` where the disk is full or fails, and have then changed nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import LimitError, NotFoundError, UsageError
from fheinfer.service.database import Database
from fheinfer.service.protocol import MODEL_NAME, TOKEN_PREFIX, JobState

FILE_NAME = "service.db"
BURST = 3
"""Jobs of one account that a worker takes in a row where it has the keys in memory."""
MAX_KEY_BYTES = 8 << 30
"""Bytes of keys that a new account may have."""
MAX_JOBS = 50
"""Jobs of a new account that may wait or run at once."""
MAX_KEY_SETS = 64
"""Key sets of an account, however small."""
MAX_KEPT_JOBS = 1000
"""Jobs of an account, those included whose results are still kept."""
DAY = 24 * 3600.0

Row = TypeVar("Row")


@dataclass(frozen=True)
class Account:
    """Who has tokens, keys and jobs. `operator`: may read metrics. The id names the account's folders."""

    id: str
    name: str
    operator: bool
    max_key_bytes: int
    max_jobs: int


@dataclass(frozen=True)
class TokenRow:
    """A token, without the token. Times are seconds since 1970; `revoked` is None of one that was not revoked."""

    account: str
    name: str
    created: float
    expires: float
    revoked: float | None


@dataclass(frozen=True)
class PlanRow:
    """A plan that a name means now (`until` is None), or meant and is kept until then."""

    name: str
    plan: str
    until: float | None


@dataclass(frozen=True)
class KeySetRow:
    """Keys of an account: `bytes` as their manifest claims, `complete` where all files of it are there and verified."""

    account: str
    key_id: str
    bytes: int
    complete: bool
    created: float
    used: float


@dataclass(frozen=True)
class JobRow:
    """A job. `request` and `result` are SHA-256 (hex) of input and result; `kind` and `message` are of its error."""

    id: str
    account: str
    plan: str
    key_id: str
    request: str
    state: JobState
    attempts: int
    created: float
    started: float | None
    finished: float | None
    result: str | None
    result_bytes: int | None
    kind: str | None
    message: str | None
    seconds: float


class Store:
    """The database in the file `path`, made where it is missing. `account` is an account's id everywhere.

    Raises:
        StorageError: it cannot be opened, or is damaged.
        MismatchError: written by a newer version.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database, self.now = Database(path), clock
        self._transaction, self.close = self._database.transaction, self._database.close
        self._bursts: dict[int, tuple[str, int]] = {}  # worker -> account of its last job, how many in a row

    # Accounts and tokens

    def add_token(
        self,
        name: str,
        *,
        operator: bool = False,
        days: float = 90,
        max_key_bytes: int | None = None,
        max_jobs: int | None = None,
    ) -> str:
        """A new token for the account of that name, which is made where there is none. The token is not stored.

        Args:
            max_key_bytes, max_jobs: the account's limits from now on; those that it has (or `MAX_KEY_BYTES`,
                `MAX_JOBS`) by default.

        Raises:
            UsageError: a name or a number that cannot be, or an account that is (not) an operator's.
        """
        if not re.fullmatch(MODEL_NAME, name):
            raise UsageError("the name of an account has 1 to 64 letters, digits, dots, - and _")
        if not 0 < days <= 36500 or not all(
            limit is None or 0 <= limit < 1 << 62 for limit in (max_key_bytes, max_jobs)
        ):
            raise UsageError("a token is valid for up to 36500 days, and limits are not negative")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._transaction() as sql:
            sql.execute(
                "INSERT INTO accounts (id, name, operator, max_key_bytes, max_jobs) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO NOTHING",
                (secrets.token_hex(16), name, operator, MAX_KEY_BYTES, MAX_JOBS),
            )
            account = _accounts(sql, "name = ?", name)[0]
            if account.operator != operator:
                what = "an operator" if account.operator else "no operator"
                raise UsageError(f"the account {name} is {what}; choose another name")
            sql.execute(
                "UPDATE accounts SET max_key_bytes = ifnull(?, max_key_bytes), max_jobs = ifnull(?, max_jobs) "
                "WHERE id = ?",
                (max_key_bytes, max_jobs, account.id),
            )
            now = self.now()
            sql.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, NULL)", (_hash(token), account.id, now, now + days * DAY)
            )
        return token

    def account_of(self, token: str) -> Account | None:
        """Whose token this is; None where it is nobody's, expired or revoked."""
        known = "id IN (SELECT account FROM tokens WHERE sha256 = ? AND revoked IS NULL AND expires > ?)"
        with self._transaction() as sql:
            found = _accounts(sql, known, _hash(token), self.now())
        return found[0] if found else None

    def tokens(self) -> list[TokenRow]:
        """All tokens, by account and age."""
        with self._transaction() as sql:
            rows = sql.execute(
                "SELECT account, name, created, expires, revoked FROM tokens JOIN accounts ON id = account "
                "ORDER BY name, created"
            )
            return [TokenRow(*row) for row in rows]

    def revoke(self, name: str) -> int:
        """Revokes all valid tokens of an account and says how many.

        Raises:
            NotFoundError: no account of that name.
        """
        with self._transaction() as sql:
            found = _accounts(sql, "name = ?", name)
            if not found:
                raise NotFoundError("no account of that name; `fheinfer serve token list` has them all")
            return sql.execute(
                "UPDATE tokens SET revoked = ? WHERE account = ? AND revoked IS NULL", (self.now(), found[0].id)
            ).rowcount

    # Plans

    def plans(self) -> list[PlanRow]:
        """What every name means now, and what it meant."""
        with self._transaction() as sql:
            return _rows(sql, PlanRow, "plans ORDER BY name, until IS NOT NULL, until")

    def set_plans(self, current: Mapping[str, str], keep_until: float) -> None:
        """Says which plan each name means from now on; what a name meant until now is kept until `keep_until`."""
        with self._transaction() as sql:
            for name, plan in sql.execute("SELECT name, plan FROM plans WHERE until IS NULL").fetchall():
                if current.get(name) != plan:
                    sql.execute("UPDATE plans SET until = ? WHERE name = ? AND plan = ?", (keep_until, name, plan))
            sql.executemany(
                "INSERT INTO plans VALUES (?, ?, NULL) ON CONFLICT (name, plan) DO UPDATE SET until = NULL",
                current.items(),
            )

    def drop_old_plans(self) -> list[str]:
        """Forgets plans whose time is over and that no waiting or running job needs; returns those nobody needs now."""
        old = "until <= ? AND plan NOT IN (SELECT plan FROM jobs WHERE state IN ('queued', 'running'))"
        with self._transaction() as sql:
            over = [row[0] for row in sql.execute(f"SELECT DISTINCT plan FROM plans WHERE {old}", (self.now(),))]
            sql.execute(f"DELETE FROM plans WHERE {old}", (self.now(),))
            left = {row[0] for row in sql.execute("SELECT plan FROM plans")}
        return [plan for plan in over if plan not in left]

    # Key sets

    def put_key_set(self, account: str, manifest: Manifest) -> KeySetRow:
        """Counts what a manifest claims against the account's quota, before the first byte arrives.

        Keys that are new, or claim another size than before, are not complete.

        Raises:
            LimitError: more bytes or key sets than the account may have.
        """
        with self._transaction() as sql:
            limit = _accounts(sql, "id = ?", account)[0].max_key_bytes
            others, taken = sql.execute(
                "SELECT count(*), ifnull(sum(bytes), 0) FROM key_sets WHERE account = ? AND key_id != ?",
                (account, manifest.key_id),
            ).fetchone()
            if taken + manifest.total_bytes > limit:
                raise LimitError(
                    f"these keys take {manifest.total_bytes} bytes, and {max(0, limit - taken)} of {limit} are left; "
                    "delete keys that you no longer need"
                )
            if others >= MAX_KEY_SETS:
                raise LimitError(f"an account has at most {MAX_KEY_SETS} sets of keys; delete some")
            now = self.now()
            sql.execute(
                "INSERT INTO key_sets VALUES (?, ?, ?, 0, ?, ?) ON CONFLICT (account, key_id) DO UPDATE "
                "SET complete = complete AND bytes = excluded.bytes, bytes = excluded.bytes, used = excluded.used",
                (account, manifest.key_id, manifest.total_bytes, now, now),
            )
            return _key_sets(sql, "account = ? AND key_id = ?", account, manifest.key_id)[0]

    def complete_key_set(self, account: str, manifest: Manifest) -> None:
        """Says that all files of the manifest are there, and no others are claimed."""
        with self._transaction() as sql:
            sql.execute(
                "UPDATE key_sets SET complete = 1, bytes = ? WHERE account = ? AND key_id = ?",
                (manifest.total_bytes, account, manifest.key_id),
            )

    def key_set(self, account: str, key_id: str) -> KeySetRow | None:
        """The keys of that id of this account; None where it has none."""
        with self._transaction() as sql:
            found = _key_sets(sql, "account = ? AND key_id = ?", account, key_id)
        return found[0] if found else None

    def key_sets(self, account: str | None = None) -> list[KeySetRow]:
        """All keys of an account, or of all."""
        with self._transaction() as sql:
            return _key_sets(sql, "account = ifnull(?, account) ORDER BY created", account)

    def unused_key_sets(self, before: float) -> list[KeySetRow]:
        """Keys that no job used since `before` and none waits for."""
        with self._transaction() as sql:
            return _key_sets(
                sql,
                "used < ? AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.account = key_sets.account "
                "AND jobs.key_id = key_sets.key_id AND state IN ('queued', 'running'))",
                before,
            )

    def touch_key_set(self, account: str, key_id: str) -> None:
        """Says that the keys are used now."""
        with self._transaction() as sql:
            _touch(sql, account, key_id, self.now())

    def delete_key_set(self, account: str, key_id: str) -> list[JobRow]:
        """Forgets keys, cancels the jobs that wait for them, and returns those jobs as they were.

        Raises:
            NotFoundError: the account has no such keys.
        """
        waiting = "account = ? AND key_id = ? AND state = 'queued'"
        with self._transaction() as sql:
            if not sql.execute("DELETE FROM key_sets WHERE account = ? AND key_id = ?", (account, key_id)).rowcount:
                raise NotFoundError("this account has no such keys")
            jobs = _jobs(sql, waiting, account, key_id)
            sql.execute(
                f"UPDATE jobs SET state = 'cancelled', finished = ? WHERE {waiting}", (self.now(), account, key_id)
            )
            return jobs

    def key_bytes(self, account: str) -> int:
        """Bytes of keys that the account has claimed."""
        return sum(row.bytes for row in self.key_sets(account))

    # Jobs

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
            if found := _jobs(sql, same, account, plan, key_id, request):
                return found[0], False
            now = self.now()
            if not _touch(sql, account, key_id, now):
                raise NotFoundError("this account has no such keys; upload them first")
            self._check_jobs(sql, account)
            sql.execute(
                "INSERT INTO jobs (id, account, plan, key_id, request, state, attempts, created, seconds) "
                "VALUES (?, ?, ?, ?, ?, 'queued', 0, ?, ?)",
                (job_id, account, plan, key_id, request, now, seconds),
            )
            return _jobs(sql, "id = ?", job_id)[0], True

    def _check_jobs(self, sql: sqlite3.Connection, account: str) -> None:
        limit = _accounts(sql, "id = ?", account)[0].max_jobs
        active, kept = sql.execute(
            "SELECT ifnull(sum(state IN ('queued', 'running')), 0), count(*) FROM jobs WHERE account = ?", (account,)
        ).fetchone()
        if active >= limit:
            raise LimitError(f"{active} jobs of this account wait or run, and it may have {limit}; wait for one")
        if kept >= MAX_KEPT_JOBS:
            raise LimitError(f"{kept} jobs of this account are kept, the most that can be; delete results you have")

    def job(self, account: str, job_id: str) -> JobRow | None:
        """A job of this account; None where it has no such job."""
        with self._transaction() as sql:
            found = _jobs(sql, "account = ? AND id = ?", account, job_id)
        return found[0] if found else None

    def jobs(self, account: str) -> list[JobRow]:
        """All jobs of this account, the oldest first."""
        with self._transaction() as sql:
            return _jobs(sql, "account = ? ORDER BY seq", account)

    def all_jobs(self, *states: JobState) -> list[JobRow]:
        """Jobs of all accounts in these states, in any state by default, the oldest first."""
        marks = f"state IN ({', '.join('?' * len(states))})" if states else "1"
        with self._transaction() as sql:
            return _jobs(sql, f"{marks} ORDER BY seq", *states)

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
            found = _jobs(sql, "account = ? AND state = 'queued' ORDER BY seq LIMIT 1", account)
            if not found or taken >= BURST or found[0].key_id not in loaded:
                taken = 0
                found = _jobs(
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
            return _jobs(sql, "id = ?", job.id)[0]

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
            found = _jobs(sql, "account = ? AND id = ?", account, job_id)
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
            return _jobs(sql, "finished < ? AND state NOT IN ('queued', 'running')", before)

    def forget_jobs(self, ids: Iterable[str]) -> None:
        """Removes jobs in a final state."""
        with self._transaction() as sql:
            sql.executemany(
                "DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", [(job_id,) for job_id in ids]
            )

    def _change(self, what: str, *values: Any) -> bool:
        with self._transaction() as sql:
            return sql.execute(f"UPDATE jobs SET {what}", values).rowcount == 1


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _touch(sql: sqlite3.Connection, account: str, key_id: str, now: float) -> bool:
    return bool(
        sql.execute("UPDATE key_sets SET used = ? WHERE account = ? AND key_id = ?", (now, account, key_id)).rowcount
    )


def _rows(sql: sqlite3.Connection, kind: type[Row], where: str, *values: Any) -> list[Row]:
    columns = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
    return [kind(*row) for row in sql.execute(f"SELECT {columns} FROM {where}", values)]


def _accounts(sql: sqlite3.Connection, where: str, *values: Any) -> list[Account]:
    rows = sql.execute(f"SELECT id, name, operator, max_key_bytes, max_jobs FROM accounts WHERE {where}", values)
    return [Account(id_, name, bool(operator), size, jobs) for id_, name, operator, size, jobs in rows]


def _key_sets(sql: sqlite3.Connection, where: str, *values: Any) -> list[KeySetRow]:
    rows = sql.execute(f"SELECT account, key_id, bytes, complete, created, used FROM key_sets WHERE {where}", values)
    return [KeySetRow(owner, key, size, bool(whole), made, used) for owner, key, size, whole, made, used in rows]


def _jobs(sql: sqlite3.Connection, where: str, *values: Any) -> list[JobRow]:
    return _rows(sql, JobRow, f"jobs WHERE {where}", *values)
