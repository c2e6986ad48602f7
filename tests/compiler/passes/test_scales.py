"""Scales: a polynomial sees its range as one, and no value changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.canonicalise import canonicalise
from fheinfer.compiler.passes.max_pools import max_pools
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.scales import scales
from fheinfer.errors import PlanError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import Add, Chebyshev, Conv2d, Linear, MaxPool, MultiplyConstant, Relu, Square
from tests.compiler.programs import ACTIVATIONS, convolution, packed, run, scaled, small


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_polynomial_sees_its_range_as_one_and_addends_have_one_scale(name: str) -> None:
    after = scaled(activation=name)
    seen = set()
    for node in after.graph:
        scale = after.scales[node.name]
        seen.add(type(node.op))
        if isinstance(node.op, Chebyshev):
            assert after.scales[node.inputs[0]] == node.op.bound
        if isinstance(node.op, Square):
            largest = np.asarray(after.scales[node.inputs[0]]) * after.params.max_slot
            assert (largest >= after.ranges[node.activation]).all()
        if isinstance(node.op, Add):
            assert all(np.allclose(after.scales[i], scale, rtol=1e-12) for i in node.inputs)
    assert Add in seen
    assert seen & {Chebyshev, Square}


def test_scales_change_no_value() -> None:
    """weight' = weight * scale_in / scale_out, so slot * scale is what the layer computes."""
    start, after = packed(), scaled()
    for node in after.graph:
        before = start.graph[node.name].op
        if not isinstance(node.op, Conv2d | Linear) or not isinstance(before, Conv2d | Linear):
            continue
        ratio = np.ravel(after.scales[node.inputs[0]]) / np.ravel(after.scales[node.name])
        assert np.allclose(after.constants[node.op.weight], start.constants[before.weight] * ratio)
        assert node.op.bias is not None
        assert before.bias is not None
        assert np.allclose(after.constants[node.op.bias], start.constants[before.bias] / after.scales[node.name])


def test_a_value_for_activations_of_different_ranges_is_multiplied_for_one_of_them() -> None:
    def build(b: GraphBuilder) -> str:
        x = b.conv2d("conv", "input", 4, 3)
        return b.add("sum", Add(), b.add("r1", Relu(), x), b.add("r2", Relu(), x))

    after = run(small(build), approximate, pack, scales)
    assert after.scales["conv"] == max(after.ranges.values())
    assert [n.name for n in after.graph if isinstance(n.op, MultiplyConstant)] == ["r1/conv"]


@pytest.mark.parametrize("name", ["relu:59", "minimax:7"])
@pytest.mark.parametrize("first", [True, False])
def test_an_activation_takes_the_scale_of_the_other_addend_for_nothing(name: str, first: bool) -> None:
    def build(b: GraphBuilder) -> str:
        x = b.add("r1", Relu(), b.conv2d("conv1", "input", 4, 3))
        y = b.add("r2", Relu(), b.conv2d("conv2", x, 4, 3))
        return b.add("sum", Add(), *((x, y) if first else (y, x)))

    after = run(small(build, activation=name), approximate, pack, scales)
    assert not [n.name for n in after.graph if isinstance(n.op, MultiplyConstant)]


def test_comparisons_of_a_max_pool_take_no_level_to_scale() -> None:
    def build(b: GraphBuilder) -> str:
        return b.add("pool", MaxPool(2), b.add("relu", Relu(), b.conv2d("conv", "input", 4, 3)))

    after = run(small(build), canonicalise, max_pools, approximate, pack, scales)
    assert not [n.name for n in after.graph if isinstance(n.op, MultiplyConstant)]


def test_a_constant_channel_of_a_quadratic_is_computed_and_a_linear_one_refused() -> None:
    made = packed(activation="relu-aq")
    for c1, expected in ((0.0, None), (1.0, "is linear")):
        constants = dict(made.constants)
        for role, value in (("c0", 3.0), ("c1", c1), ("c2", 0.0)):
            array = constants[f"relu1/{role}"].copy()
            array[1] = value
            constants[f"relu1/{role}"] = array
        start = dataclasses.replace(made, constants=constants)
        if expected:
            with pytest.raises(PlanError, match=expected):
                scales(start)
            continue
        after = scales(start)
        op = after.graph["relu1"].op
        assert isinstance(op, Square)
        assert not convolution(after, "bn1")[1][1].any()  # x is 0 there, whatever the input
        assert after.constants[op.constant][1] * np.ravel(after.scales["relu1"])[1] == 3
