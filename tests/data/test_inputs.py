"""The shipped images are what inputs/draw.py draws, and the shipped model classifies them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fheinfer.data.images import load_image, normalise
from fheinfer.evaluation.metrics import top_class
from fheinfer.evaluation.plain import plain_outputs
from fheinfer.model.model import load

ROOT = Path(__file__).parents[2]
SHOWN = {"airplane.png": "airplane", "luis.png": "cat", "vale.jpg": "dog"}


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "inputs" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SHOWN)
def test_the_script_draws_the_image(draw: ModuleType, name: str) -> None:
    drawn = np.asarray(draw.IMAGES[name](), float)
    kept = np.asarray(Image.open(ROOT / "inputs" / name), float)
    assert abs(drawn - kept).mean() < 3  # JPEG and another Pillow may round otherwise


@pytest.mark.parametrize("name", SHOWN)
def test_the_model_classifies_the_image(name: str) -> None:
    pytest.importorskip("torch")
    model = load(ROOT / "weights" / "resnet20.safetensors")
    outputs = plain_outputs(model, normalise(load_image(ROOT / "inputs" / name), model.mean, model.std))
    assert model.classes[top_class(outputs)] == SHOWN[name]
