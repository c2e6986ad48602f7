"""Labelled images as batches of network inputs, in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fheinfer.data.datasets import LabelledImages
from fheinfer.errors import GraphError
from fheinfer.model.graph import Graph
from fheinfer.progress import ProgressCallback, silent

BATCH = 100
"""Few enough images that the values of a layer stay in the cache: 500 take twice as long."""


def to_input(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalises uint8 (B, H, W, 3) to float32 (B, 3, H, W), channels last in memory."""
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=images.device) for v in (mean, std))
    return ((images.float() / 255 - shift) / scale).permute(0, 3, 1, 2)


def inputs_of(
    images: LabelledImages,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    progress: ProgressCallback = silent,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (inputs, labels) of all images in order.

    Args:
        progress: called after each batch was used, with the images that are done.
    """
    for start in range(0, len(images), BATCH):
        part = torch.from_numpy(images.images[start : start + BATCH].copy()).to(device)
        labels = torch.from_numpy(images.labels[start : start + BATCH].copy()).long().to(device)
        yield to_input(part, mean, std), labels
        progress(start + len(labels), len(images))


def sized_for(graph: Graph, images: LabelledImages) -> LabelledImages:
    """Averages images down to the size that a network takes.

    Raises:
        GraphError: the network takes no images, or none that are square.
        DatasetError: the images cannot be averaged down to that size.
    """
    height, width = graph.image_size
    if height != width:
        raise GraphError(f"{graph.name} takes images of {height}x{width}, and data sets hold square ones")
    return images.resized(height)
