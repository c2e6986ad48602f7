"""Views in a row, and views that do nothing."""

from __future__ import annotations

import pytest

from fheinfer.compiler.passes.simplify_views import simplify_views
from fheinfer.model import ops
from tests.compiler.canonical import became, built, linear

pytest.importorskip("torch")
RELU = ("relu", ops.Relu())


def test_views_in_a_row_are_one() -> None:
    reshapes = [("a", ops.Reshape((4, 6))), ("b", ops.Reshape((8, 3)))]
    assert became(built((2, 3, 4), *reshapes, RELU), simplify_views) == ["reshape", "relu"]
    permutes = [("a", ops.Permute((1, 2, 0))), ("b", ops.Permute((0, 2, 1)))]
    assert became(built((2, 3, 4), *permutes, RELU), simplify_views) == ["permute", "relu"]
    slices = [("a", ops.Slice(1, 1, 9, 3)), ("b", ops.Slice(1, 1, 3))]
    assert became(built((2, 9, 4), *slices, RELU), simplify_views) == ["slice", "relu"]


def test_views_that_do_nothing_go() -> None:
    nothing = [
        ("a", ops.Reshape((2, 1, 4))),
        ("b", ops.Permute((0, 1, 2))),
        ("c", ops.Slice(2, 0, 4)),
        ("d", ops.Expand((2, 1, 4))),
        ("e", ops.Concat(0, 1)),
        ("f", ops.Permute((1, 0, 2))),
        ("g", ops.Permute((1, 0, 2))),
    ]
    assert became(built((2, 1, 4), *nothing, RELU), simplify_views) == ["relu"]
    assert became(built((2, 1, 4), ("a", ops.Permute((1, 0, 2))), RELU), simplify_views) == ["reshape", "relu"]
    assert became(built((2, 3), ("out", ops.Reshape((2, 3)))), simplify_views) == [
        "reshape"
    ]  # outputs keep their names


def test_parts_of_a_concat() -> None:
    halves = [("a", ops.Slice(0, 0, 2)), ("b", ops.Slice(0, 2, 5), "input")]
    joined = [*halves, ("cat", ops.Concat(0, 2), "a b"), RELU]
    assert became(built((6, 3), *joined), simplify_views) == ["slice", "relu"]
    turned = [*halves, ("cat", ops.Concat(0, 2), "b a"), RELU]
    assert became(built((6, 3), *turned), simplify_views) == ["slice", "slice", "concat", "relu"]
    part = [RELU, ("cat", ops.Concat(0, 2), "input relu"), ("part", ops.Slice(0, 7, 9)), ("tanh", ops.Tanh())]
    assert became(built((6, 3), *part), simplify_views) == ["relu", "slice", "tanh"]


def test_a_linear_layer_takes_the_order_of_what_it_reads() -> None:
    views = [RELU, ("a", ops.Permute((2, 0, 1))), ("b", ops.Reshape((24,)))]
    assert became(built((2, 3, 4), *views, linear("fc", 3)), simplify_views) == ["relu", "linear"]
    repeated = [RELU, ("a", ops.Expand((2, 3, 5)))]
    assert became(built((2, 1, 5), *repeated, linear("fc", 3)), simplify_views) == ["relu", "linear"]


def test_two_values_that_are_one() -> None:
    same = ("same", ops.Permute((0, 1)))
    assert became(built((2, 3), same, ("p", ops.Product(), "input same")), simplify_views) == ["power"]
    assert became(built((2, 3), same, ("s", ops.Add(), "input same")), simplify_views) == ["multiply_constant"]
