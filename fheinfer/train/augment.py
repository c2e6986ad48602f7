"""uint8 images to augmented network inputs, on whole batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fheinfer.data.datasets import LabelledImages
from fheinfer.evaluation.inputs import to_input
from fheinfer.train.recipe import Recipe


def batches(
    images: LabelledImages, recipe: Recipe, epoch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields one epoch in random order, shifted, mirrored, stretched: (inputs, labels); a batch not full is omitted.

    The order and the shifts depend on (recipe.seed, epoch) only, so a resumed run sees what an unbroken one sees.
    """
    random = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    pixels = torch.from_numpy(images.images.copy())
    labels = torch.from_numpy(images.labels.copy()).long()
    count, height, width, _ = pixels.shape
    padded = _pad(pixels, recipe.crop)
    order = torch.randperm(count, generator=random)
    for pick in torch.split(order, recipe.batch):
        if len(pick) < recipe.batch and count >= recipe.batch:
            return
        top, left = (torch.randint(0, 2 * recipe.crop + 1, (len(pick), 1), generator=random) for _ in range(2))
        rows = top + torch.arange(height)
        columns = left + torch.arange(width)
        if recipe.flip:
            mirrored = torch.rand(len(pick), 1, generator=random) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        crops = padded[pick[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = to_input(crops.to(device), recipe.mean, recipe.std)
        if recipe.contrast:
            x = x * (1 + recipe.contrast * torch.rand(len(pick), 1, 1, 1, generator=random)).to(device)
        yield x, labels[pick].to(device)


def _pad(images: Tensor, border: int) -> Tensor:
    """Mirrors the edges: (N, H, W, 3) -> (N, H + 2 border, W + 2 border, 3)."""
    for axis in (1, 2):
        size = images.shape[axis]
        index = torch.arange(-border, size + border).abs()
        index = torch.where(index >= size, 2 * (size - 1) - index, index)
        images = images.index_select(axis, index)
    return images
