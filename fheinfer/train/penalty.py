"""Keeping the inputs of polynomial activations small, because they grow where ReLU would not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from fheinfer.graph.ir import POLYNOMIALS, Graph

Bounds = Mapping[str, tuple[Tensor | float, Tensor | float]]
"""Activation -> what the bulk of its inputs, and what the largest of a picture, should stay within."""


def excess(graph: Graph, values: Mapping[str, Tensor], bounds: Bounds) -> Tensor:
    """How far the inputs of polynomial activations lie outside [-bound, bound]: a number, 0 where none does.

    The sum over activations of the mean of the squared excess, which makes the bulk of the values stay inside, and of
    the squared excess of each picture's largest value, averaged over pictures: one value that an average over millions
    does not feel is what the next square makes larger still.

    Args:
        values: outputs of the nodes by name, as of `GraphModule.forward_all`.
        bounds: that of each polynomial activation by name, as of `GraphModule.bounds`.
    """
    total = torch.zeros((), device=values[graph.output.name].device)
    for node in graph:
        if node.op in POLYNOMIALS:
            sizes, (bulk, largest) = values[node.inputs[0]].float().abs(), bounds[node.name]
            total = total + functional.relu(sizes - bulk).square().mean()
            total = total + functional.relu(sizes.flatten(1).amax(1) - largest).square().mean()
    return total
