"""Batch norms and differences become products with constants, and sums."""

from __future__ import annotations

import pytest

from fheinfer.compiler.passes.lower_arithmetic import lower_arithmetic
from fheinfer.model import ops
from fheinfer.model.ops import Shape
from tests.compiler.canonical import batch_norm, became, built

pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 5)])
def test_a_batch_norm_of_any_rank(shape: Shape) -> None:
    assert became(built(shape, batch_norm("bn")), lower_arithmetic) == ["multiply_constant", "add_constant"]


def test_a_difference_is_a_sum_with_a_negative() -> None:
    start = built((3, 4), ("relu", ops.Relu()), ("d", ops.Subtract(), "input relu"))
    assert became(start, lower_arithmetic) == ["relu", "multiply_constant", "add"]
