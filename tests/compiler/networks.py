"""Random graphs as models, compiled and run on slots or encrypted, and compared with PyTorch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.program import Program
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.evaluation.graph import evaluate_graph
from fheinfer.model.model import Model

F64 = NDArray[np.float64]


def squares(slots: int, levels: int = 24) -> ParameterSet:
    """A set that only slots can use: so many of them, and levels for a deep network without bootstraps."""
    return dataclasses.replace(parameter_set("insecure-tiny-turbo"), log_n=13, slots=slots, levels=levels)


def model_of(start: Program, x: F64) -> Model:
    """The network of a program as a model whose ranges are what an input reaches, which is between 0 and 1."""
    graph = start.graph
    tensors = {name: start.constants[name].astype(np.float32) for name in graph.tensor_shapes()}
    ones = (1.0,) * graph.input_shape[0]
    model = Model(graph, tensors, (0.0,) * len(ones), ones)
    values = evaluate_graph(graph, model.tensors, x)
    ranges = {
        node.name: max(float(np.abs(values[name]).max()) for name in node.inputs)
        for node in graph
        if node.op.activation or node.op.ranged
    }
    return dataclasses.replace(model, ranges=ranges)


def random_input(start: Program, seed: int) -> F64:
    """Between 0 and 1."""
    return np.random.default_rng(seed).uniform(0, 1, start.graph.input_shape)


def slots_error(start: Program, params: ParameterSet, seed: int = 0) -> float:
    """The largest difference of an output on slots and in PyTorch, against the largest value on the way."""
    x = random_input(start, seed)
    model = model_of(start, x)
    plan = fheinfer.compile(model, params)
    return _error(plan, model, x, fheinfer.run_slots(plan, x))


def _error(plan: Plan, model: Model, x: F64, outputs: Any) -> float:
    found = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    expected = evaluate_graph(model.graph, model.tensors, x)
    largest = max(1.0, *(float(np.abs(value).max()) for value in expected.values()))
    return (
        max(float(np.abs(one - expected[name]).max()) for one, name in zip(found, model.graph.outputs, strict=True))
        / largest
    )
