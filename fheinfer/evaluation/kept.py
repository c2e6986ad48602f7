"""What polynomials leave of a network's outputs, measured on examples: by this a plan keeps the bits asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fheinfer.approx.fidelity import REFERENCES
from fheinfer.compiler.activations import polynomials_of
from fheinfer.data.labelled import DataSet
from fheinfer.errors import PlanError
from fheinfer.evaluation.approximated import Approximated
from fheinfer.evaluation.inputs import inputs_of
from fheinfer.frontends.comparing import evaluate
from fheinfer.model.model import MAX_BITS, Model

F64 = NDArray[np.float64]

EXAMPLES = 64
"""Looked at at most, as far as `_VALUES` allow."""
_VALUES = 1 << 24


def with_kept_bits(model: Model, examples: DataSet) -> Model:
    """Returns the model with the bits that its outputs keep by each of `fidelity.REFERENCES`, in the median.

    Nothing is measured of a network whose activations are polynomials, or whose ranges no plan can have.

    Args:
        model: with ranges.
        examples: as `calibrate` takes them.
    """
    graph = model.graph
    if all(node.op.polynomial for node in graph.activations):
        return replace(model, kept_bits={})
    count = min(EXAMPLES, max(2, _VALUES // sum(int(np.prod(shape)) for shape in graph.shapes.values())))
    few = examples.fitted(graph.input_shape).spread(count)
    x, _ = next(inputs_of(few, model.mean, model.std, torch.device("cpu"), batch=count))
    exact = evaluate(graph, model.tensors, x.numpy(), np.float32)
    kept: dict[str, float] = {}
    for name in REFERENCES:
        try:
            program = polynomials_of(model, name)
        except PlanError:
            return replace(model, kept_bits={})
        outputs = Approximated(program).outputs(x)
        bits = [_bits(clear, outputs[output].numpy()) for output, clear in zip(graph.outputs, exact, strict=True)]
        kept[name] = float(np.median(np.min(bits, axis=0)))
    return replace(model, kept_bits=kept)


def _bits(clear: F64, found: F64) -> F64:
    """Of the worst value of every example, relative to its largest; 0 where it is no number."""
    axes = tuple(range(1, clear.ndim))
    with np.errstate(all="ignore"):
        bits = -np.log2(np.abs(found - clear).max(axes) / np.abs(clear).max(axes))
    return np.asarray(np.clip(np.nan_to_num(bits, nan=0.0), 0.0, MAX_BITS))
