"""Small graphs of network operations, and how far a pass is from what they compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.evaluation.graph import evaluate_graph
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Op, Shape
from tests.compiler.programs import Pass, program

EXACT = 1e-9


def built(entry: Shape, *nodes: Sequence[Any], outputs: tuple[str, ...] = ()) -> Program:
    """A program of random weights: (name, operation, "input a b"); without inputs a node reads the one before it."""
    made = [Node("input", ops.Input(entry))]
    for name, op, *inputs in nodes:
        made.append(Node(name, op, tuple(inputs[0].split()) if inputs else (made[-1].name,)))
    return tamed(program(Graph("built", tuple(made), outputs)))


def conv(name: str, out: int, kernel: Any = 3, stride: Any = 1, padding: Any = 0, **rest: int) -> tuple[str, Op]:
    """A convolution with a bias."""
    return name, ops.Conv2d(out, kernel, stride, padding, f"{name}.weight", f"{name}.bias", **rest)


def batch_norm(name: str) -> tuple[str, Op]:
    """A batch norm with names of PyTorch's kind."""
    return name, ops.BatchNorm(1e-5, *(f"{name}.{role}" for role in ("weight", "bias", "mean", "var")))


def linear(name: str, out: int) -> tuple[str, Op]:
    """A linear layer with a bias."""
    return name, ops.Linear(out, f"{name}.weight", f"{name}.bias")


def tamed(start: Program) -> Program:
    """The same with weights of about one over the root of what is summed, so that values stay of one size."""
    sizes = {
        n: a / np.sqrt(max(1, a[0].size if a.ndim > 1 else 1)) for n, a in start.constants.items() if "var" not in n
    }
    return dataclasses.replace(start, constants={**start.constants, **sizes})


def largest_error(before: Program, after: Program, seed: int = 0) -> float:
    """Of all outputs on a random input, against the largest value on the way to them."""
    x = np.random.default_rng(seed).normal(size=before.graph.input_shape)
    expected = evaluate_graph(before.graph, before.constants, x)
    found = evaluate_graph(after.graph, after.constants, x)
    largest = max(1.0, *(float(np.abs(value).max()) for value in expected.values()))
    return max(float(np.abs(found[n] - expected[n]).max()) for n in before.graph.outputs) / largest


def became(start: Program, *passes: Pass) -> list[str]:
    """The kinds of operations after passes, which have to compute the same."""
    after = start
    for one in passes:
        after = one(after)
    assert largest_error(start, after) < EXACT
    assert set(after.constants) == {name for node in after.graph for name in node.op.tensors.values()}
    return [node.op.kind for node in after.graph.nodes[1:]]
