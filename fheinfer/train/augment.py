"""Examples to augmented network inputs, on whole batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fheinfer.data.labelled import DataSet
from fheinfer.evaluation.inputs import to_input
from fheinfer.train.recipe import Recipe


def batches(data: DataSet, recipe: Recipe, epoch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields one epoch in random order, shifted, mirrored, stretched: (inputs, labels); a batch not full is omitted.

    Only images are shifted and mirrored. The order and the shifts depend on (recipe.seed, epoch) only, so a resumed run
    sees what an unbroken one sees.
    """
    random = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    inputs = torch.from_numpy(data.inputs.copy())
    labels = torch.from_numpy(data.labels.copy())
    crop = min(recipe.crop, *(size - 1 for size in inputs.shape[1:3])) if data.images else 0
    padded = _pad(inputs, crop) if data.images else inputs
    count = len(data)
    for pick in torch.split(torch.randperm(count, generator=random), recipe.batch):
        if len(pick) < recipe.batch and count >= recipe.batch:
            return
        chosen = _shifted(padded, pick, crop, recipe.flip, random) if data.images else padded[pick]
        x = to_input(chosen.to(device), recipe.mean, recipe.std, data.normalised)
        if recipe.contrast:
            factors = torch.rand(len(pick), *[1] * (x.ndim - 1), generator=random)
            x = x * (1 + recipe.contrast * factors).to(device)
        yield x, labels[pick].to(device)


def _shifted(padded: Tensor, pick: Tensor, crop: int, flip: bool, random: torch.Generator) -> Tensor:
    """The images of a batch at random places of what was padded by `crop`, half of them mirrored."""
    height, width = (size - 2 * crop for size in padded.shape[1:3])
    top, left = (torch.randint(0, 2 * crop + 1, (len(pick), 1), generator=random) for _ in range(2))
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if flip:
        mirrored = torch.rand(len(pick), 1, generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[pick[:, None, None], rows[:, :, None], columns[:, None, :]]


def _pad(images: Tensor, border: int) -> Tensor:
    """Mirrors the edges: (N, H, W, C) -> (N, H + 2 border, W + 2 border, C)."""
    for axis in (1, 2):
        size = images.shape[axis]
        index = torch.arange(-border, size + border).abs()
        index = torch.where(index >= size, 2 * (size - 1) - index, index)
        images = images.index_select(axis, index)
    return images
