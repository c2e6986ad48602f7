"""Constants go into the linear operations after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fheinfer.compiler.passes.fold_forward import fold_forward
from fheinfer.compiler.passes.lower_arithmetic import lower_arithmetic
from fheinfer.model import ops
from tests.compiler.canonical import batch_norm, became, built, conv, linear

pytest.importorskip("torch")
RELU = ("relu", ops.Relu())
BOTH = (lower_arithmetic, fold_forward)


def folded(*nodes: Sequence[Any], outputs: tuple[str, ...] = ()) -> list[str]:
    return became(built((4, 8, 8), RELU, *nodes, outputs=outputs), *BOTH)


def test_a_batch_norm_before_each_linear_operation() -> None:
    assert folded(batch_norm("bn"), conv("c", 3)) == ["relu", "conv2d"]
    assert folded(batch_norm("bn"), conv("c", 6, groups=2)) == ["relu", "conv2d"]
    assert folded(batch_norm("bn"), linear("fc", 3)) == ["relu", "linear"]
    transposed = ("t", ops.ConvTranspose2d(6, 3, 2, 1, "t.weight", "t.bias", 1, 2))
    assert folded(batch_norm("bn"), transposed) == ["relu", "add_constant", "conv_transpose2d"]
    resample = ("r", ops.Resample((3, 3), "r.rows", "r.columns"))
    assert folded(batch_norm("bn"), resample) == ["relu", "add_constant", "resample"]


def test_padding_lacks_a_constant_but_no_factor() -> None:
    assert folded(batch_norm("bn"), conv("c", 3, padding=1)) == ["relu", "add_constant", "conv2d"]


def test_channels_that_a_factor_clears_keep_their_constant() -> None:
    start = built((4, 8, 8), RELU, batch_norm("bn"), conv("c", 3, padding=1))
    start.constants["bn.weight"][1] = 0
    assert became(start, *BOTH) == ["relu", "multiply_constant", "add_constant", "conv2d"]
    assert np.isfinite(list(map(np.sum, fold_forward(lower_arithmetic(start)).constants.values()))).all()


def test_constants_go_through_views_and_sums_of_pixels() -> None:
    views = [("r", ops.Reshape((2, 2, 64))), ("p", ops.Permute((1, 0, 2))), ("q", ops.Reshape((4, 8, 8)))]
    assert folded(batch_norm("bn"), *views, conv("c", 3)) == ["relu", "reshape", "permute", "reshape", "conv2d"]
    assert folded(batch_norm("bn"), ("s", ops.SumPool()), linear("fc", 3)) == ["relu", "sum_pool", "linear"]
    cat = ("cat", ops.Concat(0, 2), "bn relu")
    assert folded(batch_norm("bn"), cat, conv("c", 3)) == ["relu", "concat", "conv2d"]
    wide = [("e", ops.Slice(1, 0, 1)), batch_norm("bn"), ("x", ops.Expand((4, 8, 8))), conv("c", 3)]
    assert folded(*wide) == ["relu", "slice", "expand", "conv2d"]


def test_users_that_cannot_take_a_constant_keep_it() -> None:
    others = [batch_norm("bn"), conv("c", 4, 1), ("tanh", ops.Tanh(), "bn"), ("sum", ops.Add(), "c tanh")]
    assert folded(*others) == ["relu", "multiply_constant", "add_constant", "conv2d", "tanh", "add"]
    after = built((4, 8, 8), RELU, *others)
    for one in BOTH:
        after = one(after)
    assert after.graph["c"].inputs == ("relu",)
    assert folded(batch_norm("bn"), conv("c", 4, 1), outputs=("bn", "c"))[1:3] == ["multiply_constant", "add_constant"]


def test_both_ways_to_one_layer_count() -> None:
    """The constant reaches the layer twice, through two parts of a concat."""
    parts = [("a", ops.Slice(0, 0, 3)), ("b", ops.Slice(0, 1, 4), "bn"), ("cat", ops.Concat(0, 2), "a b")]
    assert folded(batch_norm("bn"), *parts, conv("c", 3)) == ["relu", "slice", "slice", "concat", "conv2d"]
