"""Rotated replicas: which convolutions start from them, and what they save."""

from __future__ import annotations

import numpy as np
import pytest

from fheinfer.compiler.lower import lower
from fheinfer.compiler.maps import linear_map
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.replicas import replicas
from fheinfer.compiler.pipeline import PASSES
from fheinfer.compiler.prices import Prices
from fheinfer.compiler.program import Program
from fheinfer.crypto.params import parameter_set
from fheinfer.frontends import zoo
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, Chebyshev, Linear, Relu
from fheinfer.packing import Packing
from tests.compiler.programs import program, run, small


def rotations(after: Program) -> dict[str, int]:
    return {n.name: after.packings[n.name].rotation for n in after.graph}


def linear_diagonals(node: Node, source: Packing, target: Packing) -> float:
    """Prices by diagonals alone."""
    weight = np.ones((target.shape[0], source.shape[0], 3, 3))
    return linear_map(node.op, {f"{node.name}.weight": weight}, source, target).diagonals


def test_every_second_convolution_of_a_chain_starts_from_rotated_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """conv -> relu -> conv => conv (to rotated replicas) -> relu -> conv (from rotated replicas, to equal ones)"""

    def build(b: GraphBuilder) -> str:
        x = b.conv2d("c0", "input", 4, 3, 2)
        x = b.add("r1", Relu(), b.conv2d("c1", x, 16, 3))
        return b.conv2d("c2", x, 16, 3)

    monkeypatch.setattr("fheinfer.compiler.passes.pack.MAX_TERMS", 0)  # keep the grid
    monkeypatch.setattr(Prices, "layer", lambda self, node, source, target: linear_diagonals(node, source, target))
    after = run(small(build), approximate, pack, replicas)
    assert after.packings["c1"].replicas == 2  # 4 blocks of 64 slots, twice in 512
    assert rotations(after) == {"input": 0, "c0": 0, "c1": 128, "r1": 128, "c2": 0, "end": 0}


@pytest.mark.parametrize(("params", "backend"), [("1", "native"), ("1-openfhe", "openfhe")])
def test_resnet20_rotates_the_later_stages_and_saves_time(params: str, backend: str) -> None:
    passes = [one for one, _ in PASSES]
    at = passes.index(replicas)
    before = run(program(zoo.network("resnet20"), parameter_set(params), backend=backend), *passes[:at])
    after = run(before, replicas)
    found = rotations(after)
    for node in after.graph:
        inputs = [found[i] for i in node.inputs]
        if isinstance(node.op, Add | Chebyshev):
            assert set(inputs) == {found[node.name]}
        if isinstance(node.op, Linear):
            assert [*inputs, found[node.name]] == [0, 0]
        assert after.packings[node.name].total <= parameter_set(params).slots
    assert found["input"] == 0
    model = zoo.placeholder(zoo.network("resnet20"))
    one, other = (lower(run(p, *passes[at + 1 :]), model).keys["fast"] for p in (before, after))
    assert other.seconds <= one.seconds


def test_no_idle_slots_leave_nothing_to_rotate() -> None:
    def build(b: GraphBuilder) -> str:
        return b.conv2d("c1", b.conv2d("c0", "input", 8, 3), 8, 3)

    assert set(rotations(run(small(build), approximate, pack, replicas)).values()) == {0}


def test_a_convolution_that_is_added_to_its_own_input_keeps_one_arrangement() -> None:
    def build(b: GraphBuilder) -> str:
        x = b.add("r0", Relu(), b.conv2d("c0", "input", 4, 3))
        return b.add("r1", Relu(), b.add("sum", Add(), b.conv2d("c1", x, 4, 3), x))

    assert set(rotations(run(small(build), approximate, pack, replicas)).values()) == {0}
