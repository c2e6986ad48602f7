"""Levels that polynomials consume."""

from __future__ import annotations

from fheinfer import _core

_OURS, _OPENFHE = (_core.LevelModel(0, 0, 0, openfhe_series=openfhe) for openfhe in (False, True))


def series_levels(degree: int) -> int:
    """Returns ceil(log2(degree + 1)): the levels of a Chebyshev series in the native evaluator, the minimum."""
    return _OURS.chebyshev_depth(degree)


def openfhe_series_levels(degree: int) -> int:
    """Returns the levels of the same series in OpenFHE's EvalChebyshevSeries. Every stage pays the difference.

    Raises:
        UsageError: OpenFHE has no entry for this degree.
    """
    return _OPENFHE.chebyshev_depth(degree)
