"""Temporary files that say whose they are, and what killed processes left of them.

A name is `.fheinfer-<place>-<pid>-<start>-<random>.tmp`: place identifies the running system and its table of
processes (a container has its own), and the start time tells a process from a later one with the same number.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

PROC = Path("/proc")
STALE = 24 * 3600.0
"""Seconds after which a temporary file of another system (another container, another host, before a reboot) that nobody
wrote to is taken for a leftover: whether its process lives cannot be seen from here."""

_UNKNOWN = "00000000"
_NAME = re.compile(r"\.fheinfer-(?:([0-9a-f]{8})-(\d+)-(\d+)-)?[0-9a-f]{16}\.tmp")


def temporary_sibling(path: Path) -> Path:
    """A fresh name in the folder of `path` that carries this process, short enough for every file system."""
    pid = os.getpid()
    return path.parent / f".fheinfer-{_place(PROC)}-{pid}-{_start(pid, PROC) or 0}-{secrets.token_hex(8)}.tmp"


def leftovers(folder: Path, proc: Path = PROC) -> list[Path]:
    """Temporary files and folders in `folder` whose process is gone. They may hold secrets, and may be deleted."""
    try:
        names = [match for path in sorted(folder.iterdir()) if (match := _NAME.fullmatch(path.name))]
    except (OSError, ValueError):
        return []
    return [folder / match[0] for match in names if _abandoned(folder / match[0], match, proc)]


def remove_leftovers(folder: Path, proc: Path = PROC) -> list[Path]:
    """Deletes them and returns those that are gone; `leftovers` names those that may not be deleted."""
    found = leftovers(folder, proc)
    for path in found:
        with suppress(OSError):
            # A link is removed, never what it leads to.
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()
    return [path for path in found if not os.path.lexists(path)]


def _abandoned(path: Path, match: re.Match[str], proc: Path) -> bool:
    place, pid, start = match.groups()
    if place is not None and place == _place(proc) != _UNKNOWN:
        running = _start(int(pid), proc)
        return not _hidden(int(pid)) if running is None else running != int(start)
    try:
        return time.time() - _newest(path) > STALE
    except OSError:
        return False


def _newest(path: Path) -> float:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    return max(float(p.lstat().st_mtime) for p in (path, *inside))


@cache
def _place(proc: Path) -> str:
    """Eight digits for this boot and this table of processes."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text()
        return hashlib.sha256(f"{boot}{(proc / 'self/ns/pid').readlink()}".encode()).hexdigest()[:8]
    except OSError:
        return _UNKNOWN


def _start(pid: int, proc: Path) -> int | None:
    """When a process started, in ticks since boot; None where there is none of that number, or only its remains."""
    try:
        fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _hidden(pid: int) -> bool:
    """There is such a process, of another user, and /proc is mounted so that it does not show."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False
