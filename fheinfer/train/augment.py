"""uint8 pictures to network inputs, with and without augmentation, on whole batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fheinfer.data.datasets import Pictures
from fheinfer.train.recipe import Recipe


def to_input(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, H, W, 3) -> normalised float32 (B, 3, H, W), channels last in memory."""
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=images.device) for v in (mean, std))
    return ((images.float() / 255 - shift) / scale).permute(0, 3, 1, 2)


def batches(pictures: Pictures, recipe: Recipe, epoch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, shifted, mirrored, stretched: (inputs, labels); the rest of a batch is left out.

    The order and the shifts depend on (recipe.seed, epoch) only, so a resumed run sees what an unbroken one sees.
    """
    random = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    images = torch.from_numpy(pictures.images.copy())
    labels = torch.from_numpy(pictures.labels.copy()).long()
    count, height, width, _ = images.shape
    padded = _pad(images, recipe.crop)
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
