"""A network in PyTorch, operation by operation and in float64: what plans are compared with."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fheinfer.evaluation.graph import evaluate_graph
from fheinfer.model.model import Model

F64 = NDArray[np.float64]


def reference_layers(model: Model, x: F64) -> dict[str, F64]:
    """Values of all nodes for one normalised input, by `Op.reference`; the test is skipped without torch."""
    pytest.importorskip("torch")
    return evaluate_graph(model.graph, model.tensors, x)


def reference_outputs(model: Model, x: F64) -> F64:
    """Outputs for one normalised input."""
    return reference_layers(model, x)[model.graph.output.name]
