"""The rows of the service's database, as everything else sees them, and how they are read."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from fheinfer.service.protocol import JobState

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
    """A token, without the token, and its account: `id` is the start of its SHA-256, and names it where it is revoked.

    Times are seconds since 1970; `revoked` is None of one that was not revoked. `key_bytes` and `jobs` are what the
    account has now, of `max_key_bytes` and, while they wait or run, `max_jobs`.
    """

    id: str
    account: str
    name: str
    operator: bool
    created: float
    expires: float
    revoked: float | None
    key_bytes: int
    max_key_bytes: int
    jobs: int
    max_jobs: int


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


def read_rows(sql: sqlite3.Connection, kind: type[Row], where: str, *values: Any) -> list[Row]:
    columns = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
    return [kind(*row) for row in sql.execute(f"SELECT {columns} FROM {where}", values)]


def read_accounts(sql: sqlite3.Connection, where: str, *values: Any) -> list[Account]:
    rows = sql.execute(f"SELECT id, name, operator, max_key_bytes, max_jobs FROM accounts WHERE {where}", values)
    return [Account(id_, name, bool(operator), size, jobs) for id_, name, operator, size, jobs in rows]


def read_key_sets(sql: sqlite3.Connection, where: str, *values: Any) -> list[KeySetRow]:
    rows = sql.execute(f"SELECT account, key_id, bytes, complete, created, used FROM key_sets WHERE {where}", values)
    return [KeySetRow(owner, key, size, bool(whole), made, used) for owner, key, size, whole, made, used in rows]


def read_jobs(sql: sqlite3.Connection, where: str, *values: Any) -> list[JobRow]:
    return read_rows(sql, JobRow, f"jobs WHERE {where}", *values)
