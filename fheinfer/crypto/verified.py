"""Remembers, from one process to the next, which key files had the checksum in their header.

A file is known by device, inode, size and the times of its last change (mtime and ctime, in nanoseconds): whoever
writes to it changes its ctime, whatever else is set back. Damage below the file system changes neither, so a file is
checked again after `MAX_AGE`. The memory is one file in the user's cache, and is used only where nobody else could have
written it; without it all files are checked, which is slower and nothing else.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fheinfer.errors import FheinferError
from fheinfer.storage import cache_folder, read_small, write_json

MAX_AGE = 7 * 24 * 3600
"""Seconds after which a file is checked again."""
SETTLED = 2.0
"""Seconds a file must have been left alone: within a tick of the clock a second change would not show in its ctime."""
MAX_ENTRIES = 4096
MAX_BYTES = 1 << 20


def default_path() -> Path:
    """`verified.json` in the user's cache folder."""
    return cache_folder() / "verified.json"


class VerifiedFiles:
    """Files whose checksum was right; see the module. Threads may share one. `save` writes what is new.

    Args:
        path: of the memory; `default_path()` by default.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or default_path()
        self._lock = threading.Lock()
        self._known = _load(self._path)
        self._new: dict[str, tuple[str, float]] = {}

    def knows(self, status: os.stat_result, checksum: bytes) -> bool:
        """Whether the file with this status was found to have this checksum."""
        checked, when = self._known.get(_name(status), ("", 0.0))
        return checked == checksum.hex() and 0 <= time.time() - when < MAX_AGE

    def remember(self, status: os.stat_result, checksum: bytes) -> None:
        """That a file, which had this status before it was read and has it still, has this checksum."""
        if not self.knows(status, checksum) and time.time() - status.st_ctime > SETTLED:
            with self._lock:
                self._new[_name(status)] = (checksum.hex(), time.time())

    def save(self) -> None:
        """Writes the memory, with what other processes added meanwhile; where that is impossible, does nothing."""
        with self._lock:
            if not self._new:
                return
            self._known = _newest({**_load(self._path), **self._new})
            self._new = {}
            with suppress(OSError, FheinferError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if _ours(os.lstat(self._path.parent)):
                    write_json(self._path, self._known, mode=0o600)


def same_file(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether nobody wrote to a file between these two looks at it."""
    return _name(before) == _name(after)


def _name(status: os.stat_result) -> str:
    fields = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, fields))


def _ours(status: os.stat_result) -> bool:
    """Whether only this user can have written here."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _load(path: Path) -> dict[str, tuple[str, float]]:
    try:
        if not _ours(os.lstat(path.parent)) or not _ours(os.lstat(path)):
            return {}
        found = json.loads(read_small(path, MAX_BYTES))
    except (OSError, ValueError, RecursionError, FheinferError):
        return {}
    if not isinstance(found, dict):
        return {}
    return _newest({name: (entry[0], entry[1]) for name, entry in found.items() if _is_entry(entry)})


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [str, float]


def _newest(entries: dict[str, tuple[str, float]]) -> dict[str, tuple[str, float]]:
    latest = sorted(entries.items(), key=lambda item: item[1][1], reverse=True)
    return dict(latest[:MAX_ENTRIES])
