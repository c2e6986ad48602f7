"""Levels that polynomials consume."""

from __future__ import annotations

from fheinfer import _core

_OURS, _OPENFHE = (_core.LevelModel(0, 0, 0, openfhe_series=openfhe) for openfhe in (False, True))


def series_levels(degree: int) -> int:
    """ceil(log2(degree + 1)): what a Chebyshev series takes in the native evaluator, and the least there is."""
    return _OURS.chebyshev_depth(degree)


def openfhe_series_levels(degree: int) -> int:
    """What the same series takes in OpenFHE's EvalChebyshevSeries; a composition pays the difference at every stage.

    Raises:
        UsageError: OpenFHE has no entry for this degree.
    """
    return _OPENFHE.chebyshev_depth(degree)
