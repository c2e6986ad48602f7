"""Activations, products and max pools of users' networks, compiled whole and run on slots against PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from fheinfer.compiler.pipeline import compile
from fheinfer.evaluation.plain import plain_layers
from fheinfer.model import ops
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.model import Model
from fheinfer.runtime.slots import run_slots
from tests.compiler.programs import with_levels


def gated(g: GraphBuilder, x: str) -> str:
    return g.add("act", ops.Product(), x, g.activation("sigmoid", g.conv2d("gate", "input", 4, 3), "sigmoid"))


CASES: dict[str, Callable[[GraphBuilder, str], str]] = {
    "clip": lambda g, x: g.add("act", ops.Clip(-0.5, 0.5), x),
    "selu": lambda g, x: g.add("act", ops.Selu(), x),
    "prelu": lambda g, x: g.add("act", ops.Prelu("slopes"), x),
    "power": lambda g, x: g.add("act", ops.Power(4), x),
    "pool": lambda g, x: g.add("act", ops.MaxPool(3, 2, 1), g.activation("relu", x, "relu")),
    "product": gated,
}


@pytest.mark.parametrize("relu", ["relu:63", "minimax:10"])
@pytest.mark.parametrize("name", CASES)
def test_a_plan_computes_what_pytorch_does(name: str, relu: str) -> None:
    pytest.importorskip("torch")
    g, random = GraphBuilder("small", (2, 8, 8)), np.random.default_rng(0)
    g.linear("end", CASES[name](g, g.conv2d("conv", "input", 4, 3)), 4)
    graph = g.build()
    tensors = {n: random.normal(size=s).astype(np.float32) * 0.2 for n, s in graph.tensor_shapes().items()}
    x = random.uniform(0, 1, (2, 8, 8))
    model = Model(graph, tensors, (0.0,) * 2, (1.0,) * 2)
    values = plain_layers(model, x)
    ranges = {n.name: max(float(np.abs(values[i]).max()) for i in n.inputs) for n in graph.ranged}
    plan = compile(dataclasses.replace(model, ranges=ranges), with_levels(60), activation=relu)
    found = np.ravel(run_slots(plan, x))
    assert np.abs(found - values["end"]).max() < 0.02 * np.abs(values["end"]).max()
