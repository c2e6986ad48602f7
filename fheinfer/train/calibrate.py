"""Measuring what goes into the network and into every operation that needs a range, in passes that keep no tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fheinfer.data.labelled import DataSet
from fheinfer.data.loaders import from_python
from fheinfer.errors import DatasetError, RangeError
from fheinfer.evaluation.ranges import BINS, Histogram, Ranges
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from fheinfer.optional import needs_torch, require
from fheinfer.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = 10_000
LIMIT = 1_000
_ROUNDING = 1e-3
_UNNORMALISED = 0.2
"""Images whose black is below minus that, and that have no value below 0, are not normalised."""


def calibrate(model: Model, data: Any, *, limit: int | None = LIMIT, progress: ProgressCallback = silent) -> Model:
    """Returns the model with ranges measured on `data`: `fheinfer.calibrate`, and `Model.calibrate`.

    What is measured is the largest |value| of the network's input, where pixels do not bound it, and of the inputs of
    every activation and of every other operation that needs a range. A client refuses inputs beyond it.

    Args:
        data: a DataLoader or any iterable of batches, an array, a tensor, a `DataSet`, or the path of a data set or a
            folder of class folders (`data.loaders.from_python`). Labels are not needed.
        limit: at most so many examples; None for all.
        progress: called with the examples that are done.

    Raises:
        UsageError: torch is not installed.
        DatasetError: no examples, nothing but zeros, not of the network's input shape, or not normalised as the model
            says.
        RangeError: a value that is not a number.
    """
    require("torch", "calibration")
    examples = from_python(data, model.graph.input_shape, limit)
    return calibrated(model, measure_ranges(model, examples, progress=progress), examples, progress)


def calibrated(model: Model, ranges: Ranges, examples: DataSet, progress: ProgressCallback = silent) -> Model:
    """Returns the model with ranges that were measured, and with what polynomials on them leave of its outputs.

    Raises:
        MismatchError: the ranges are of another model.
    """
    from fheinfer.evaluation.kept import with_kept_bits

    ranges.require(model)
    return with_kept_bits(model.with_ranges(ranges.largest()), examples, progress)


def measure_ranges(model: Model, data: DataSet, margin: float = 1.0, progress: ProgressCallback = silent) -> Ranges:
    """Measures range and histogram of the inputs of every activation, and of whatever else needs a range.

    The network's input is among them, under its name, unless it is an image whose pixels bound it.

    Args:
        data: at least one example; it is made to fit the network's input.
        progress: called with the examples that are done.

    Raises:
        UsageError: a margin below 1, or torch is not installed.
        DatasetError: as `calibrate` says.
        RangeError: a value that is not a number.
    """
    with needs_torch("calibration"):
        import torch

        from fheinfer.evaluation.inputs import batch_size, inputs_of

    graph = model.graph
    examples = data.fitted(graph.input_shape)
    ranged = {node.name for node in graph.ranged}
    if not examples.inputs.any():
        raise DatasetError(
            f"all {len(examples):,} {examples.noun} are 0 everywhere; measure on data as the network was trained on"
        )
    if not explain(model, examples):
        ranged.add(graph.input.name)
    histograms = {node.name: Histogram() for node in graph if node.name in ranged}
    found = Ranges(model.name, model.identity, len(examples), margin, histograms)
    tensors = {name: torch.tensor(array) for name, array in model.tensors.items()}
    batch = batch_size(graph)
    with torch.inference_mode():
        for x, _ in inputs_of(examples, model.mean, model.std, torch.device("cpu"), progress, batch):
            for node, inputs in _run(graph, tensors, x):
                if node.name in histograms:
                    for value in inputs:
                        _count(histograms[node.name], value, node.name)
    return found


def explain(model: Model, data: DataSet) -> bool:
    """Says whether pixels of 0 to 1 bound the network's inputs: those of images whose normalisation is known.

    Raises:
        DatasetError: real inputs that the model's normalisation does not make of any pixels.
    """
    shape, mean, std = model.graph.input_shape, np.array(model.mean), np.array(model.std)
    if data.images:
        return True
    if len(shape) != 3:
        return False
    axes = (0, 2, 3)
    low, high = data.inputs.min(axes), data.inputs.max(axes)
    plain = not mean.any() and (std == 1).all()
    black, white = -mean / std, (1 - mean) / std
    slack = _ROUNDING * (white - black)
    outside = bool((low < black - slack).any() or (high > white + slack).any())
    if plain:
        return not outside
    seen, allowed = (f"{a.min():.3g} to {b.max():.3g}" for a, b in ((low, high), (black, white)))
    if outside:
        advice = "give pixels as uint8" if low.min() >= 0 and high.max() > 1 else "say how they are normalised"
        raise DatasetError(
            f"inputs reach from {seen}, and the model's mean and std allow {allowed}; {advice}, or import the network "
            "with the mean and std of its training (0 and 1 for inputs that are no pixels)"
        )
    if len(data) > 1 and black.max() < -_UNNORMALISED and low.min() >= 0 and high.max() <= 1:
        raise DatasetError(
            f"inputs reach from {seen} only, and the model's mean and std make {allowed} of pixels: they look as "
            "if they were not normalised; normalise them as in training, or give pixels as uint8"
        )
    return True


def _run(graph: Graph, tensors: Mapping[str, Tensor], x: Tensor) -> Iterator[tuple[Node, list[Tensor]]]:
    """Yields every node with its inputs, of the input of the network that itself; values leave after their last use."""
    last = {name: node.name for node in graph for name in node.inputs}
    values: dict[str, Tensor] = {}
    for node in graph:
        inputs = [values[name] for name in node.inputs] or [x]
        yield node, inputs
        of_op = {role: tensors[name] for role, name in node.op.tensors.items()}
        values[node.name] = node.op.reference(inputs, of_op)
        for name in set(node.inputs):
            if last[name] == node.name:
                del values[name]


def _count(histogram: Histogram, value: Tensor, name: str) -> None:
    largest = float(value.abs().max())
    if not largest < math.inf:
        raise RangeError(f"the input of {name!r} is not a number on one of the examples")
    histogram.stretch(largest)
    counts = value.histc(BINS, -histogram.bin_range, histogram.bin_range)
    histogram.counts += counts.numpy().astype(np.int64)
