"""Which keys accounts have, counted against their quotas; and which plans the names of models mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import LimitError, NotFoundError
from fheinfer.service.database import Tables
from fheinfer.service.rows import (
    JobRow,
    KeySetRow,
    PlanRow,
    read_accounts,
    read_jobs,
    read_key_sets,
    read_rows,
)

MAX_KEY_SETS = 64
"""Key sets of an account, however small."""


class QuotaError(LimitError):
    """No room until something is deleted: waiting, which a service advises otherwise, makes none."""

    retry_after = None


class Plans(Tables):
    """Part of `store.Store`."""

    def plans(self) -> list[PlanRow]:
        """What every name means now, and what it meant."""
        with self._transaction() as sql:
            return read_rows(sql, PlanRow, "plans ORDER BY name, until IS NOT NULL, until")

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


class KeySets(Tables):
    """Part of `store.Store`."""

    def put_key_set(self, account: str, manifest: Manifest) -> KeySetRow:
        """Counts what a manifest claims against the account's quota, before the first byte arrives.

        Keys that are new, or claim another size than before, are not complete.

        Raises:
            LimitError: more bytes or key sets than the account may have.
        """
        with self._transaction() as sql:
            limit = read_accounts(sql, "id = ?", account)[0].max_key_bytes
            others, taken = sql.execute(
                "SELECT count(*), ifnull(sum(bytes), 0) FROM key_sets WHERE account = ? AND key_id != ?",
                (account, manifest.key_id),
            ).fetchone()
            if taken + manifest.total_bytes > limit:
                raise QuotaError(
                    f"these keys take {manifest.total_bytes} bytes, and {max(0, limit - taken)} of {limit} are left; "
                    "delete keys that you no longer need"
                )
            if others >= MAX_KEY_SETS:
                raise QuotaError(f"an account has at most {MAX_KEY_SETS} sets of keys; delete some")
            now = self.now()
            sql.execute(
                "INSERT INTO key_sets VALUES (?, ?, ?, 0, ?, ?) ON CONFLICT (account, key_id) DO UPDATE "
                "SET complete = complete AND bytes = excluded.bytes, bytes = excluded.bytes, used = excluded.used",
                (account, manifest.key_id, manifest.total_bytes, now, now),
            )
            return read_key_sets(sql, "account = ? AND key_id = ?", account, manifest.key_id)[0]

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
            found = read_key_sets(sql, "account = ? AND key_id = ?", account, key_id)
        return found[0] if found else None

    def key_sets(self, account: str | None = None) -> list[KeySetRow]:
        """All keys of an account, or of all."""
        with self._transaction() as sql:
            return read_key_sets(sql, "account = ifnull(?, account) ORDER BY created", account)

    def unused_key_sets(self, before: float) -> list[KeySetRow]:
        """Keys that no job used since `before` and none waits for."""
        with self._transaction() as sql:
            return read_key_sets(
                sql,
                "used < ? AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.account = key_sets.account "
                "AND jobs.key_id = key_sets.key_id AND state IN ('queued', 'running'))",
                before,
            )

    def touch_key_set(self, account: str, key_id: str) -> None:
        """Says that the keys are used now."""
        with self._transaction() as sql:
            touch(sql, account, key_id, self.now())

    def delete_key_set(self, account: str, key_id: str) -> list[JobRow]:
        """Forgets keys, cancels the jobs that wait for them, and returns those jobs as they were.

        Raises:
            NotFoundError: the account has no such keys.
        """
        waiting = "account = ? AND key_id = ? AND state = 'queued'"
        with self._transaction() as sql:
            if not sql.execute("DELETE FROM key_sets WHERE account = ? AND key_id = ?", (account, key_id)).rowcount:
                raise NotFoundError("this account has no such keys")
            jobs = read_jobs(sql, waiting, account, key_id)
            sql.execute(
                f"UPDATE jobs SET state = 'cancelled', finished = ? WHERE {waiting}", (self.now(), account, key_id)
            )
            return jobs

    def key_bytes(self, account: str) -> int:
        """Bytes of keys that the account has claimed."""
        return sum(row.bytes for row in self.key_sets(account))


def touch(sql: sqlite3.Connection, account: str, key_id: str, now: float) -> bool:
    """Says that keys are used now; False where the account has none of that id."""
    return bool(
        sql.execute("UPDATE key_sets SET used = ? WHERE account = ? AND key_id = ?", (now, account, key_id)).rowcount
    )
