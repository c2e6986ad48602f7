"""Outputs of plans: their names, their bounds and their shapes, whatever the last operation is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.errors import RangeError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from fheinfer.model.ops import Add, AddConstant, Expand, MultiplyConstant, Op, Power, Relu, Reshape
from fheinfer.runtime.slots import slots_outputs

SET = "insecure-tiny"
F64 = NDArray[np.float64]
X: F64 = np.asarray([3.0, -1.0, 2.0])


def run(graph: Graph, tensors: dict[str, F64], x: F64 = X, largest: float = 3.0) -> dict[str, F64]:
    """Outputs on slots; all ranges are `largest`."""
    ranges = {graph.input.name: largest, **{node.name: largest for node in graph.ranged}}
    count = graph.input_shape[0]
    arrays = {name: array.astype(np.float32) for name, array in tensors.items()}
    model = Model(graph, arrays, (0.0,) * count, (1.0,) * count, ranges=ranges)
    return slots_outputs(fheinfer.compile(model, SET), x)


def graph_of(*ops: tuple[str, Op, tuple[str, ...]], shape: tuple[int, ...] = (3,)) -> Graph:
    builder = GraphBuilder("net", shape)
    for name, op, inputs in ops:
        builder.add(name, op, *inputs)
    return builder.build()


def test_an_output_that_is_scaled_for_the_client_keeps_its_name() -> None:
    """Factors that differ give slots of scales that do; the step that evens them had the name output/y."""
    graph = graph_of(("y", MultiplyConstant("f", (3,)), ("input",)))
    got = run(graph, {"f": np.asarray([2.0, -0.5, 3.0])})
    assert list(got) == ["y"]
    assert np.allclose(got["y"], X * [2, -0.5, 3], atol=1e-9)


def test_a_scale_that_is_the_same_for_all_channels_is_one_number() -> None:
    got = run(graph_of(("y", Power(2), ("input",))), {})
    assert np.allclose(got["y"], X**2, atol=1e-9)


def test_an_activation_of_the_input_itself_has_its_range_checked() -> None:
    graph = graph_of(("y", Relu(), ("input",)))
    assert np.allclose(run(graph, {})["y"], np.maximum(X, 0), atol=0.1)
    with pytest.raises(RangeError):
        run(graph, {}, 3 * X)


def test_a_sum_may_be_larger_than_what_it_adds() -> None:
    graph = graph_of(
        ("two", Reshape((3, 1)), ("input",)),
        ("wide", Expand((3, 2)), ("two",)),
        ("a", Add(), ("wide", "wide")),
        ("b", Add(), ("a", "wide")),
        ("y", AddConstant("c", (1, 1)), ("b",)),
    )
    got = run(graph, {"c": np.full((1, 1), 50.0)})
    assert np.allclose(got["y"], 3 * X[:, None] + 50, atol=1e-9)


def test_outputs_have_as_many_axes_as_values() -> None:
    graph = graph_of(("y", Reshape((3, 1, 1, 1, 1)), ("input",)))
    assert run(graph, {})["y"].shape == (3, 1, 1, 1, 1)
