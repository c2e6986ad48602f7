"""Skewed copies: which convolutions start from them, and what they save."""

from __future__ import annotations

import pytest

from fheinfer.compiler.lower import lower
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.layouts import layouts
from fheinfer.compiler.passes.skews import skews
from fheinfer.compiler.pipeline import PASSES
from fheinfer.compiler.program import Program
from fheinfer.frontends import zoo
from fheinfer.graph.ir import GraphBuilder
from fheinfer.params import parameter_set
from tests.compiler.programs import program, run, small


def skew_of(after: Program) -> dict[str, int]:
    return {n.name: n.attrs["layout"].replica_rotation for n in after.graph}


def test_every_second_convolution_of_a_chain_starts_from_skewed_copies() -> None:
    """conv -> relu -> conv => conv (to skewed copies) -> relu -> conv (from skewed copies, to equal ones)"""

    def build(b: GraphBuilder) -> None:
        x = b.conv_bn("input", "c0", None, 4, 3, 2)
        x = b.add("r1", "relu", b.conv_bn(x, "c1", None, 16, 3))
        b.conv_bn(x, "c2", None, 16, 3)

    after = run(small(build), approximate, layouts, skews)
    assert after.graph["c1"].attrs["layout"].replicas == 2  # 4 blocks of 64 slots, twice in 512
    assert skew_of(after) == {"input": 0, "c0": 0, "c1": 2, "r1": 2, "c2": 0}


@pytest.mark.parametrize("params", ["1", "1-openfhe"])
def test_resnet20_skews_the_later_stages_and_saves_time(params: str) -> None:
    skewing = PASSES.index(skews)
    before = run(program(zoo.network("resnet20"), parameter_set(params)), *PASSES[:skewing])
    after = run(before, skews)
    found = skew_of(after)
    assert found["layer3.1.bn1"] > 0
    for node in after.graph:
        inputs = [found[i] for i in node.inputs]
        if node.op in ("add", "chebyshev", "avg_pool"):
            assert set(inputs) == {found[node.name]}
        if node.op == "linear":
            assert [*inputs, found[node.name]] == [0, 0]
        assert after.graph[node.name].attrs["layout"].period <= parameter_set(params).slots
    assert found["input"] == 0
    plans = (run(p, *PASSES[skewing + 1 :]) for p in (before, after))
    one, other = (lower(p, (0.5,) * 3, (0.5,) * 3, "fast").prediction for p in plans)
    assert other.seconds < one.seconds
    assert other.key_bytes <= one.key_bytes


def test_no_idle_slots_leave_nothing_to_skew() -> None:
    def build(b: GraphBuilder) -> None:
        b.conv_bn(b.conv_bn("input", "c0", None, 8, 3), "c1", None, 8, 3)

    assert set(skew_of(run(small(build), approximate, layouts, skews)).values()) == {0}


def test_a_convolution_that_is_added_to_its_own_input_keeps_one_arrangement() -> None:
    def build(b: GraphBuilder) -> None:
        x = b.add("r0", "relu", b.conv_bn("input", "c0", None, 4, 3))
        b.add("r1", "relu", b.add("sum", "add", b.conv_bn(x, "c1", None, 4, 3), x))

    assert set(skew_of(run(small(build), approximate, layouts, skews)).values()) == {0}
