"""A graph in PyTorch, operation by operation and in float64: what everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.model.graph import Graph

F64 = NDArray[np.float64]


def evaluate_graph(graph: Graph, tensors: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> dict[str, F64]:
    """Computes the values of all nodes for one normalised input, by `Op.reference`.

    Args:
        tensors: name -> array, of a model or of a program on its way to a plan.
        x: in the shape of the graph's input.

    Returns:
        Node name -> value, without a batch axis.

    Raises:
        ModuleNotFoundError: torch is not installed.
    """
    import torch

    values: dict[str, torch.Tensor] = {}
    for node in graph:
        own = {role: torch.tensor(np.asarray(tensors[n], np.float64)) for role, n in node.op.tensors.items()}
        inputs = [values[name] for name in node.inputs] or [torch.tensor(np.asarray(x, np.float64)[None])]
        values[node.name] = node.op.reference(inputs, own)
    return {name: np.asarray(value[0].numpy(), np.float64) for name, value in values.items()}
