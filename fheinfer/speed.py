"""How fast this machine is beside the one that the cost models were fitted to: measured once, in a second, and kept.

The constants of `fheinfer/compiler/cost` are for two threads of the reference machine. A prediction is scaled in two
parts: arithmetic by the time of a number theoretic transform (NTT), memory traffic by the speed at which one thread
reads. Both are then divided by what more threads gain here.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fheinfer.errors import FheinferError
from fheinfer.machine import PROC, usable_threads
from fheinfer.storage import cache_folder, make_folder, read_json, write_json

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Speed(BaseModel):
    """ntt_ms: one NTT of N = 2^16 on one thread; read_gb_s: what one thread reads from memory, 10^9 bytes per second;
    compute_gain, read_gain: how many times as much `threads` threads do as one; load: programs that wanted to run on
    each processor meanwhile, the average of a minute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: Annotated[int, Field(ge=1)]
    ntt_ms: Positive
    read_gb_s: Positive
    compute_gain: Positive
    read_gain: Positive
    load: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


REFERENCE = Speed(threads=2, ntt_ms=0.094, read_gb_s=12.0, compute_gain=2.2 / 1.2, read_gain=2.2 / 1.2)
"""Two cores of an Intel Sapphire Rapids VM (docs/explanation/performance.md): the NTT, what a core reads while it
multiplies keys, and a bootstrap that takes 2.2 s on one core and 1.2 s on two."""
MEMORY_PART = 0.4
"""Of a bootstrap's time on the reference machine: products with keys 25 %, additions, copies, permutations 18 %."""

_LIMIT = 1 << 16  # bytes of the file
_BUSY = 0.5
"""Load from which on a measurement is not the last word."""
_KEPT = 16  # machines whose figures it holds: a home folder may be shared
_BUFFER = 64 << 20  # twice that is beyond a core's share of any cache
_P, _N = 0x3FFFFFFD20001, 1 << 16  # a prime below 2^50 with p = 1 modulo 2N


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")

    machines: Annotated[dict[str, Speed], Field(max_length=_KEPT)]


def machine_speed(file: Path | None = None) -> Speed:
    """This machine's figures, from `file` (machine.json in the user's cache folder) or measured and put there.

    What was measured beside other programs is measured again once there are much fewer of them. A file that cannot be
    used is replaced where that is possible, and otherwise left alone: it is never an error.
    """
    file = file or cache_folder() / "machine.json"
    threads = usable_threads()
    key = machine_key(threads)
    kept: dict[str, Speed] = {}
    with suppress(FheinferError, FileNotFoundError):
        kept = read_json(file, _LIMIT, _Kept).machines
    if key in kept and (kept[key].load < _BUSY or _load() > kept[key].load / 2):
        return kept[key]
    speed = measure(threads)
    others = [(other, value) for other, value in kept.items() if other != key][-(_KEPT - 1) :]
    with suppress(FheinferError):
        make_folder(file.parent, 0o700)
        write_json(file, _Kept(machines={**dict(others), key: speed}).model_dump())
    return speed


def scale_seconds(predicted: float, threads: int | None = None, speed: Speed | None = None) -> float:
    """A prediction of the cost models, for so many threads of this machine instead of two of the reference machine.

    Args:
        predicted: seconds.
        threads: those that will compute; by default all usable ones.
        speed: figures of another machine than this one.
    """
    speed = speed or machine_speed()
    threads = usable_threads() if threads is None else threads
    compute = speed.ntt_ms / REFERENCE.ntt_ms * REFERENCE.compute_gain / _gain(speed.compute_gain, speed, threads)
    read = REFERENCE.read_gb_s / speed.read_gb_s * REFERENCE.read_gain / _gain(speed.read_gain, speed, threads)
    return predicted * ((1 - MEMORY_PART) * compute + MEMORY_PART * read)


def machine_key(threads: int, proc: Path = PROC) -> str:
    """What the figures depend on: processor, threads, instruction set and the version of fheinfer."""
    try:
        lines = (proc / "cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return f"{next(named, 'unknown processor')}; {threads} threads; {_instruction_set()}; fheinfer {_version()}"


def measure(threads: int) -> Speed:
    """Takes about a second, of which all but the NTT runs once on one thread and once on all."""
    load = _load()
    compute = [_rate(_hash, n) for n in (1, threads)]
    read = [_rate(_reader(n), n) for n in (1, threads)]
    return Speed(
        threads=threads,
        ntt_ms=_ntt_ms(),
        read_gb_s=read[0] / 1e9,
        compute_gain=max(1.0, min(threads, compute[1] / compute[0])),
        read_gain=max(1.0, min(threads, read[1] / read[0])),
        load=load,
    )


def _load() -> float:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0


def _gain(all_threads: float, speed: Speed, threads: int) -> float:
    """Of so many threads: on the line between one and all that were measured; more than all gain nothing."""
    if speed.threads == 1 or threads <= 1:
        return 1.0
    return 1 + (all_threads - 1) * min(1.0, (threads - 1) / (speed.threads - 1))


def _rate(work: Callable[[int], int], threads: int, rounds: int = 3) -> float:
    """Bytes a second of that many calls at once, at best: others use this machine too. `work` leaves Python's lock."""
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            began = time.perf_counter()
            done = sum(pool.map(work, range(threads)))
            best = max(best, done / (time.perf_counter() - began))
    return best


def _hash(_: int) -> int:
    data = bytes(1 << 18)  # stays in the cache
    for _ in range(64):
        hashlib.sha256(data)
    return 64 * len(data)


def _reader(threads: int) -> Callable[[int], int]:
    """Compares two equal halves of a buffer, which reads all of it; each thread has buffers of its own."""
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    size = max(1 << 20, _BUFFER // threads)
    buffers = [ctypes.create_string_buffer(b"\1" * (2 * size), 2 * size) for _ in range(threads)]

    def read(index: int) -> int:
        start = ctypes.addressof(buffers[index])
        memcmp(start, start + size, size)
        return 2 * size

    return read


def _ntt_ms() -> float:
    """The only use of the core's timing of one forward NTT, best of many."""
    from fheinfer import _core

    return min(forward for forward, _ in _core.ntt_ms(_N, _P, 500))


def _instruction_set() -> str:
    from fheinfer import _core

    return _core.instruction_set()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fheinfer")
    except PackageNotFoundError:
        return "unknown"
