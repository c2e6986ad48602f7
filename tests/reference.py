"""A network in PyTorch, operation by operation and in float64: what plans are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fheinfer.model.model import Model

F64 = NDArray[np.float64]


def reference_layers(model: Model, x: F64) -> dict[str, F64]:
    """Values of all nodes for one normalised input, by `Op.reference`; the test is skipped without torch."""
    torch = pytest.importorskip("torch")
    values: dict[str, Any] = {}
    for node in model.graph:
        tensors = {role: torch.tensor(model.tensors[n].astype(np.float64)) for role, n in node.op.tensors.items()}
        inputs = [values[name] for name in node.inputs] or [torch.tensor(x[None])]
        values[node.name] = node.op.reference(inputs, tensors)
    return {name: np.asarray(value[0].numpy(), np.float64) for name, value in values.items()}


def reference_outputs(model: Model, x: F64) -> F64:
    """Outputs for one normalised input."""
    return reference_layers(model, x)[model.graph.output.name]
