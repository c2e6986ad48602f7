"""The network in clear, in float64: the reference every encrypted result is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fheinfer.crypto.client_tensors import finished
from fheinfer.errors import InputError
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from torch import Tensor

    from fheinfer.model.graph import Graph
    from fheinfer.model.model import Model

F64 = npt.NDArray[np.float64]


def plain_outputs(model: Model, x: npt.NDArray[np.floating]) -> Any:
    """Computes what the network returns of one normalised input, an image (C, H, W) or a vector (F,).

    That is an array, (classes,) of a classifier, or arrays by name where there are several outputs; with the last
    softmax or sigmoid, as `Client.decrypt`.

    Raises:
        UsageError: torch is not installed.
        InputError: the input is not of the network's input shape.
    """
    each = {name: finished(value, model.final) for name, value in plain_values(model, x).items()}
    return next(iter(each.values())) if len(each) == 1 else each


def plain_values(model: Model, x: npt.NDArray[np.floating]) -> dict[str, F64]:
    """Computes every output by name without the last softmax or sigmoid, as `Client.outputs`. Raises the same."""
    layers = plain_layers(model, x)
    return {name: layers[name] for name in model.graph.outputs}


def plain_layers(model: Model, x: npt.NDArray[np.floating]) -> dict[str, F64]:
    """Computes the output of every node, (C, H, W) or (F,), by node name in the order of the graph.

    Each node is computed by the reference of its operation (`model.ops`) and by nothing else.

    Raises:
        UsageError: torch is not installed.
        InputError: the input is not of the network's input shape.
    """
    with needs_torch("the plain reference"):
        import torch
    if x.shape != model.graph.input_shape:
        raise InputError(f"{model.name} takes inputs of the shape {model.graph.input_shape}, not {x.shape}")
    tensors = {name: torch.tensor(array, dtype=torch.float64) for name, array in model.tensors.items()}
    with torch.inference_mode():
        values = node_values(model.graph, tensors, torch.tensor(x, dtype=torch.float64).unsqueeze(0))
        return {name: np.asarray(value[0].numpy(), dtype=np.float64) for name, value in values}


def node_values(graph: Graph, tensors: Mapping[str, Tensor], x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields every node's name and output, (B, *shape), for a batch of inputs; none is kept after its last use.

    Args:
        tensors: by name, of the same kind of numbers as `x`.
    """
    last = {name: node.name for node in graph for name in node.inputs}
    values: dict[str, Tensor] = {}
    for node in graph:
        inputs = [values[name] for name in node.inputs] or [x]
        values[node.name] = node.op.reference(inputs, {role: tensors[name] for role, name in node.op.tensors.items()})
        del inputs
        for name in set(node.inputs):
            if last[name] == node.name:
                del values[name]
        yield node.name, values[node.name]
