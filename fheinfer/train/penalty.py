"""Keeping the inputs of polynomial activations small, because they grow where ReLU would not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from fheinfer.graph.ir import POLYNOMIALS, Graph

_LARGEST = 0.01


def excess(graph: Graph, values: Mapping[str, Tensor], bounds: Mapping[str, Tensor | float]) -> Tensor:
    """How far the inputs of polynomial activations lie outside [-bound, bound]: a number, 0 where none does.

    The sum over activations of the mean of the squared excess, which makes the bulk of the values stay inside, and a
    hundredth of the largest excess, which pulls at the one value that an average over millions does not feel.

    Args:
        values: outputs of the nodes by name, as of `GraphModule.forward_all`.
        bounds: that of each polynomial activation by name, as of `GraphModule.bounds`.
    """
    total = torch.zeros((), device=values[graph.output.name].device)
    for node in graph:
        if node.op in POLYNOMIALS:
            outside = functional.relu(values[node.inputs[0]].float().abs() - bounds[node.name])
            total = total + outside.square().mean() + _LARGEST * outside.amax()
    return total
