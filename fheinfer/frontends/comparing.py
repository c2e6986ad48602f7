"""What an imported graph computes in clear, with the client's part, to be compared with the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fheinfer.frontends.translation import Array
from fheinfer.model.graph import Graph
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from torch import Tensor


def evaluate(graph: Graph, tensors: Mapping[str, Array], x: Array, kind: type = np.float64) -> list[Array]:
    """The outputs of a graph in PyTorch, in float64 or another kind, for a batch (B, *shape) of inputs."""
    with needs_torch("comparing a network with the original"):
        import torch
    left = {name: len(graph.users(name)) + (name in graph.outputs) for name in graph.shapes}
    values: dict[str, Tensor] = {}
    with torch.no_grad():
        for node in graph:
            arrays = {role: torch.tensor(np.array(tensors[n], kind)) for role, n in node.op.tensors.items()}
            inputs = [values[name] for name in node.inputs] or [torch.tensor(np.asarray(x, kind))]
            inputs = inputs if node.inputs else [inputs[0].reshape(len(x), *graph.input_shape)]
            values[node.name] = node.op.reference(inputs, arrays)
            for name in node.inputs:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
    return [values[name].numpy() for name in graph.outputs]


def finish(output: Array, final: str) -> Array:
    """What the client does to an output (B, ...) in the end."""
    if final == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-output)))
    if final in ("softmax", "log_softmax"):
        shifted = output - output.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return np.asarray(np.exp(logs) if final == "softmax" else logs)
    return output
