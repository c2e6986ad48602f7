"""Small programs to run passes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.fold_batch_norm import fold_batch_norm
from fheinfer.compiler.passes.fold_pool import fold_pool
from fheinfer.compiler.passes.layouts import layouts
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.program import Program
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph, GraphBuilder
from fheinfer.model.model import shapes
from fheinfer.model.verify import verify

TINY = parameter_set("insecure-tiny")
REFERENCE = parameter_set("insecure-tiny-openfhe")
ACTIVATIONS = ("relu:59", "minimax:4", "2f12g1", "f1", "relu-aq", "square")


def program(graph: Graph, params: ParameterSet = TINY, seed: int = 0) -> Program:
    rng = np.random.default_rng(seed)
    constants = {}
    for name, shape in shapes(graph).items():
        constants[name] = rng.uniform(0.5, 1.5, shape) if "var" in name else rng.normal(size=shape)
    ranges = {n.name: 2.0 + i for i, n in enumerate(graph) if n.op == "relu"}
    return Program(verify(graph), constants, ranges, params, 2.5)


def small(build: Callable[[GraphBuilder], object]) -> Program:
    builder = GraphBuilder("small", (3, 8, 8))
    build(builder)
    return program(builder.build())


def run(start: Program, *passes: Callable[[Program], Program]) -> Program:
    for one in passes:
        start = one(start)
        verify(start.graph)
    return start


def placed(name: str = "resnet8-tiny", activation: str = TINY.activation, **changes: Any) -> Program:
    params = dataclasses.replace(TINY, activation=activation, **changes)
    return run(program(zoo.network(name), params), fold_batch_norm, fold_pool, approximate, layouts)


def scaled(name: str = "resnet8-tiny", activation: str = TINY.activation, **changes: Any) -> Program:
    return run(placed(name, activation, **changes), scales)
