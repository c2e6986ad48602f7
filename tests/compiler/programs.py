"""Small programs to run passes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fheinfer.approx import activation as find_activation
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.canonicalise import canonicalise
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.pipeline import PASSES
from fheinfer.compiler.program import Program
from fheinfer.compiler.stages import verify
from fheinfer.crypto.backends import backend as find_backend
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.frontends import zoo
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Conv2d, Op

Pass = Callable[[Program], Program]
STAGES = dict(PASSES)

TINY = parameter_set("insecure-tiny")
TINY_OPENFHE = parameter_set("insecure-tiny-openfhe")
BOTH = ((TINY, "native"), (TINY_OPENFHE, "openfhe"))
"""The same small ring for both backends."""
ACTIVATIONS = ("relu:59", "minimax:4", "2f12g1", "f1", "relu-aq", "square")


def program(
    graph: Graph, params: ParameterSet = TINY, *, seed: int = 0, activation: str = "relu:59", backend: str = "native"
) -> Program:
    """A program of random weights; ranges from 2 up."""
    rng = np.random.default_rng(seed)
    constants = {}
    for name, shape in graph.tensor_shapes().items():
        constants[name] = rng.uniform(0.5, 1.5, shape) if "var" in name else rng.normal(size=shape)
    return Program(
        graph=graph,
        constants=constants,
        ranges={n.name: 2.0 + i for i, n in enumerate(graph) if n.op.activation},
        params=params,
        backend=find_backend(backend),
        relu=find_activation(activation),
        input_bound=2.5,
    )


def small(build: Callable[[GraphBuilder], str | None], **options: Any) -> Program:
    """What `build` makes of a (3, 8, 8) input, with a linear layer after the value whose name it returns."""
    builder = GraphBuilder("small", (3, 8, 8))
    if last := build(builder):
        builder.linear("end", last, 4)
    return program(builder.build(), **options)


def run(start: Program, *passes: Pass) -> Program:
    """The passes in order, each result checked by the rules of its stage."""
    for one in passes:
        start = verify(one(start), STAGES[one])
    return start


def packed(name: str = "resnet8-tiny", **options: Any) -> Program:
    return run(program(zoo.network(name), **options), canonicalise, approximate, pack)


def scaled(name: str = "resnet8-tiny", **options: Any) -> Program:
    return run(packed(name, **options), scales)


def with_levels(levels: int, params: ParameterSet = TINY) -> ParameterSet:
    """The set with another number of levels after a bootstrap."""
    return dataclasses.replace(params, levels=levels)


def nodes_of(made: Program, kind: type[Op]) -> list[Node]:
    """The nodes of one kind of operation."""
    return [node for node in made.graph if isinstance(node.op, kind)]


def kinds(nodes: Sequence[Node] | Graph) -> list[str]:
    """The kinds of their operations."""
    return [node.op.kind for node in nodes]


def convolution(made: Program, name: str) -> tuple[Conv2d, Any, Any]:
    """A convolution of a program: what it is, its weight, and its bias or None."""
    op = made.graph[name].op
    assert isinstance(op, Conv2d)
    return op, made.constants[op.weight], made.constants[op.bias] if op.bias else None
