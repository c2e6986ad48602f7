from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fheinfer.train.loop import train
from fheinfer.train.recipe import Recipe
from fheinfer.train.synthetic import stripes
from fheinfer.weights import Weights, load

QUICK = Recipe(epochs=3, batch=50, peak_lr=0.2, average=0.9, crop=2, bfloat16=False, seed=5)


@pytest.fixture(scope="session", autouse=True)  # before any fixture that trains
def one_thread() -> None:
    torch.set_num_threads(1)  # small tensors: threads cost more than they bring


@pytest.fixture(scope="session")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 training and 1,000 test pictures of ten kinds."""
    return stripes(tmp_path_factory.mktemp("sheets"))


@pytest.fixture(scope="session")
def relu_file(sheets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny ReLU network, trained on the sheets by `QUICK`."""
    out = tmp_path_factory.mktemp("relu") / "tiny.safetensors"
    train("resnet8-tiny", out, sheets, QUICK)
    return out


@pytest.fixture(scope="session")
def relu_weights(relu_file: Path) -> Weights:
    return load(relu_file)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public data beside the checkout: `cifar10/`, `weights/`."""
    folder = Path(os.environ.get("FHEINFER_PUBLIC_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "cifar10").is_dir() or not (folder / "weights").is_dir():
        pytest.skip(f"no public data in {folder}; set FHEINFER_PUBLIC_DATA")
    return folder
