"""Random small networks compile, and on slots compute what PyTorch computes."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fheinfer
from fheinfer.compiler.plan import from_bytes
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import PlanError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from fheinfer.model.ops import Add, GlobalAvgPool, MeanPool
from tests.conftest import random_model
from tests.reference import reference_layers

SQUARES = dataclasses.replace(parameter_set("insecure-tiny-turbo"), log_n=13, slots=4096, levels=20)
RELUS = dataclasses.replace(parameter_set("insecure-tiny"), log_n=13, slots=4096, levels=14)
graphs_settings = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def graphs(draw: st.DrawFn, activation: str, longest: int) -> Graph:
    """Convolutions, batch norms, activations, sums with what they start from, pools; then linear layers."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(4, 12), st.integers(4, 12)))
    g, channels, x = GraphBuilder("random", shape), shape[0], "input"
    height, width = shape[1:]
    for i in range(draw(st.integers(1, longest))):
        kind = draw(st.sampled_from(["conv", "strided", "block", "pool"]))
        if kind == "strided" and min(height, width) < 4:
            kind = "conv"
        if kind == "pool" and (height % 2 or width % 2 or min(height, width) < 4):
            kind = "block"
        if kind == "pool":
            x, height, width = g.add(f"p{i}", MeanPool(2), x), height // 2, width // 2
            continue
        if kind == "block":
            y = g.conv_bn(x, f"c{i}", f"b{i}", channels, draw(st.sampled_from([1, 3, 5])))
            x = g.add(f"a{i}", Add(), *draw(st.permutations([x, y])))
        else:
            channels, stride = draw(st.integers(1, 5)), 2 if kind == "strided" else 1
            x = g.conv2d(f"c{i}", x, channels, draw(st.sampled_from([1, 3])), stride, bias=draw(st.booleans()))
            height, width = (height + stride - 1) // stride, (width + stride - 1) // stride
        x = g.activation(activation, x, f"h{i}")
    if draw(st.booleans()):
        x = g.add("pool", GlobalAvgPool(), x)
    g.linear("fc", x, draw(st.integers(1, min(height * width, 9))))
    return g.build()


def calibrated(model: Model, x: np.ndarray) -> tuple[Model, dict[str, np.ndarray]]:
    exact = reference_layers(model, x)
    ranges = {n.name: float(np.abs(exact[n.inputs[0]]).max()) for n in model.graph.activations}
    return dataclasses.replace(model, ranges=ranges), exact


@graphs_settings
@given(graphs("herpn", 4), st.integers(0, 1000))
def test_networks_of_squares_are_exact(graph: Graph, seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-1, 1, graph.input_shape)
    model, exact = calibrated(random_model(graph, seed), x)
    plan = fheinfer.compile(model, SQUARES)
    layers: dict[str, np.ndarray] = {}
    outputs = fheinfer.run_slots(from_bytes(plan.to_bytes()), x, layers=layers)
    for name in (n.name for n in graph.activations):
        assert np.abs(layers[name] - exact[name]).max() < 1e-8 * max(1, np.abs(exact[name]).max())
    assert np.abs(outputs - exact["fc"]).max() < 1e-8 * max(1, np.abs(exact["fc"]).max())


@settings(graphs_settings, max_examples=10)
@given(graphs("relu", 2), st.integers(0, 1000))
def test_networks_of_relus_are_as_good_as_their_polynomials(graph: Graph, seed: int) -> None:
    """minimax:14 is within 2^-14 of a ReLU on [-1, 1]; what follows may enlarge that."""
    x = np.random.default_rng(seed).uniform(-1, 1, graph.input_shape)
    model, exact = calibrated(random_model(graph, seed), x)
    try:
        plan = fheinfer.compile(model, dataclasses.replace(RELUS, levels=30), activation="minimax:14")
    except PlanError as error:
        assert "different ranges" in str(error)  # the one network of this kind that scales cannot serve
        return
    outputs = fheinfer.run_slots(plan, x)
    largest = max(1.0, *(float(np.abs(v).max()) for v in exact.values()))
    assert np.abs(outputs - exact["fc"]).max() < 0.01 * largest


def test_the_tolerances_would_notice_a_wrong_weight() -> None:
    g = GraphBuilder("one", (1, 4, 4))
    g.linear("fc", g.activation("herpn", g.conv2d("c", "input", 2, 3), "h"), 2)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4))
    model, exact = calibrated(random_model(g.build(), 0), x)
    wrong = {n: t * (1.001 if n == "c.weight" else 1) for n, t in model.tensors.items()}
    plan = fheinfer.compile(dataclasses.replace(model, tensors=wrong), SQUARES, margin=1.5)
    assert np.abs(fheinfer.run_slots(plan, x) - exact["fc"]).max() > 1e-6
