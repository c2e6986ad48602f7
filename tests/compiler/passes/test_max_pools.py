"""Max pools of any window become comparisons that are exact where the ReLU is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fheinfer.compiler.activations import activation_levels
from fheinfer.compiler.passes.max_pools import max_pools
from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.model import Model
from fheinfer.model.ops import Invalid, MaxPool, Op, Relu, Resample, Sigmoid, Silu, Slice
from tests.compiler.programs import kinds, nodes_of, program


def pooled(op: MaxPool, size: tuple[int, int] = (8, 8), before: Op | None = None) -> Program:
    """A max pool of an input of two channels, after the activation `before`."""
    builder = GraphBuilder("pooled", (2, *size))
    x = builder.add("before", before, "input") if before else "input"
    return program(builder.build(builder.add("pool", op, x)))


def evaluated(made: Program, x: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    values: dict[str, Any] = {}
    for node in made.graph:
        inputs = [values[name] for name in node.inputs] or [torch.from_numpy(x)]
        tensors = {role: torch.from_numpy(made.constants[name]) for role, name in node.op.tensors.items()}
        values[node.name] = node.op.reference(inputs, tensors)
    return np.asarray(values["pool"].numpy())


sizes, pairs = st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(sizes, sizes),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pairs,
    st.tuples(*[st.integers(0, 3)] * 4),
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.integers(0, 2**32 - 1),
)
def test_comparisons_are_the_maximum_for_any_window(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    seed: int,
) -> None:
    op = MaxPool(kernel, stride, padding, dilation)
    try:
        op.check([(2, *size)])
    except Invalid:
        assume(False)
    before = pooled(op, size)
    x = np.random.default_rng(seed).normal(size=(2, 2, *size))
    try:
        after = max_pools(before)
    except PlanError as error:
        assert "window without a pixel" in str(error)
        assert not np.isfinite(evaluated(before, x)).all()
        return
    assert not nodes_of(after, MaxPool)
    assert np.allclose(evaluated(after, x), evaluated(before, x), rtol=0, atol=1e-12)


def test_every_difference_is_within_the_range_of_its_comparison() -> None:
    torch = pytest.importorskip("torch")
    before = pooled(MaxPool(3, 2, 1), before=Silu())
    after = max_pools(before)
    bounds = {node.name: after.ranges[node.name] for node in nodes_of(after, Relu)}
    assert list(bounds.values()) == pytest.approx([(2.857722 + 0.278465) * 1.1] * len(bounds), rel=1e-5)
    values = {"input": torch.from_numpy(np.random.default_rng(0).uniform(-3, 3, (50, 2, 8, 8)))}
    for node in after.graph.nodes[1:]:
        tensors = {role: torch.from_numpy(after.constants[name]) for role, name in node.op.tensors.items()}
        if isinstance(node.op, Relu):
            assert float(values[node.inputs[0]].abs().max()) <= bounds[node.name]
        values[node.name] = node.op.reference([values[name] for name in node.inputs], tensors)


@pytest.mark.parametrize(
    ("before", "measured", "bound"),
    [(Relu(), None, 3.0), (Sigmoid(), None, 0.905148), (None, None, 5.0), (None, 1.5, 3.0), (Relu(), 2.0, 2.0)],
)
def test_the_range_of_comparisons_follows_what_the_pool_reads(before: Op, measured: float | None, bound: float) -> None:
    """A ReLU's output is not negative, so differences are no larger than its range of 3."""
    start = pooled(MaxPool(2), before=before)
    ranges = {name: 3.0 for name in start.ranges if name != "pool"} | ({"pool": measured} if measured else {})
    after = max_pools(dataclasses.replace(start, ranges=ranges))
    found = [after.ranges[node.name] for node in nodes_of(after, Relu) if node.name != "before"]
    assert found == pytest.approx([bound * 1.1] * 2, rel=1e-5)


def test_a_pool_of_unknown_range_is_named() -> None:
    builder = GraphBuilder("pooled", (2, 8, 8))
    start = program(builder.build(builder.add("pool", MaxPool(2), builder.conv2d("conv", "input", 2, 3))))
    with pytest.raises(PlanError, match="no range is known for the max pool 'pool'; measure it with"):
        max_pools(dataclasses.replace(start, ranges={}))


def test_a_window_of_two_is_one_comparison_of_views_along_each_axis() -> None:
    after = max_pools(pooled(MaxPool(2)))
    assert kinds(after.graph) == ["input", *["resample", "relu", "slice", "add"] * 2]
    assert after.graph.nodes[-1].name == "pool"


@pytest.mark.parametrize(
    ("op", "rounds", "differences"),
    [(MaxPool(2), 2, 2), (MaxPool(3, 2, 1), 4, 2), (MaxPool(3, 1, 1), 4, 2), (MaxPool(5, 1, 2), 6, 4)],
)
def test_levels_of_a_max_pool(op: MaxPool, rounds: int, differences: int) -> None:
    """A ReLU per round, and a level where a difference has to be formed first."""
    builder = GraphBuilder("pooled", (2, 8, 8))
    graph = builder.build(builder.add("pool", op, builder.activation("relu", "input", "relu")))
    model = Model(graph, {}, (0.0,) * 2, (1.0,) * 2, ranges={"relu": 1.0})
    assert activation_levels(model, "relu:63") == {"relu": 6, "pool": 6 * rounds + differences}
    assert activation_levels(model, "minimax:7") == {"relu": 7, "pool": 7 * rounds + differences}


def test_one_pixel_windows_only_step() -> None:
    after = max_pools(pooled(MaxPool(1, 2)))
    assert kinds(after.graph) == ["input", "slice", "slice"]
    assert not nodes_of(max_pools(pooled(MaxPool(1))), Resample)
    assert nodes_of(max_pools(pooled(MaxPool(1))), Slice)[-1].name == "pool"
