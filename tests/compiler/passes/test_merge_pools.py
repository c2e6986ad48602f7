"""Average pools as part of the linear operations beside them."""

from __future__ import annotations

import functools

import pytest

from fheinfer.compiler.passes.canonicalise import canonicalise
from fheinfer.model import ops
from tests.compiler.canonical import became, built, conv, linear

pytest.importorskip("torch")
RELU, POOL = ("relu", ops.Relu()), ("pool", ops.MeanPool(2))
without = functools.partial(canonicalise, pools=False)


def test_a_pool_goes_into_the_convolution_after_it() -> None:
    start = built((4, 8, 8), RELU, POOL, conv("c", 4, 3, padding=1))
    assert became(start, canonicalise) == ["relu", "conv2d"]
    assert became(start, without) == ["relu", "conv2d", "conv2d"]
    op = canonicalise(start).graph["c"].op
    assert isinstance(op, ops.Conv2d)
    assert (op.kernel, op.stride, op.padding, op.groups) == ((6, 6), (2, 2), (2, 2, 2, 2), 1)


def test_a_pool_goes_into_the_convolution_before_it() -> None:
    start = built((4, 8, 8), RELU, conv("c", 4, 3, padding=1), POOL, ("tanh", ops.Tanh()))
    assert became(start, canonicalise) == ["relu", "conv2d", "tanh"]
    assert became(start, without) == ["relu", "conv2d", "tanh"]  # fewer multiplications, too
    wide = built((4, 8, 8), RELU, conv("c", 4, 3, padding=1), ("pool", ops.MeanPool(3, 1, 1)), ("tanh", ops.Tanh()))
    assert became(wide, without) == ["relu", "conv2d", "conv2d", "tanh"]


def test_a_pool_goes_into_a_linear_layer() -> None:
    assert became(built((4, 8, 8), RELU, POOL, linear("fc", 3)), canonicalise) == ["relu", "linear"]


def test_a_pool_that_leaves_pixels_out_stays_before_padding() -> None:
    """The zeros beside the pool's output are no means of the pixels that it leaves out."""
    assert became(built((4, 7, 7), RELU, POOL, conv("c", 4, 3, padding=1)), canonicalise) == [
        "relu",
        "conv2d",
        "conv2d",
    ]
    assert became(built((4, 7, 7), RELU, POOL, conv("c", 4, 3)), canonicalise) == ["relu", "conv2d"]


def test_a_pool_that_others_read_stays() -> None:
    shared = [RELU, POOL, conv("c", 4, 3, padding=1), ("tanh", ops.Tanh()), ("sum", ops.Add(), "tanh pool")]
    assert became(built((4, 8, 8), *shared), canonicalise) == ["relu", "conv2d", "conv2d", "tanh", "add"]
