"""Sums and means over axes."""

from __future__ import annotations

from itertools import combinations

import pytest

from fheinfer.compiler.passes.canonicalise import CANONICAL, canonicalise
from fheinfer.compiler.passes.lower_reductions import lower_reductions
from fheinfer.model import ops
from fheinfer.model.ops import Shape
from tests.compiler.canonical import became, built, linear

pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(6,), (3, 4), (3, 4, 8), (3, 5, 4), (2, 3, 4, 2), (2, 1, 3, 2, 2)])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
def test_every_choice_of_axes(shape: Shape, mean: bool, keepdims: bool) -> None:
    for count in range(1, len(shape) + 1):
        for axes in combinations(range(len(shape)), count):
            start = built(shape, ("r", ops.Reduce(axes, mean, keepdims)))
            assert set(became(start, lower_reductions)) <= {op.kind for op in CANONICAL}


def test_a_linear_layer_reads_the_pixels_that_rotations_would_sum_unless_it_is_large() -> None:
    start = built((3, 8, 4), ("pool", ops.GlobalAvgPool()), linear("fc", 2))
    assert became(start, lower_reductions) == ["sum_pool", "multiply_constant", "reshape", "linear"]
    assert became(start, canonicalise) == ["linear"]
    large = built((512, 32, 32), ("pool", ops.GlobalAvgPool()), linear("fc", 10))
    assert became(large, canonicalise) == ["sum_pool", "linear"]
    means = ("mean", ops.Reduce((1, 2), mean=True, keepdims=True))
    assert became(built((3, 8, 4), means, linear("fc", 2)), canonicalise) == ["linear"]


def test_images_of_any_size_are_summed_by_rotations() -> None:
    assert became(built((3, 7, 5), ("pool", ops.GlobalAvgPool()), linear("fc", 2)), canonicalise) == ["linear"]
    large = built((2048, 7, 7), ("relu", ops.Relu()), ("pool", ops.GlobalAvgPool()), linear("fc", 100))
    assert became(large, canonicalise) == ["relu", "sum_pool", "linear"]
    alone = built((3, 7, 5), ("relu", ops.Relu()), ("pool", ops.GlobalAvgPool()), ("tanh", ops.Tanh()))
    assert became(alone, canonicalise) == ["relu", "sum_pool", "multiply_constant", "tanh"]
