"""Keeping the values of polynomial activations small, because they grow where ReLU's would not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from fheinfer.model.graph import Graph

Bounds = Mapping[str, tuple[Tensor | float, Tensor | float]]
"""Activation -> what the bulk of its inputs, and what the largest of an image, should stay within."""
OUTPUT = 4
"""The largest output may be this many times the largest input."""
KNEE = 16.0
"""Excess from which on what is punished is how many times too large a value is, no longer how much: values that
square from layer to layer would otherwise leave no gradient for anything else."""
LIMIT = 16
"""An image is dropped behind the activation whose output is this many times as large as the bulk should be."""


def without_runaways(bounds: Bounds) -> Callable[[str, Tensor], Tensor]:
    """Returns a change for `GraphModule.forward_all` that drops runaway images.

    An image is dropped from the layers behind the first polynomial whose output it drives beyond all bounds. Its values
    would grow without end, and the gradient and the statistics of its batch with them; `excess` sees it where it
    happens.
    """

    def change(name: str, value: Tensor) -> Tensor:
        if name not in bounds:
            return value
        kept = largest_of_each(value.detach()) <= LIMIT * bounds[name][0]
        return torch.where(kept.view(-1, *[1] * (value.ndim - 1)), value, 0.0)

    return change


def excess(graph: Graph, values: Mapping[str, Tensor], bounds: Bounds) -> Tensor:
    """Measures how far the values of polynomial activations lie outside [-bound, bound]: 0 where none does.

    The sum over activations of the mean of the squared excess of inputs, which makes the bulk of the values stay
    inside, and of the squared excess of each image's largest input and output, averaged over images: one value
    that an average over millions does not feel is what the next square makes larger still. Far beyond `KNEE`, squares
    become logarithms.

    Args:
        values: outputs of the nodes by name, as of `GraphModule.forward_all`.
        bounds: that of each polynomial activation by name, as of `GraphModule.bounds`.
    """
    total = torch.zeros((), device=values[graph.output.name].device)
    for node in graph:
        if node.name in bounds:
            inputs, outputs = (values[name].float() for name in (node.inputs[0], node.name))
            bulk, largest = bounds[node.name]
            total = total + functional.relu(inputs.abs() - bulk).clamp(max=KNEE).square().mean()
            total = total + _beyond(inputs, largest) + _beyond(outputs, OUTPUT * largest)
    return total


def _beyond(values: Tensor, largest: Tensor | float) -> Tensor:
    over = functional.relu(largest_of_each(values) - largest) / KNEE
    return KNEE**2 * over.square().log1p().mean()


def largest_of_each(values: Tensor) -> Tensor:
    """Returns the largest |value| of each image, over all axes at once: a compiled network reads in order."""
    return values.abs().amax(tuple(range(1, values.ndim)))
