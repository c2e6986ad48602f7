"""Average pools and resampling as convolutions of each channel."""

from __future__ import annotations

import numpy as np
import pytest

from fheinfer.compiler.passes.lower_pools import lower_pools, moved_copies
from fheinfer.compiler.program import Program
from fheinfer.model import ops
from tests.compiler.canonical import became, built

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("pool", "kinds"),
    [
        (ops.MeanPool(2), ["conv2d"]),
        (ops.MeanPool((2, 3), (1, 2)), ["conv2d"]),
        (ops.MeanPool(3, 2, 1), ["conv2d"]),
        (ops.MeanPool(3, 2, (1, 0, 0, 1)), ["conv2d"]),
        (ops.MeanPool(3, 2, 1, count_include_pad=False), ["resample"]),
        (ops.MeanPool((8, 4)), ["sum_pool", "multiply_constant", "reshape"]),
    ],
)
def test_a_mean_pool(pool: ops.MeanPool, kinds: list[str]) -> None:
    assert became(built((3, 8, 4), ("pool", pool)), lower_pools) == kinds


def resampled(rows: np.ndarray, columns: np.ndarray, channels: int = 3, gain: bool = False) -> Program:
    op = ops.Resample((len(rows), len(columns)), "r.rows", "r.columns", "r.gain" if gain else None)
    start = built((channels, rows.shape[1], columns.shape[1]), ("r", op))
    start.constants["r.rows"], start.constants["r.columns"] = rows, columns  # type: ignore[index]
    return start


def means(size: int, out: int) -> np.ndarray:
    """What torch's adaptive pools compute along an axis."""
    rows = np.zeros((out, size))
    for i in range(out):
        first, end = i * size // out, -(-(i + 1) * size // out)
        rows[i, first:end] = 1 / (end - first)
    return rows


@pytest.mark.parametrize("gain", [False, True])
def test_resampling_that_is_a_pool_is_a_convolution(gain: bool) -> None:
    assert became(resampled(means(12, 4), means(6, 6), gain=gain), lower_pools) == ["conv2d"]
    assert became(resampled(means(7, 3), means(7, 2), gain=gain), lower_pools) == ["conv2d"]
    assert became(resampled(means(7, 4), means(7, 2), gain=gain), lower_pools) == ["resample"]
    assert became(resampled(np.eye(9)[1::3], np.eye(5, 4, -1), gain=gain), lower_pools) == ["resample"]
    assert became(resampled(np.eye(9)[::3], np.eye(5, 4, -1), gain=gain), lower_pools) == ["conv2d"]


def test_resampling_to_one_pixel_is_a_sum() -> None:
    assert became(resampled(means(4, 1), means(8, 1)), lower_pools) == ["sum_pool", "multiply_constant", "reshape"]


def test_rows_that_are_moved_copies() -> None:
    found = moved_copies(means(6, 3))
    assert found is not None
    window, weights = found
    assert (window.first, window.count, window.stride) == (0, 2, 2)
    assert weights.tolist() == [0.5, 0.5]
    assert moved_copies(means(7, 4)) is None
    assert moved_copies(np.repeat(np.eye(4), 2, axis=0)) is None
