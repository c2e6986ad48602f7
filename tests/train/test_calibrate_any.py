"""Ranges of any model, from any data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fheinfer
from fheinfer.data.labelled import DataSet
from fheinfer.errors import DatasetError, RangeError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model, load
from fheinfer.model.ops import Add, Conv2d, Input, Linear, MaxPool, Product, Relu, Reshape, Silu
from fheinfer.train.calibrate import calibrate, measure_ranges

RANDOM = np.random.default_rng(0)
HALF = (0.5, 0.5, 0.5)
QUARTER = (0.25, 0.25, 0.25)


def image_model(mean: tuple[float, ...] = HALF, std: tuple[float, ...] = QUARTER) -> Model:
    """relu(conv) * x, a max pool, a linear layer."""
    nodes = (
        Node("input", Input((3, 4, 6))),
        Node("conv", Conv2d(3, 1, 1, 0, "conv.weight"), ("input",)),
        Node("relu", Relu(), ("conv",)),
        Node("gate", Product(), ("relu", "input")),
        Node("pool", MaxPool(2), ("gate",)),
        Node("fc", Linear(4, "fc.weight", "fc.bias"), ("pool",)),
    )
    return random(Graph("gated", nodes), mean, std)


def random(graph: Graph, mean: tuple[float, ...], std: tuple[float, ...]) -> Model:
    tensors = {name: RANDOM.normal(0, 1, shape).astype(np.float32) for name, shape in graph.tensor_shapes().items()}
    return Model(graph, tensors, mean, std)


def vector_model() -> Model:
    nodes = (
        Node("input", Input((2, 3))),
        Node("flat", Reshape((6,)), ("input",)),
        Node("fc", Linear(6, "fc.weight"), ("flat",)),
        Node("silu", Silu(), ("fc",)),
        Node("sum", Add(), ("silu", "flat")),
        Node("out", Linear(2, "out.weight"), ("sum",)),
    )
    return random(Graph("sequence", nodes), (0.0, 0.0), (1.0, 1.0))


def test_every_operation_that_needs_a_range_gets_that_of_all_its_inputs() -> None:
    model = image_model()
    pixels = RANDOM.integers(0, 256, (30, 4, 6, 3), dtype=np.uint8)
    found = model.calibrate(pixels)
    x = (torch.from_numpy(pixels).float() / 255 - 0.5) / 0.25
    conv = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), torch.from_numpy(model.tensors["conv.weight"].copy()))
    gate = conv.relu() * x.permute(0, 3, 1, 2)
    expected = {"relu": conv, "gate": torch.stack([conv.relu(), x.permute(0, 3, 1, 2)]), "pool": gate}
    assert found.ranges == pytest.approx({name: float(v.abs().max()) for name, v in expected.items()}, rel=1e-5)
    assert found.input_bound == model.input_bound == 2
    assert found.identity == model.identity
    assert found.tensors is not None


def test_an_input_that_no_pixels_bound_has_a_range_of_its_own(tmp_path: Path) -> None:
    model = vector_model()
    x = torch.randn(50, 2, 3) * 30
    found = fheinfer.calibrate(model, DataLoader(TensorDataset(x, torch.zeros(50)), batch_size=7))
    assert found.input_bound == found.ranges["input"] == float(x.abs().max())
    found.save(tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").input_bound == found.input_bound


def test_raw_pixels_are_explained_by_a_normalisation_of_0_and_1_or_of_their_scale() -> None:
    pixels = RANDOM.integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
    raw = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    scaled = image_model((0.0,) * 3, (1 / 255,) * 3)
    assert scaled.calibrate(pixels).input_bound == scaled.calibrate(raw).input_bound == pytest.approx(255)
    plain = image_model((0.0,) * 3, (1.0,) * 3)
    assert plain.calibrate(raw).input_bound == raw.max()
    assert plain.calibrate(raw / 255).input_bound == 1


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (lambda x: x * 255, "inputs reach from 0 to 255, .* allow -2 to 2; give pixels as uint8"),
        (lambda x: x, "look as if they were not normalised"),
        (lambda x: (x - 0.5) / 0.1, "allow -2 to 2; say how they are normalised"),
    ],
)
def test_inputs_that_the_normalisation_does_not_explain_are_refused(
    inputs: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    x = RANDOM.uniform(0, 1, (20, 3, 4, 6))
    x[0, :, 0, :2] = [0, 1]
    with pytest.raises(DatasetError, match=words):
        image_model().calibrate(inputs(x))
    image_model().calibrate((x - 0.5) / 0.25)


def test_values_that_are_no_numbers_and_shapes_that_do_not_fit_are_refused() -> None:
    model = image_model()
    huge = replace(model, tensors={**model.tensors, "conv.weight": np.full((3, 3, 1, 1), 3e38, np.float32)})
    pixels = np.full((2, 4, 6, 3), 255, np.uint8)
    with pytest.raises(RangeError, match="the input of 'relu' is not a number"):
        huge.calibrate(pixels)
    with pytest.raises(DatasetError, match="network takes"):
        model.calibrate(np.zeros((5, 3, 4, 7)))
    with pytest.raises(DatasetError, match="all 5 images are 0 everywhere"):
        model.calibrate(np.zeros((5, 4, 6, 3), np.uint8))


def test_a_limit_and_progress_count_examples() -> None:
    seen: list[tuple[int, int]] = []
    x = torch.randn(300, 2, 3)
    calibrate(vector_model(), x, limit=250, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (250, 250)
    assert measure_ranges(vector_model(), DataSet(x.numpy(), np.zeros(300))).images == 300


def test_the_command_takes_any_model_and_data(tmp_path: Path, command: Callable[..., Any]) -> None:
    model, path = vector_model(), tmp_path / "m.safetensors"
    model.save(path)
    np.savez(tmp_path / "data.npz", x=RANDOM.normal(0, 3, (60, 2, 3)), y=np.arange(60) % 2)
    result = command("calibrate", path, "--data", tmp_path / "data.npz", "--limit", 40)
    assert result.code == 0, result.err
    assert "silu" in result.out
    ranges = load(path).ranges
    assert set(ranges) == {"input", "silu"}
    other = tmp_path / "other.json"
    assert command("calibrate", path, "--data", tmp_path / "data.npz", "-o", other).code == 0
    assert command("model", "import", path, "--ranges", other, "-o", path).code == 0
    measured = command(
        "model", "import", path, "--data", tmp_path / "data.npz", "-o", tmp_path / "measured.safetensors"
    )
    assert "activation ranges were measured on 60 examples" in measured.err
    assert load(path).ranges["input"] >= ranges["input"]
    accuracy = command("accuracy", "--mode", "clear", "--model", path, "--data", tmp_path / "data.npz", "--top-k", "1")
    assert accuracy.code == 0, accuracy.err
    assert "60 examples" in accuracy.out


def test_a_folder_of_class_folders_calibrates(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = RANDOM.integers(0, 256, (9, 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    found = image_model().calibrate(tmp_path, limit=6)
    assert set(found.ranges) == {"relu", "gate", "pool"}
