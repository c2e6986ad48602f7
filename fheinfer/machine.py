"""How much memory there is, and how much this process has used."""

from __future__ import annotations

import resource
from pathlib import Path

from fheinfer.errors import NotEnoughMemoryError

_GIB = 2**30


def available_memory() -> int | None:
    """Bytes a new program can have without swapping, as the kernel estimates it, or None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def require_memory(needed: int, what: str) -> None:
    """Asks before starting.

    Raises:
        NotEnoughMemoryError: with both figures.
    """
    available = available_memory()
    if available is not None and available < needed:
        raise NotEnoughMemoryError(
            f"{what} needs about {needed / _GIB:.1f} GiB of memory and {available / _GIB:.1f} GiB are "
            "free; close other programs or choose a smaller set (`fheinfer sets`)"
        )


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
