from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fheinfer.model.model import Model, load
from fheinfer.train.loop import train
from fheinfer.train.recipe import Recipe

QUICK = Recipe(epochs=3, batch=50, peak_lr=0.2, average=0.9, crop=2, bfloat16=False, seed=5)


@pytest.fixture(scope="session", autouse=True)  # before any fixture that trains
def one_thread() -> None:
    torch.set_num_threads(1)  # small tensors: threads cost more than they bring


@pytest.fixture(scope="session")
def relu_file(mosaics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny ReLU network, trained on the mosaics by `QUICK`."""
    out = tmp_path_factory.mktemp("relu") / "tiny.safetensors"
    train("resnet8-tiny", out, mosaics, QUICK)
    return out


@pytest.fixture(scope="session")
def relu_model(relu_file: Path) -> Model:
    return load(relu_file)
