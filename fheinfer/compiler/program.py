"""What passes hand on: a graph and the arrays its nodes name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.graph.ir import Graph, Node
from fheinfer.params import ParameterSet

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

    def with_nodes(self, nodes: list[Node], constants: Arrays | None = None) -> Program:
        graph = Graph(self.graph.name, tuple(nodes))
        return replace(self, graph=graph, constants=self.constants if constants is None else constants)
