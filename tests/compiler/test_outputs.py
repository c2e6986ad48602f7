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
from fheinfer.model.ops import (
    Add,
    AddConstant,
    Concat,
    Expand,
    GlobalAvgPool,
    MultiplyConstant,
    Op,
    Power,
    Relu,
    Reshape,
)
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


def test_a_mean_of_pixels_that_is_an_output_fits_the_last_prime() -> None:
    """Sums of 49 pixels would need six bits of room above the scale, and a set with bootstraps has two."""
    graph = graph_of(("r", Relu(), ("input",)), ("mean", GlobalAvgPool(), ("r",)), shape=(3, 7, 7))
    x = np.random.default_rng(1).uniform(2, 3, (3, 7, 7))
    ranges = {"input": 3.0, "r": 3.0}
    plan = fheinfer.compile(Model(graph, {}, (0.0,) * 3, (1.0,) * 3, ranges=ranges), SET)
    (mean,) = plan.client.outputs
    values: dict[str, F64] = {}
    got = slots_outputs(plan, x, layers=values)["mean"]
    assert np.allclose(got, x.mean(axis=(1, 2)), atol=0.1)
    assert np.abs(values["mean"] / mean.scale).max() <= 1.1
    assert got.max() < mean.bound


def test_a_mean_whose_channels_have_pixels_of_two_scales() -> None:
    """Rows of one image beside those of another: the sum has one scale for all of them."""
    graph = graph_of(
        ("twice", MultiplyConstant("f", (3, 1, 1)), ("input",)),
        ("both", Concat(1, 2), ("input", "twice")),
        ("square", Power(2), ("both",)),
        ("rows", Concat(1, 2), ("square", "twice")),
        ("mean", GlobalAvgPool(), ("rows",)),
        shape=(3, 3, 5),
    )
    x, f = np.random.default_rng(2).uniform(0, 3, (3, 3, 5)), np.asarray([2.0, -0.5, 3.0])
    twice = x * f[:, None, None]
    expected = np.concatenate([x**2, twice**2, twice], axis=1).mean(axis=(1, 2))
    got = run(graph, {"f": f.reshape(3, 1, 1)}, x, largest=9.0)
    assert np.allclose(got["mean"], expected, atol=1e-9)


def test_copies_that_are_multiplied_by_different_constants() -> None:
    """Both copies of a channel were in one slot, which has one factor."""
    graph = graph_of(
        ("copies", Expand((2, 2, 2)), ("input",)), ("y", MultiplyConstant("f", (2, 1, 1)), ("copies",)), shape=(1, 2, 2)
    )
    f, x = np.asarray([[[2.0]], [[-0.5]]]), np.arange(4.0).reshape(1, 2, 2)
    assert np.allclose(run(graph, {"f": f}, x)["y"], x * f, atol=1e-9)
