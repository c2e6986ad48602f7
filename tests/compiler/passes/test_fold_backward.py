"""Constants go into the linear operation before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fheinfer.compiler.passes.fold_backward import fold_backward
from fheinfer.compiler.passes.lower_arithmetic import lower_arithmetic
from fheinfer.model import ops
from fheinfer.model.ops import Op
from tests.compiler.canonical import batch_norm, became, built, conv, linear

pytest.importorskip("torch")
RELU = ("relu", ops.Relu())
TRANSPOSED = ops.ConvTranspose2d(6, 3, 2, 1, "t.weight", "t.bias", 1, 2)
BOTH = (lower_arithmetic, fold_backward)


def folded(*nodes: Sequence[Any], outputs: tuple[str, ...] = ()) -> list[str]:
    return became(built((4, 8, 8), *nodes, outputs=outputs), *BOTH)


def test_a_batch_norm_after_each_linear_operation() -> None:
    assert folded(conv("c", 5), batch_norm("bn"), RELU) == ["conv2d", "relu"]
    assert folded(conv("c", 6, groups=2), batch_norm("bn"), RELU) == ["conv2d", "relu"]
    assert folded(("c", ops.Conv2d(5, 3, 1, 1, "c.weight")), batch_norm("bn"), RELU) == ["conv2d", "relu"]
    assert folded(("t", TRANSPOSED), batch_norm("bn"), RELU) == ["conv_transpose2d", "relu"]
    assert folded(linear("fc", 3), batch_norm("bn"), RELU) == ["linear", "relu"]
    resample = ("r", ops.Resample((3, 3), "r.rows", "r.columns"))
    assert folded(resample, batch_norm("bn"), RELU) == ["resample", "add_constant", "relu"]


def test_the_result_has_the_name_of_the_batch_norm() -> None:
    after = built((4, 8, 8), conv("c", 5), batch_norm("bn"))
    for one in BOTH:
        after = one(after)
    assert [node.name for node in after.graph] == ["input", "bn"]


def test_nothing_is_folded_into_what_others_read() -> None:
    shared = [conv("c", 4), batch_norm("bn"), ("sum", ops.Add(), "c bn")]
    assert folded(*shared) == ["conv2d", "multiply_constant", "add_constant", "add"]
    assert folded(conv("c", 4), batch_norm("bn"), outputs=("c", "bn")) == [
        "conv2d",
        "multiply_constant",
        "add_constant",
    ]
    assert folded(RELU, batch_norm("bn")) == ["relu", "multiply_constant", "add_constant"]


def test_constants_go_through_sums_and_views() -> None:
    two = [conv("a", 4, padding=1), (*conv("b", 4, padding=1), "input")]
    assert folded(*two, ("sum", ops.Add(), "a b"), batch_norm("bn")) == ["conv2d", "conv2d", "add"]
    assert folded(*two, ("d", ops.Subtract(), "a b")) == ["conv2d", "conv2d", "add"]
    assert folded(*two, ("cat", ops.Concat(0, 2), "a b"), batch_norm("bn")) == ["conv2d", "conv2d", "concat"]
    views = [("r", ops.Reshape((2, 2, 64))), ("p", ops.Permute((1, 0, 2))), ("q", ops.Reshape((4, 8, 8)))]
    assert folded(two[0], *views, batch_norm("bn")) == ["conv2d", "reshape", "permute", "reshape"]
    assert folded(two[0], ("s", ops.Slice(0, 1, 3)), batch_norm("bn")) == ["conv2d", "slice"]
    assert folded(two[0], ("s", ops.SumPool()), batch_norm("bn")) == ["conv2d", "sum_pool"]
    whole = ("m", ops.AddConstant("m.value", (4, 8, 8)))
    assert folded(two[0], whole) == ["conv2d", "add_constant"]  # no bias per pixel
    features = [linear("fc", 12), ("r", ops.Reshape((3, 2, 2)))]
    times = ("m", ops.MultiplyConstant("m.value", (3, 2, 2)))
    assert folded(*features, times, whole_of(times)) == ["linear", "reshape"]


def whole_of(node: tuple[str, Op]) -> tuple[str, Op]:
    return "plus", ops.AddConstant("plus.value", (3, 2, 2))


def test_one_addend_is_enough_for_a_term() -> None:
    nodes = [conv("c", 4, padding=1), RELU, ("d", *conv("d", 4, padding=1)[1:], "input")]
    plus = ("plus", ops.AddConstant("plus.value", (4, 1, 1)))
    assert folded(*nodes, ("sum", ops.Add(), "relu d"), plus) == ["conv2d", "relu", "conv2d", "add"]
