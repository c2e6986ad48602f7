"""Images that anyone can make, for whoever has no CIFAR-10: to try training with, in notebooks and in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fheinfer.data.cifar import COLUMNS, PER_MOSAIC, ROWS, SIZE
from fheinfer.data.labelled import U8

KINDS = tuple(
    f"{colour}, {pattern}"
    for colour in ("orange", "blue")
    for pattern in ("two rows", "two columns", "one row", "one column", "plain")
)
"""Of images, in label order."""


def stripes(folder: Path, seed: int = 0) -> Path:
    """Writes 2,000 training and 1,000 test images as mosaics (see `cifar`) and returns `folder`.

    Ten kinds, which can be told apart by learning, not by one pixel: see `striped`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for part, count in (("train", 2), ("test", 1)):
        labels = random.integers(0, 10, count * PER_MOSAIC).astype(np.uint8)
        np.save(folder / f"{part}_labels.npy", labels)
        for index, group in enumerate(labels.reshape(count, PER_MOSAIC)):
            tiles = striped(group, random).reshape(ROWS, COLUMNS, SIZE, SIZE, 3)
            mosaic = tiles.transpose(0, 2, 1, 3, 4).reshape(ROWS * SIZE, COLUMNS * SIZE, 3)
            Image.fromarray(mosaic).save(folder / f"{part}_{index:02}.webp", lossless=True, method=0)
    return folder


def striped(labels: U8, random: np.random.Generator) -> U8:
    """uint8 (N, 32, 32, 3): a stripe pattern (five directions) in one of two colours, at a random phase, under noise.

    Mirroring an image keeps its class.
    """
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = np.array([[2, 0], [0, 2], [1, 0], [0, 1], [0, 0]])[labels % 5]
    phase = random.uniform(0, 2 * np.pi, (len(labels), 1, 1))
    pattern = np.cos(2 * np.pi * (waves[:, :1, None] * y + waves[:, 1:, None] * x) + phase)
    colour = np.where((labels < 5)[:, None], (1.0, 0.3, 0.1), (0.1, 0.4, 1.0))[:, None, None]
    noise = random.normal(0, 25, (len(labels), SIZE, SIZE, 3))
    light: npt.NDArray[np.float64] = 110 + 60 * pattern[..., None] * colour + noise
    return light.clip(0, 255).astype(np.uint8)
