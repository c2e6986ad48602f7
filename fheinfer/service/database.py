"""The database of the service: its tables, one connection under a lock, and SQLite's failures as typed errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fheinfer.errors import MismatchError, StorageError
from fheinfer.storage import PRIVATE, shown, storage_errors

VERSION = 1
"""Of the tables, as `PRAGMA user_version` has it."""
PATIENCE = 10.0
"""Seconds to wait for another process that writes: `fheinfer serve token add` beside a running service."""

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE accounts (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, operator INTEGER NOT NULL,
    max_key_bytes INTEGER NOT NULL, max_jobs INTEGER NOT NULL,
    turn INTEGER NOT NULL DEFAULT 0  -- larger, the later a job of this account was started
);
CREATE TABLE tokens (
    sha256 BLOB PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts,
    created REAL NOT NULL, expires REAL NOT NULL, revoked REAL
);
CREATE TABLE plans (
    name TEXT NOT NULL, plan TEXT NOT NULL,
    until REAL,  -- NULL where the name means this plan now
    PRIMARY KEY (name, plan)
);
CREATE TABLE key_sets (
    account TEXT NOT NULL REFERENCES accounts, key_id TEXT NOT NULL,
    bytes INTEGER NOT NULL, complete INTEGER NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    PRIMARY KEY (account, key_id)
);
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, account TEXT NOT NULL REFERENCES accounts,
    plan TEXT NOT NULL, key_id TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, result TEXT, result_bytes INTEGER, kind TEXT, message TEXT,
    seconds REAL NOT NULL
);
CREATE UNIQUE INDEX one_job_per_request ON jobs (account, plan, key_id, request) WHERE state != 'cancelled';
CREATE INDEX jobs_by_state ON jobs (state, seq);
CREATE INDEX jobs_by_account ON jobs (account, state, seq);
PRAGMA user_version = {VERSION};
COMMIT;
"""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_FAILED = {
    sqlite3.SQLITE_IOERR: "its disk fails",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "no permission",
    sqlite3.SQLITE_BUSY: "another process is writing to it",
    sqlite3.SQLITE_LOCKED: "another process is writing to it",
    sqlite3.SQLITE_NOMEM: "SQLite has no memory left",
}


class Database:
    """One connection to a file, for all threads of a process: what is committed is on the disk (synchronous=FULL).

    Raises:
        StorageError: the file cannot be opened, is no database or is damaged.
        MismatchError: written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        with storage_errors(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))  # SQLite would use the umask
        with self._errors():
            self._sql = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            self._sql.execute("PRAGMA journal_mode = WAL")
            self._sql.execute("PRAGMA synchronous = FULL")
            self._sql.execute("PRAGMA foreign_keys = ON")
            self._make_tables()

    def _make_tables(self) -> None:
        if self._version() == 0:
            try:
                self._sql.executescript(_SCHEMA)
            except sqlite3.OperationalError:  # another process made them meanwhile
                self._roll_back()
                if self._version() == 0:
                    raise
        if self._version() != VERSION:
            raise MismatchError(
                f"{shown(self._path)}: version {self._version()} of the service's data and this program reads "
                f"{VERSION}; use the fheinfer that wrote it, or another --data folder"
            )

    def _version(self) -> int:
        return int(self._sql.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one transaction that has the database for itself: committed at the end, or undone.

        Raises:
            StorageError: the disk is full or fails; nothing was changed.
        """
        with self._lock, self._errors():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield self._sql
                self._sql.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def close(self) -> None:
        """Closes the connection; nothing works afterwards."""
        with self._lock:
            self._sql.close()

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # SQLite may have undone it by itself
            self._sql.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code, name = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF, shown(self._path)
            if code == sqlite3.SQLITE_FULL:
                raise StorageError(f"the disk is full while writing {name}; free some space") from error
            if code in _DAMAGED:
                raise StorageError(f"{name} is damaged or no database ({error}); restore it from a backup") from error
            if code in _FAILED:
                raise StorageError(f"cannot use {name}: {_FAILED[code]} ({error}); check the disk") from error
            raise


class Tables:
    """What the parts of `store.Store` share: the database, and the clock."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database, self.now = Database(path), clock
        self._transaction, self.close = self._database.transaction, self._database.close
