"""How fast this machine is at one limb: the transforms, and the products of a base conversion, on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from fheinfer._core import ring

_BATCH = 16
"""Limbs that the measured base conversion reads, and limbs that it writes."""


def instruction_sets() -> tuple[str, list[str]]:
    """Returns the instruction set in use, and all that this machine has."""
    return ring.cpu_form(), ring.cpu_forms()


def ntt_seconds(n: int, p: int, repeats: int, instruction_set: str = "") -> tuple[float, float]:
    """Measures the forward and the inverse transform of n residues modulo p: medians.

    Args:
        instruction_set: one of `instruction_sets`; the one in use where it is empty.
    """
    usual = ring.cpu_form()
    ntt = ring.Ntt(n, p, _limb(n, p).psi)
    ring.set_cpu_form(instruction_set or usual)
    try:
        return _medians(lambda: ntt.least_ms(1), repeats)
    finally:
        ring.set_cpu_form(usual)


def openfhe_ntt_seconds(n: int, p: int, repeats: int) -> tuple[float, float]:
    """Measures OpenFHE's transforms in the same way."""
    limb = _limb(n, p)
    return _medians(lambda: limb.least_ms(1), repeats)


def conversion_seconds(n: int, p: int, repeats: int = 100) -> float:
    """Measures a base conversion of 16 limbs to 16, in the second-level cache: seconds of one limb times a constant,
    added to another; the least."""
    part = min(n, 2048)
    xs, cs = np.ones((_BATCH, part), np.uint64), np.ones((_BATCH, _BATCH), np.uint64)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        ring.linear_combinations(xs, cs, [p] * _BATCH, None)
        times.append(time.perf_counter() - began)
    return min(times) / _BATCH**2 * (n / part)


def _limb(n: int, p: int) -> ring.OpenFheLimb:
    return ring.OpenFheLimb(n, p, [1] * n, False)


def _medians(once: Callable[[], tuple[float, float]], repeats: int) -> tuple[float, float]:
    once()  # warms up
    forward, inverse = zip(*(once() for _ in range(repeats)), strict=True)
    return statistics.median(forward) / 1e3, statistics.median(inverse) / 1e3
