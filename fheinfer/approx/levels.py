"""Levels that polynomials consume."""

from __future__ import annotations

_OPENFHE_LAST = (5, 13, 27, 59, 119, 247, 495, 1007, 2031)
"""The highest degree that costs 3, 4, 5, ... levels (OpenFHE 1.4.2, FUNCTION_EVALUATION.md, on [-1, 1])."""


def series_levels(degree: int) -> int:
    """ceil(log2(degree + 1)): what a Chebyshev series takes in the native evaluator, and the least there is."""
    return degree.bit_length()


def openfhe_series_levels(degree: int) -> int:
    """What the same series takes in OpenFHE's EvalChebyshevSeries; a composition pays the difference at every stage.

    Raises:
        ValueError: OpenFHE has no entry for this degree.
    """
    for level, last in enumerate(_OPENFHE_LAST, start=3):
        if 1 <= degree <= last:
            return level
    raise ValueError(f"degree {degree} is not between 1 and {_OPENFHE_LAST[-1]}")
