"""conv2d -> batch_norm becomes one conv2d with a bias."""

from __future__ import annotations

import pytest

from fheinfer.compiler.passes.fold_batch_norm import fold_batch_norm
from fheinfer.errors import PlanError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import Add, Relu
from tests.compiler.programs import convolution, kinds, run, small


@pytest.mark.parametrize("bias", [False, True])
def test_folding_a_batch_norm_equals_pytorch(bias: bool) -> None:
    torch = pytest.importorskip("torch")
    before = small(lambda b: b.batch_norm("bn", b.conv2d("conv", "input", 5, 3, 2, bias=bias)))
    after = run(before, fold_batch_norm)
    assert kinds(after.graph) == ["input", "conv2d", "linear"]
    c = {k: torch.tensor(v) for k, v in before.constants.items()}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = x
    for name in ("conv", "bn"):
        op = before.graph[name].op
        expected = op.reference([expected], {role: c[tensor] for role, tensor in op.tensors.items()})
    op, *arrays = convolution(after, "bn")
    made = op.reference([x], dict(zip(("weight", "bias"), map(torch.tensor, arrays), strict=True)))
    assert (made - expected).abs().max() < 1e-12
    assert "bn/weight" not in before.constants  # trained weights stay as they are


def test_a_batch_norm_after_anything_else_cannot_be_folded() -> None:
    def after_relu(b: GraphBuilder) -> str:
        return b.batch_norm("bn", b.add("relu", Relu(), b.conv2d("conv", "input", 4, 3)))

    def shared(b: GraphBuilder) -> str:
        x = b.conv2d("conv", "input", 4, 3)
        return b.add("sum", Add(), b.batch_norm("bn", x), x)

    for build in (after_relu, shared):
        with pytest.raises(PlanError, match="'bn' does not follow a convolution of its own"):
            fold_batch_norm(small(build))
