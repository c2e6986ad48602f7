"""A sum of two convolutions of one value is one convolution."""

from __future__ import annotations

from typing import Any

import pytest

from fheinfer.compiler.passes.fold_batch_norm import fold_batch_norm
from fheinfer.compiler.passes.merge_shortcuts import merge_shortcuts
from fheinfer.compiler.program import Program
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import Add, Relu
from tests.compiler.programs import convolution, kinds, run, small


@pytest.mark.parametrize(("stride", "kernel", "shortcut"), [(1, 3, None), (1, 5, 1), (2, 3, 1), (2, 5, 3), (1, 1, 3)])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_merged_shortcut_equals_pytorch(stride: int, kernel: int, shortcut: int | None, swapped: bool) -> None:
    torch = pytest.importorskip("torch")

    def build(b: GraphBuilder) -> str:
        x = b.conv_bn("input", "c0", "b0", 4, 1)
        y = b.conv_bn(x, "c1", "b1", 4, kernel, stride)
        other = b.conv_bn(x, "c2", "b2", 4, shortcut, stride) if shortcut else x
        return b.add("sum", Add(), *((other, y) if swapped else (y, other)))

    before = run(small(build), fold_batch_norm)
    after = run(before, merge_shortcuts)
    assert kinds(after.graph) == ["input", "conv2d", "conv2d", "linear"]
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def conv(of: Program, name: str) -> Any:
        op, *arrays = convolution(of, name)
        return op.reference([x], dict(zip(("weight", "bias"), map(torch.tensor, arrays), strict=True)))

    expected = conv(before, "b1") + (conv(before, "b2") if shortcut else x)
    assert (conv(after, "sum") - expected).abs().max() < 1e-12


def test_convolutions_that_others_read_are_not_merged() -> None:
    def shared(b: GraphBuilder) -> str:
        x = b.conv_bn("input", "c0", "b0", 4, 1)
        y = b.conv_bn(x, "c1", "b1", 4, 3)
        return b.add("again", Add(), b.add("sum", Add(), y, x), y)

    def of_another(b: GraphBuilder) -> str:
        x = b.conv_bn("input", "c0", "b0", 4, 1)
        y = b.conv_bn(b.add("r", Relu(), x), "c2", "b2", 4, 3)
        return b.add("sum", Add(), b.conv_bn(x, "c1", "b1", 4, 3), y)

    for build in (shared, of_another):
        before = run(small(build), fold_batch_norm)
        assert run(before, merge_shortcuts).graph.nodes == before.graph.nodes
