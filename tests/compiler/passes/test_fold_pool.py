"""avg_pool -> linear: the division goes into the weights."""

from __future__ import annotations

import numpy as np
import pytest

from fheinfer.compiler.passes.fold_pool import fold_pool
from fheinfer.errors import PlanError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import GlobalAvgPool, Linear, Relu
from tests.compiler.programs import kinds, program, run, small


@pytest.mark.parametrize(
    ("size", "ops"), [((8, 8), ["sum_pool", "linear"]), ((7, 8), ["linear"]), ((5, 3), ["linear"])]
)
def test_a_pool_of_any_size_equals_the_mean(size: tuple[int, int], ops: list[str]) -> None:
    """Rotations sum powers of two; other sizes go through the linear layer, pixel by pixel."""
    builder = GraphBuilder("pooled", (3, *size))
    builder.linear("fc", builder.add("pool", GlobalAvgPool(), "input"), 4)
    before = program(builder.build())
    after = run(before, fold_pool)
    assert kinds(after.graph) == ["input", *ops]
    x = np.random.default_rng(1).normal(size=(3, *size))
    expected = before.constants["fc.weight"] @ x.mean(axis=(1, 2))
    op = after.graph["fc"].op
    assert isinstance(op, Linear)
    read = x.sum(axis=(1, 2)) if len(ops) == 2 else x.ravel()
    assert np.abs(after.constants[op.weight] @ read - expected).max() < 1e-12


def test_a_pool_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(PlanError, match="average pool 'pool' must be followed by a linear layer"):
        fold_pool(small(lambda b: b.add("relu", Relu(), b.add("pool", GlobalAvgPool(), "input"))))
