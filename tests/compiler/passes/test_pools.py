"""Pools of windows become convolutions and ReLUs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer.approx import activation
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.pools import pools
from fheinfer.compiler.passes.scales import scales
from fheinfer.errors import PlanError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import Conv2d, MaxPool, MeanPool
from tests.compiler.passes.test_approximate import depth
from tests.compiler.programs import convolution, kinds, run, small, with_levels


@pytest.mark.parametrize(
    ("op", "relu", "words"),
    [
        (MaxPool(2), False, "max_pool 'pool' must follow a ReLU"),
        (MaxPool(4), True, "max_pool 'pool': encrypted it has to be of 2x2"),
        (MaxPool(3), True, "max_pool 'pool': windows of 3 do not fill 8x8 pixels; choose .* multiples of 3"),
        (MeanPool(3), True, "mean_pool 'pool': windows of 3 do not fill 8x8"),
    ],
)
def test_pools_that_cannot_be_evaluated_say_so(op: MaxPool | MeanPool, relu: bool, words: str) -> None:
    def build(g: GraphBuilder) -> str:
        x = g.conv2d("conv", "input", 4, 3)
        return g.add("pool", op, g.activation("relu", x, "relu") if relu else x)

    with pytest.raises(PlanError, match=words):
        run(small(build), pools)


@settings(max_examples=20)
@given(st.sampled_from([2, 4]), st.sampled_from([1, 3, 5]), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_mean_pool_and_the_convolution_after_it_are_one(kernel: int, size: int, alone: bool, seed: int) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    stride = 2 if alone else 1
    before = small(lambda b: b.conv2d("conv", b.add("pool", MeanPool(kernel), "input"), 5, size, stride), seed=seed)
    after = run(before, pools)
    assert kinds(after.graph) == ["input", *["conv2d"] * stride, "linear"]
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 3, 8, 8)))
    weight = torch.from_numpy(before.constants["conv.weight"])
    expected = functional.conv2d(functional.avg_pool2d(x, kernel), weight, stride=stride, padding=size // 2)
    for node in after.graph:
        if isinstance(node.op, Conv2d):
            op, weight, _ = convolution(after, node.name)
            x = op.reference([x], {"weight": torch.from_numpy(weight)})
    assert torch.allclose(x, expected, atol=1e-12)


@pytest.mark.parametrize("sign", ["minimax:7", "minimax:10", "f1g2"])
def test_levels_of_a_max_pool_are_those_of_the_registry(sign: str) -> None:
    def build(g: GraphBuilder) -> str:
        x = g.activation("relu", g.conv2d("conv", "input", 4, 3), "relu")
        return g.conv2d("next", g.add("pool", MaxPool(2), x), 4, 3)

    made = run(small(build, activation=sign, params=with_levels(20)), pools, approximate, pack, scales)
    rounds = [depth(made, f"pool/{name}/relu") for name in ("rows", "corners")]
    assert sum(rounds) == activation(f"maxpool2:{sign}").levels
    assert rounds[0] == activation(f"max:{sign}").levels


def test_ranges_of_comparisons_follow_the_relu_before_them() -> None:
    def build(g: GraphBuilder) -> str:
        return g.add("pool", MaxPool(2), g.activation("relu", g.conv2d("conv", "input", 4, 3), "relu"))

    before = dataclasses.replace(small(build), ranges={"relu": 5.0})
    after = run(before, pools)
    assert after.ranges["pool/rows/relu"] == after.ranges["pool/corners/relu"] == 5.0 * 1.1
    assert before.ranges == {"relu": 5.0}
