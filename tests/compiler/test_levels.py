"""Levels and bootstraps: where they come, and that no cheaper plan exists."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.layouts import layouts
from fheinfer.compiler.passes.levels import SECONDS_PER_MEGABYTE, levels
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.program import Program
from fheinfer.compiler.steps import BOOTSTRAPPED, step_of
from fheinfer.compiler.work import Work
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import PlanError
from fheinfer.model.graph import GraphBuilder
from tests.compiler.programs import ACTIVATIONS, REFERENCE, TINY, run, scaled, small


@pytest.mark.parametrize("params", [TINY, REFERENCE], ids=lambda s: s.name)
def test_levels_bootstrap_only_where_an_activation_would_run_out(params: ParameterSet) -> None:
    after = run(dataclasses.replace(scaled(), params=params), levels)
    relu = next(node.attrs["depth"] for node in after.graph if node.op == "chebyshev")
    for node in after.graph:
        if node.op == "bootstrap":
            assert node.attrs["level"] == params.levels
            assert after.graph[node.inputs[0]].attrs["level"] >= params.bootstrap_input
            (user,) = after.graph.users(node.name)
            assert user.op == "chebyshev"
            # Without it, the activation would leave less than the next convolution and bootstrap need.
            assert after.graph[node.inputs[0]].attrs["level"] - relu < 1 + params.bootstrap_input
    # OpenFHE's first is saved by encrypting high enough.
    assert after.graph.nodes[2].op == ("bootstrap" if params.native else "chebyshev")
    assert sum(n.op == "bootstrap" for n in after.graph) == (7 if params.native else 6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_levels_are_what_the_kernels_consume(activation: str) -> None:
    after = run(scaled(activation=activation, levels=10), levels)
    for node in after.graph.nodes[1:]:
        if node.op != "bootstrap":
            low = min(after.graph[i].attrs["level"] for i in node.inputs)
            assert 0 <= node.attrs["level"] <= low - node.attrs["depth"]
            assert node.attrs["depth"] == after.depth(node)


@pytest.mark.parametrize("degree", [13, 27, 59])
def test_the_input_is_no_higher_than_it_must_be(degree: int) -> None:
    """OpenFHE: one convolution and one activation, then a convolution and the level a bootstrap needs. Ours: one
    convolution, and the level a bootstrap needs."""
    for params, level in ((REFERENCE, 1 + REFERENCE.levels), (TINY, 1 + TINY.bootstrap_input)):
        start = dataclasses.replace(scaled(activation=f"relu:{degree}"), params=params)
        assert run(start, levels).graph.input.attrs["level"] <= level


def test_spare_levels_save_bootstraps() -> None:
    """With a series of degree 5 and 12 levels, two activations fit between bootstraps."""
    for params in (TINY, REFERENCE):
        cheap = dataclasses.replace(scaled(activation="relu:5"), params=dataclasses.replace(params, levels=12))
        assert sum(n.op == "bootstrap" for n in run(cheap, levels).graph) < 6


def test_a_set_of_too_few_levels_is_refused() -> None:
    for changes in ({"levels": 7}, {"activation": "relu:119"}):
        with pytest.raises(PlanError, match="levels after a bootstrap; activation 'relu1'"):
            levels(scaled(**changes))


def test_a_network_with_too_few_activations_to_bootstrap_at_is_refused() -> None:
    def build(b: GraphBuilder) -> None:
        x = b.add("r1", "relu", b.conv_bn("input", "c0", None, 2, 3))
        for i in range(1, 12):
            x = b.conv_bn(x, f"c{i}", None, 2, 3)

    with pytest.raises(PlanError, match="levels"):
        run(small(build), approximate, layouts, scales, levels)


def test_work_moves_with_the_level() -> None:
    work = Work({3: 5}, {5: 1}, {5: 2}, {5: 1}, {5: 9}, {5: 90}, {5: 1}, {4: 1}, {59: {5: 1}}, 0)
    assert work.higher(2).rotation_keys == {3: 7}
    assert work.higher(2).polynomials == {59: {7: 1}}
    assert work.higher(2).higher(-2) == work


def cheapest(program: Program, works: dict[str, Work]) -> float:
    """The best plan by trying every one: a bootstrap or not, and every level, at every node."""
    graph, params, cost = program.graph, program.params, program.cost
    limb = cost.input_bytes(0) * SECONDS_PER_MEGABYTE / 1e6

    def rest(index: int, at: dict[str, int]) -> float:
        if index == len(graph.nodes):
            return 0.0
        node, best = graph.nodes[index], math.inf
        depth, source = program.depth(node), node.inputs[0]
        for bootstrap in (False, True):
            given = dict(at)
            price = 0.0
            if bootstrap:
                if node.op not in BOOTSTRAPPED or not params.bootstrap_input <= at[source] < params.levels:
                    continue
                given[source], price = params.levels, cost.seconds(Work.of_bootstrap())
            for level in range(depth, min(given[name] for name in node.inputs) + 1):
                seconds = cost.seconds(works[node.name].higher(level - params.top_level))
                best = min(best, price + seconds + rest(index + 1, {**given, node.name: level - depth}))
        return best

    highest = params.levels + 1
    return min(limb * level + rest(1, {graph.input.name: level}) for level in range(highest + 1))


@settings(max_examples=15)
@given(ops=st.lists(st.sampled_from(["conv", "relu", "block"]), min_size=1, max_size=3), levels_=st.integers(4, 6))
def test_the_shortest_path_is_the_cheapest_of_all_plans(ops: list[str], levels_: int) -> None:
    def build(b: GraphBuilder) -> None:
        x = b.conv_bn("input", "c", None, 2, 1)
        for i, op in enumerate(ops):
            if op == "conv":
                x = b.conv_bn(x, f"c{i}", None, 2, 1)
            elif op == "relu":
                x = b.add(f"r{i}", "relu", x)
            else:
                x = b.add(f"r{i}", "relu", x)
                x = b.add(f"a{i}", "add", b.conv_bn(x, f"c{i}", None, 2, 1), x)

    start = small(build)
    params = dataclasses.replace(TINY, levels=levels_, activation="relu:3")
    ready = run(dataclasses.replace(start, params=params), approximate, layouts, scales)
    works = {node.name: step_of(node, ready).trace(ready) for node in ready.graph.nodes[1:]}
    expected = cheapest(ready, works)
    if expected == math.inf:
        with pytest.raises(PlanError):
            levels(ready)
        return
    made = levels(ready)
    total = sum(ready.cost.seconds(node.attrs["work"]) for node in made.graph.nodes[1:])
    total += made.graph.input.attrs["level"] * ready.cost.input_bytes(0) * SECONDS_PER_MEGABYTE / 1e6
    assert total == pytest.approx(expected, rel=1e-9)
