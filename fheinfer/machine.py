"""How much memory and how many threads this process may use, whoever limits it: the machine, a container or a shell.

All is read from `/proc` and from the control groups that it names (mounts included), so tests give a made-up tree.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from fheinfer.errors import NotEnoughMemoryError, UsageError

PROC = Path("/proc")
_GIB = 2**30
_NO_LIMIT = 1 << 60
"""Control groups of version 1 write "no limit" as a number near 2^63."""


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that one limit still allows, what sets that limit, and what to do where it is too low."""

    bytes: int
    limit: str
    advice: str


def available_memory(proc: Path = PROC) -> int | None:
    """Bytes that this process can still take without swapping or breaking a limit, or None where nothing says."""
    free = tightest_limit(proc)
    return None if free is None else free.bytes


def tightest_limit(proc: Path = PROC) -> FreeMemory | None:
    """The limit on memory that leaves least: of the machine, of a control group (containers), or of the process."""
    return min((*_machine(), *_control_groups(proc), *_process(proc)), key=lambda free: free.bytes, default=None)


def require_memory(needed: int, what: str) -> None:
    """Refuses before the work starts where `needed` bytes are not there.

    Raises:
        NotEnoughMemoryError: with both figures, the limit that applies and what to do about it.
    """
    available = available_memory()
    if available is None or available >= needed:
        return
    tightest = tightest_limit()
    limit, advice = (tightest.limit, tightest.advice) if tightest else _MACHINE
    raise NotEnoughMemoryError(
        f"{what} needs about {needed / _GIB:.1f} GiB of memory and {available / _GIB:.1f} GiB are free {limit}; "
        f"{advice} or choose a smaller set (`fheinfer sets`)"
    )


def peak_memory(proc: Path = PROC) -> int:
    """Largest resident size of this process so far, bytes."""
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", (proc / "self" / "status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    # The kernel carries this one over an exec: a process that a large one started counts that one's size as its own.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def usable_threads(proc: Path = PROC, environment: Mapping[str, str] = os.environ) -> int:
    """Threads that can run at once: processors this process may run on, the group's quota, OMP_NUM_THREADS."""
    limits = [allowed_processors(proc)]
    asked = re.match(r"\s*(\d+)", environment.get("OMP_NUM_THREADS", ""))  # may be a list, one per nesting level
    if asked and int(asked[1]) > 0:
        limits.append(int(asked[1]))
    return min(limits)


def allowed_processors(proc: Path = PROC) -> int:
    """Processors that this process may run on, less what a control group's quota of processor time forbids."""
    quotas = [-(-quota // period) for quota, period in _processor_quotas(proc) if quota > 0 and period > 0]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def choose_threads(asked: int | None, warn: Callable[[str], object] = lambda message: None) -> int:
    """The number of threads for `--threads`; without one, all that are usable. `warn` is told of more than that.

    Raises:
        UsageError: less than one.
    """
    usable = usable_threads()
    if asked is None:
        return usable
    if asked < 1:
        raise UsageError(f"{asked} threads cannot compute anything; give --threads 1 or more, or leave it out")
    allowed = allowed_processors()
    if asked > allowed:
        warn(f"--threads {asked}: only {allowed} can run at once here, so more of them only wait for each other")
    return asked


def openmp_limit(proc: Path = PROC, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """OMP_NUM_THREADS where a quota allows fewer threads than there are processors, which is all that OpenMP counts.

    To be set before the first library that uses OpenMP is loaded; empty where it has nothing to say.
    """
    allowed = allowed_processors(proc)
    limited = allowed < len(os.sched_getaffinity(0)) and "OMP_NUM_THREADS" not in environment
    return {"OMP_NUM_THREADS": str(allowed)} if limited else {}


_MACHINE = ("on this machine", "close other programs")


def _machine() -> Iterator[FreeMemory]:
    try:
        available = psutil.virtual_memory().available
    except (OSError, RuntimeError, ValueError, KeyError):  # no /proc/meminfo, or one without the figures
        return
    yield FreeMemory(int(available), *_MACHINE)


def _process(proc: Path) -> Iterator[FreeMemory]:
    """What `ulimit` set, less what this process has."""
    status = _lines(proc / "self" / "status")
    for kind, field, flag in ((resource.RLIMIT_AS, "VmSize:", "-v"), (resource.RLIMIT_DATA, "VmData:", "-d")):
        limit, _ = resource.getrlimit(kind)
        used = next((int(line.split()[1]) * 1024 for line in status if line.startswith(field)), 0)
        if limit != resource.RLIM_INFINITY:
            advice = f"raise it by `ulimit {flag} unlimited`"
            yield FreeMemory(max(0, limit - used), f"under the limit of this process (`ulimit {flag}`)", advice)


@dataclass(frozen=True)
class _Names:
    """Files of one version of control groups: their limit, their use, and which lines of memory.stat can be dropped."""

    limit: str
    used: str
    cache: tuple[str, ...]


_MEMORY = {
    1: _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: _Names("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def _control_groups(proc: Path) -> Iterator[FreeMemory]:
    for version, folder in _groups(proc, "memory"):
        names = _MEMORY[version]
        limit, used = _number(folder / names.limit), _number(folder / names.used)
        if limit is None or limit >= _NO_LIMIT or used is None:
            continue
        # The kernel drops file pages before it kills anybody.
        stat = dict(pair for line in _lines(folder / "memory.stat") if len(pair := line.split()) == 2)
        cache = sum(int(stat.get(name, 0)) for name in names.cache)
        free = limit - max(0, used - cache)
        where = f"under the memory limit of this container or service ({folder / names.limit})"
        yield FreeMemory(max(0, min(free, limit)), where, "raise that limit")


def _processor_quotas(proc: Path) -> Iterator[tuple[int, int]]:
    """(quota, period) in microseconds, of every group that this process is in."""
    for version, folder in _groups(proc, "cpu"):
        if version == 2:
            quota, _, period = " ".join(_lines(folder / "cpu.max")).partition(" ")
            if quota.isdigit() and period.isdigit():  # otherwise "max"
                yield int(quota), int(period)
        else:
            yield _number(folder / "cpu.cfs_quota_us") or 0, _number(folder / "cpu.cfs_period_us") or 0


def _groups(proc: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """(version, folder) of every group this process is in that has this controller, from its own up to the mount."""
    mounts = list(_mounts(proc))
    for line in _lines(proc / "self" / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mounted, options, root, point in mounts:
            if mounted == version and (version == 2 or controller in options):
                # A container sees its own group as the root of the mount, under a path that it may not see.
                inner = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
                own = point if ".." in inner.parts else point / inner
                yield from ((version, folder) for folder in (own, *own.parents) if folder.is_relative_to(point))
                break


def _mounts(proc: Path) -> Iterator[tuple[int, list[str], str, Path]]:
    """(version, controllers, root, mount point) of every mount of control groups."""
    for line in _lines(proc / "self" / "mountinfo"):
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            root, point = (re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), f) for f in fields[3:5])
            yield 2 if kind[0] == "cgroup2" else 1, kind[2].split(","), root, Path(point)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no such file, or it says "max"."""
    text = "".join(_lines(path)).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None
