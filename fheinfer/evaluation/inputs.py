"""Labelled examples as batches of network inputs, in torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fheinfer.data.labelled import DataSet
from fheinfer.model.graph import Graph
from fheinfer.progress import ProgressCallback, silent

BATCH = 100
"""Few enough images that the values of a layer stay in the cache: 500 take twice as long."""
VALUES_AT_ONCE = 1 << 25
"""Of all layers together: batches of large networks are smaller."""


def batch_size(graph: Graph) -> int:
    """Returns how many examples to evaluate at once."""
    return max(1, min(BATCH, VALUES_AT_ONCE // sum(math.prod(shape) for shape in graph.shapes.values())))


def to_input(inputs: Tensor, mean: Sequence[float], std: Sequence[float], normalised: bool = False) -> Tensor:
    """Makes of examples what the network takes, float32.

    uint8 (B, H, W, C) is normalised per channel on the scale 0 to 1, to (B, C, H, W), channels last in memory. Real
    vectors (B, F) are normalised per feature, other real inputs are taken as they are.

    Args:
        normalised: vectors are as the network takes them, too.
    """
    if inputs.dtype != torch.uint8 and (normalised or inputs.ndim != 2):
        return inputs.float()
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=inputs.device) for v in (mean, std))
    if inputs.dtype == torch.uint8:
        return ((inputs.float() / 255 - shift) / scale).permute(0, 3, 1, 2)
    return (inputs.float() - shift) / scale


def inputs_of(
    data: DataSet,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    progress: ProgressCallback = silent,
    batch: int = BATCH,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (inputs, labels) of all examples in order.

    Args:
        progress: called after each batch was used, with the examples that are done.
        batch: examples at once.
    """
    for start in range(0, len(data), batch):
        part = torch.from_numpy(data.inputs[start : start + batch].copy()).to(device)
        labels = torch.from_numpy(data.labels[start : start + batch].copy()).to(device)
        yield to_input(part, mean, std, data.normalised), labels
        progress(start + len(labels), len(data))
