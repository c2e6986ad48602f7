"""Levels and bootstraps: where they come, and that no cheaper plan exists."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.canonicalise import canonicalise
from fheinfer.compiler.passes.levels import SECONDS_PER_MEGABYTE, bootstrap_places, levels
from fheinfer.compiler.passes.max_pools import max_pools
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.program import Program
from fheinfer.compiler.work import Work
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import PlanError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import Add, Bootstrap, Chebyshev, Conv2d, Linear, MaxPool, Relu, Resample
from tests.compiler.programs import ACTIVATIONS, BOTH, nodes_of, run, scaled, small, with_levels

on_both = pytest.mark.parametrize(("params", "backend"), BOTH, ids=["native", "openfhe"])


@on_both
def test_levels_bootstrap_only_where_an_activation_would_run_out(params: ParameterSet, backend: str) -> None:
    after = run(scaled(params=params, backend=backend), levels)
    lowest = after.backend.bootstrap_input(params)
    relu = after.depth(nodes_of(after, Chebyshev)[0])
    for node in nodes_of(after, Bootstrap):
        assert after.levels[node.name] == params.levels
        assert after.levels[node.inputs[0]] >= lowest
        (user,) = after.graph.users(node.name)
        assert isinstance(user.op, Chebyshev)
        # Without it, the activation would leave less than the next convolution and bootstrap need.
        assert after.levels[node.inputs[0]] - relu < 1 + lowest
    # OpenFHE's first is saved by encrypting high enough.
    native = backend == "native"
    assert isinstance(after.graph.nodes[2].op, Bootstrap if native else Chebyshev)
    assert len(nodes_of(after, Bootstrap)) == (7 if native else 6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_levels_are_what_the_kernels_consume(activation: str) -> None:
    after = run(scaled(activation=activation, params=with_levels(10)), levels)
    for node in after.graph.nodes[1:]:
        if not isinstance(node.op, Bootstrap):
            low = min(after.levels[i] for i in node.inputs)
            assert 0 <= after.levels[node.name] <= low - after.depth(node)
            after.trace(after.step(node))  # raises where the kernels consume another number


@on_both
@pytest.mark.parametrize("degree", [13, 27, 59])
def test_the_input_is_no_higher_than_it_must_be(params: ParameterSet, backend: str, degree: int) -> None:
    """OpenFHE: one convolution and one activation, then a convolution and the level a bootstrap needs. Native: one
    convolution, and the level a bootstrap needs."""
    after = run(scaled(params=params, backend=backend, activation=f"relu:{degree}"), levels)
    highest = 1 + (after.backend.bootstrap_input(params) if backend == "native" else params.levels)
    assert after.levels[after.graph.input.name] <= highest


@on_both
def test_spare_levels_save_bootstraps(params: ParameterSet, backend: str) -> None:
    """With a series of degree 5 and 12 levels, two activations fit between bootstraps."""
    start = scaled(params=with_levels(12, params), backend=backend, activation="relu:5")
    assert len(nodes_of(run(start, levels), Bootstrap)) < 6


def test_a_set_of_too_few_levels_is_refused() -> None:
    for start in (scaled(params=with_levels(7)), scaled(activation="relu:247")):
        with pytest.raises(PlanError, match="levels after a bootstrap; activation 'relu1'"):
            levels(start)


def test_a_network_with_few_activations_bootstraps_before_its_layers() -> None:
    def build(b: GraphBuilder) -> str:
        x = b.add("r1", Relu(), b.conv2d("c0", "input", 2, 3))
        for i in range(1, 12):
            x = b.conv2d(f"c{i}", x, 2, 3)
        return x

    after = run(small(build), approximate, pack, scales, levels)
    assert any(isinstance(user.op, Conv2d) for n in nodes_of(after, Bootstrap) for user in after.graph.users(n.name))


def test_work_moves_with_the_level() -> None:
    work = Work({3: 5}, {5: 1}, {5: 2}, {5: 1}, {5: 9}, {5: 90}, {5: 1}, {4: 1}, {59: {5: 1}}, 0)
    assert work.higher(2).rotation_keys == {3: 7}
    assert work.higher(2).polynomials == {59: {7: 1}}
    assert work.higher(2).higher(-2) == work


def cheapest(program: Program, works: dict[str, Work]) -> float:
    """The best plan by trying every one: a bootstrap or not, and every level, at every node."""
    graph, params, cost = program.graph, program.params, program.cost
    lowest, places = program.backend.bootstrap_input(params), bootstrap_places(program)
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
                if node.name not in places or not lowest <= at[source] < params.levels:
                    continue
                given[source], price = params.levels, cost.seconds(Work.of_bootstrap())
            for level in range(depth, min(given[name] for name in node.inputs) + 1):
                seconds = cost.seconds(works[node.name].higher(level - params.top_level))
                best = min(best, price + seconds + rest(index + 1, {**given, node.name: level - depth}))
        return best

    highest = params.levels + 1
    return min(limb * level + rest(1, {graph.input.name: level}) for level in range(highest + 1))


@settings(max_examples=15)
@given(ops=st.lists(st.sampled_from(["conv", "relu", "block"]), min_size=1, max_size=3), most=st.integers(4, 6))
def test_the_shortest_path_is_the_cheapest_of_all_plans(ops: list[str], most: int) -> None:
    def build(b: GraphBuilder) -> str:
        x = b.conv2d("c", "input", 2, 1)
        for i, op in enumerate(ops):
            x = b.conv2d(f"c{i}", x, 2, 1) if op == "conv" else b.add(f"r{i}", Relu(), x)
            if op == "block":
                x = b.add(f"a{i}", Add(), b.conv2d(f"c{i}", x, 2, 1), x)
        return x

    ready = run(small(build, params=with_levels(most), activation="relu:3"), approximate, pack, scales)
    works = {node.name: ready.trace(ready.step(node)) for node in ready.graph.nodes[1:]}
    expected = cheapest(ready, works)
    if expected == math.inf:
        with pytest.raises(PlanError):
            levels(ready)
        return
    made = levels(ready)
    total = sum(ready.cost.seconds(made.works[node.name]) for node in made.graph.nodes[1:])
    total += made.levels[made.graph.input.name] * ready.cost.input_bytes(0) * SECONDS_PER_MEGABYTE / 1e6
    assert total == pytest.approx(expected, rel=1e-9)


def test_a_bootstrap_may_come_before_a_layer_that_reads_what_fills_no_more_than_its_slots() -> None:
    """Four comparisons of a 3x3 window in a row, and what they are added to, take more levels than there are."""

    def build(b: GraphBuilder) -> str:
        x = b.add("relu", Relu(), b.conv2d("conv", "input", 4, 3))
        return b.add("pool", MaxPool(3, 2, 1), x)

    start = small(build, activation="relu:27")
    after = run(start, canonicalise, max_pools, approximate, pack, scales, levels)
    places = [n for n in after.graph if isinstance(n.op, Bootstrap)]
    readers = {type(user.op) for n in places for user in after.graph.users(n.name)}
    assert readers & {Resample, Conv2d, Linear}
    assert Chebyshev in readers
