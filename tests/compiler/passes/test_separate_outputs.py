"""What a client decrypts holds the outputs, and nothing else of the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fheinfer
from fheinfer import _core
from fheinfer.compiler.passes.separate_outputs import separate_outputs
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from fheinfer.model.ops import Op, Power, Repack, Reshape, Slice, SumPool
from fheinfer.runtime.executor import execute
from tests.compiler.programs import program

SHAPE = (2, 4, 4)


def network(*after: tuple[str, Op]) -> Graph:
    """A convolution of 4 channels, and what follows it."""
    b = GraphBuilder("net", SHAPE)
    last = b.conv2d("conv", "input", 4, 3)
    for name, op in after:
        last = b.add(name, op, last)
    return b.build()


@pytest.mark.parametrize(
    "after",
    [
        [("part", Slice(0, 1, 3))],
        [("part", Slice(0, 1, 3)), ("square", Power(2))],
        [("square", Power(2)), ("rows", Slice(1, 0, 2)), ("flat", Reshape((32,)))],
    ],
    ids=lambda after: "-".join(name for name, _ in after),
)
def test_slots_beside_an_output_hold_nothing_that_depends_on_the_input(after: list[tuple[str, Op]]) -> None:
    graph, rng = network(*after), np.random.default_rng(1)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in graph.tensor_shapes().items()}
    ranges = {node.name: 40.0 for node in graph.ranged}
    plan = fheinfer.compile(Model(graph, tensors, (0.0, 0.0), (1.0, 1.0), ranges=ranges), "insecure-tiny")
    spec, level = plan.client, plan.client.input.level
    beside = []
    for _ in range(2):
        evaluator = _core.SlotsEvaluator(plan.params.slots, plan.backend.level_model(plan.params))
        packed = spec.input.pack(rng.uniform(-1, 1, SHAPE))
        found = execute(plan, evaluator, tuple(evaluator.encrypt(x, level) for x in packed))[spec.outputs[0].name]
        packing = spec.outputs[0].packing
        slots = np.stack([np.asarray(evaluator.decrypt(one))[: packing.period] for one in found]).ravel()
        outside = np.ones(slots.size, bool)
        outside[packing.places().ravel()] = False
        beside.append(slots[outside])
    assert np.allclose(beside[0], beside[1], atol=1e-12)


def test_sums_by_rotations_leave_parts_of_sums_behind() -> None:
    start = program(network(("square", Power(2))))
    after = separate_outputs(
        replace(start, graph=Graph("net", (*start.graph.nodes, Node("sum", SumPool(), ("square",)))))
    )
    assert [(node.name, type(node.op)) for node in after.graph][-2:] == [("sum/shared", SumPool), ("sum", Repack)]


def test_a_network_that_ends_in_a_layer_stays_as_it_is() -> None:
    start = program(network(("square", Power(2))))
    assert separate_outputs(start) is start
