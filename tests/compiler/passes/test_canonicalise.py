"""Canonical graphs compute what the networks compute, and have only the operations that the compiler knows."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fheinfer.compiler.passes.canonicalise import CANONICAL, canonicalise
from fheinfer.model.graph import Graph
from tests.compiler.canonical import EXACT, largest_error, tamed
from tests.compiler.programs import program
from tests.compiler.random_graphs import graphs

pytest.importorskip("torch")
many = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("pools", [False, True])
@many
@given(graph=graphs(), seed=st.integers(0, 99))
def test_random_graphs_compute_the_same(pools: bool, graph: Graph, seed: int) -> None:
    before = tamed(program(graph, seed=seed))
    after = canonicalise(before, pools=pools)
    left = {node.op.kind for node in after.graph if not isinstance(node.op, CANONICAL) and not node.op.activation}
    assert not left
    assert after.graph.outputs == graph.outputs
    assert all(after.graph.shapes[name] == graph.shapes[name] for name in graph.outputs)
    assert largest_error(before, after, seed) < EXACT
    assert {n for node in after.graph for n in node.op.tensors.values()} == set(after.constants)
    again = canonicalise(after, pools=pools)
    assert again.graph.nodes == after.graph.nodes
