"""Two linear operations in a row as one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fheinfer.compiler.passes.merge_linear import merge_linear, merged
from fheinfer.compiler.windows import dense, grouped
from fheinfer.model import ops
from tests.compiler.canonical import became, built, conv, linear

pytest.importorskip("torch")


def test_linear_layers_are_merged_where_that_is_smaller() -> None:
    assert became(built((8,), linear("a", 6), linear("b", 4)), merge_linear) == ["linear"]
    assert became(built((8,), linear("a", 2), linear("b", 8)), merge_linear) == ["linear", "linear"]
    assert became(built((8,), linear("a", 6), linear("b", 4), outputs=("a", "b")), merge_linear) == ["linear", "linear"]


def test_convolutions_of_one_pixel_go_into_their_neighbours() -> None:
    assert became(built((4, 6, 6), conv("a", 4, 3, 2, 1), conv("b", 4, 1)), merge_linear) == ["conv2d"]
    first = ("a", ops.Conv2d(4, 1, 1, 0, "a.weight"))
    assert became(built((4, 6, 6), first, conv("b", 4, 3, padding=1)), merge_linear) == ["conv2d"]
    # A bias is one inside of the image only.
    assert became(built((4, 6, 6), conv("a", 4, 1), conv("b", 4, 3, padding=1)), merge_linear) == ["conv2d", "conv2d"]


def test_larger_products_are_left() -> None:
    separable = [conv("a", 4, 3, padding=1, groups=4), conv("b", 8, 1)]
    assert became(built((4, 6, 6), *separable), merge_linear) == ["conv2d", "conv2d"]


def test_resampling_is_merged() -> None:
    two = [
        ("a", ops.Resample((9, 4), "a.rows", "a.columns", "a.gain")),
        ("b", ops.Resample((3, 5), "b.r", "b.c", "b.g")),
    ]
    assert became(built((2, 6, 6), *two), merge_linear) == ["resample"]


def test_skipped_pixels_are_a_stride() -> None:
    slices = [("a", ops.Slice(1, 0, 7, 2)), ("b", ops.Slice(2, 0, 7, 3))]
    assert became(built((2, 7, 7), *slices, conv("c", 3, 1)), merge_linear) == ["conv2d"]
    assert became(built((2, 7, 7), *slices, conv("c", 3, 2)), merge_linear) == ["conv2d"]


WINDOWS = st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(0, 2)] * 4, *[st.integers(1, 2)] * 4, st.booleans())


@given(WINDOWS, WINDOWS, st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 4)]), st.booleans())
def test_whatever_is_merged_is_exact(
    a: tuple[int, ...], b: tuple[int, ...], groups: tuple[int, int], to_linear: bool
) -> None:
    """Any two convolutions in a row, asked to be merged whatever it costs: right, or left alone."""
    nodes = [
        (n, ops.Conv2d(4, w[:2], w[6:8], w[2:6], f"{n}.w", f"{n}.b" if w[10] else None, w[8:10], g))
        for n, w, g in zip("ab", (a, b), groups, strict=True)
    ]
    try:
        start = built((4, 7, 6), *nodes, *([linear("fc", 3)] if to_linear else []))
        _ = start.graph.shapes
    except Exception:
        return  # a kernel larger than its input
    became(start, lambda program: merged(program, lambda first, second, cheap: True))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_are_found_again(groups: int) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 6 // groups, 2, 3))
    found, count = grouped(dense(weight, groups))
    assert count == groups
    assert np.array_equal(found, weight)
