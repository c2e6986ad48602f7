from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fheinfer.train.data import COLUMNS, PER_SHEET, ROWS, SIZE
from fheinfer.train.loop import train
from fheinfer.train.recipe import Recipe
from fheinfer.weights import Weights, load

QUICK = Recipe(epochs=3, batch=50, peak_lr=0.2, average=0.9, crop=2, bfloat16=False, seed=5)


@pytest.fixture(scope="session", autouse=True)  # before any fixture that trains
def one_thread() -> None:
    torch.set_num_threads(1)  # small tensors: threads cost more than they bring


@pytest.fixture(scope="session")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 training and 1,000 test pictures of ten kinds, which can be told apart by learning, not by one pixel:
    a stripe pattern (five directions) in one of two colours, at a random phase and brightness, under noise."""
    folder = tmp_path_factory.mktemp("sheets")
    random = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 1)):
        labels = random.integers(0, 10, count * PER_SHEET).astype(np.uint8)
        np.save(folder / f"{part}_labels.npy", labels)
        for index, group in enumerate(labels.reshape(count, PER_SHEET)):
            tiles = striped(group, random).reshape(ROWS, COLUMNS, SIZE, SIZE, 3)
            sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(ROWS * SIZE, COLUMNS * SIZE, 3)
            Image.fromarray(sheet).save(folder / f"{part}_{index:02}.webp", lossless=True, method=0)
    return folder


@pytest.fixture(scope="session")
def relu_file(sheets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny ReLU network, trained on the sheets by `QUICK`."""
    out = tmp_path_factory.mktemp("relu") / "tiny.safetensors"
    train("resnet8-tiny", out, sheets, QUICK)
    return out


@pytest.fixture(scope="session")
def relu_weights(relu_file: Path) -> Weights:
    return load(relu_file)


def striped(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """uint8 (N, 32, 32, 3); mirroring a picture keeps its class."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = np.array([[2, 0], [0, 2], [1, 0], [0, 1], [0, 0]])[labels % 5]
    phase = random.uniform(0, 2 * np.pi, (len(labels), 1, 1))
    pattern = np.cos(2 * np.pi * (waves[:, :1, None] * y + waves[:, 1:, None] * x) + phase)
    colour = np.where((labels < 5)[:, None], (1.0, 0.3, 0.1), (0.1, 0.4, 1.0))[:, None, None]
    noise = random.normal(0, 25, (len(labels), SIZE, SIZE, 3))
    light: NDArray[np.float64] = 110 + 60 * pattern[..., None] * colour + noise
    return light.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public data beside the checkout: `cifar10/`, `weights/`."""
    folder = Path(os.environ.get("FHEINFER_PUBLIC_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "cifar10").is_dir() or not (folder / "weights").is_dir():
        pytest.skip(f"no public data in {folder}; set FHEINFER_PUBLIC_DATA")
    return folder
