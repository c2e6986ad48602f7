"""How fast this machine is at one limb: the transforms, and the products of a base conversion, on one thread."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from fheinfer import _core


def instruction_sets() -> tuple[str, list[str]]:
    """Returns the instruction set in use, and all that this machine has."""
    return _core.instruction_set(), _core.instruction_sets()


def ntt_seconds(n: int, p: int, repeats: int, instruction_set: str = "") -> tuple[float, float]:
    """Measures the forward and the inverse transform of n residues modulo p: medians.

    Args:
        instruction_set: one of `instruction_sets`; the one in use where it is empty.
    """
    usual = _core.instruction_set()
    _core.set_instruction_set(instruction_set or usual)
    try:
        return _medians(_core.ntt_ms, n, p, repeats)
    finally:
        _core.set_instruction_set(usual)


def openfhe_ntt_seconds(n: int, p: int, repeats: int) -> tuple[float, float]:
    """Measures OpenFHE's transforms in the same way."""
    return _medians(_core.openfhe_ntt_ms, n, p, repeats)


def conversion_seconds(n: int, p: int) -> float:
    """Measures a base conversion: seconds of one limb times a constant, added to another; the least."""
    return _core.conversion_ms(n, p) / 1e3


def _medians(
    measure: Callable[[int, int, int], list[tuple[float, float]]], n: int, p: int, repeats: int
) -> tuple[float, float]:
    forward, inverse = zip(*measure(n, p, repeats + 1)[1:], strict=True)  # the first warms up
    return statistics.median(forward) / 1e3, statistics.median(inverse) / 1e3
