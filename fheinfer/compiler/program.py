"""What passes hand on: a graph and the arrays its nodes name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.approx import Activation, activation
from fheinfer.crypto.params import ParameterSet
from fheinfer.model.graph import Graph, Node

if TYPE_CHECKING:
    from fheinfer.compiler.cost.base import CostModel

PLACED_UNDER = _core.KeyPolicy.fast
Arrays = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Program:
    """A graph on its way to a plan.

    constants  tensor name -> array; passes rewrite these, never the trained weights
    input_bound  largest |value| of a normalised picture
    ranges     relu node -> largest |input| it must be valid for, margin included
    """

    graph: Graph
    constants: Arrays
    ranges: Mapping[str, float]
    params: ParameterSet
    input_bound: float

    @cached_property
    def activation(self) -> Activation:
        """What stands for a ReLU."""
        return activation(self.params.activation)

    @property
    def cost(self) -> CostModel:
        """By which bootstraps and levels are placed: the same for all keys, so that a client need not know them."""
        return self.cost_under(PLACED_UNDER)

    def cost_under(self, keys: _core.KeyPolicy) -> CostModel:
        return _cost(self.params, keys)

    def depth(self, node: Node) -> int:
        """Levels a node consumes."""
        if node.op == "chebyshev":
            degree = len(self.constants[node.weights["coefficients"]]) - 1
            return self.params.level_model().chebyshev_depth(degree)
        if node.op == "linear":
            return 2 if node.name == self.graph.output.name else 1  # the output layer masks its partial sums
        return int(node.op in ("conv2d", "multiply", "quadratic", "gain"))

    def with_nodes(self, nodes: list[Node], constants: Arrays | None = None) -> Program:
        graph = Graph(self.graph.name, tuple(nodes))
        return replace(self, graph=graph, constants=self.constants if constants is None else constants)


@lru_cache(maxsize=8)
def _cost(params: ParameterSet, keys: _core.KeyPolicy) -> CostModel:
    from fheinfer.compiler.cost.base import cost_model

    return cost_model(params, _core.Context(params.core()), keys)
