"""Networks that are not of the zoo are trained and fine-tuned like those that are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import fheinfer
from fheinfer.data import datasets as data
from fheinfer.data.images import CLASSES
from fheinfer.data.labelled import DataSet
from fheinfer.errors import DatasetError, UsageError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model, load
from fheinfer.model.ops import GlobalAvgPool
from fheinfer.train.evaluate import accuracy
from fheinfer.train.finetune import finetune
from fheinfer.train.loop import train
from fheinfer.train.module import from_model
from tests.train.conftest import QUICK

ONE = replace(QUICK, epochs=1)


def own(outputs: int = 10, shape: tuple[int, ...] = (3, 8, 8)) -> Graph:
    g = GraphBuilder("mine", shape)
    x = g.activation("relu", g.conv_bn("input", "features.0", "features.1", 8, 3, 2), "features.2")
    g.linear("head", g.add("mean", GlobalAvgPool(), x), outputs)
    return g.build()


def test_a_graph_of_ones_own_is_trained_then_fine_tuned(mosaics: Path, tmp_path: Path) -> None:
    relu, paf = tmp_path / "relu.safetensors", tmp_path / "paf.safetensors"
    train(own(), relu, mosaics, QUICK)
    first = load(relu)
    assert (first.name, first.classes) == ("mine", CLASSES)
    named = replace(first, classes=tuple("abcdefghij"))
    finetune(named, "f1", paf, mosaics, replace(ONE, peak_lr=0.01, settle=1))
    tuned = load(paf)
    assert (tuned.name, tuned.classes) == ("mine+f1", named.classes)
    test = data.load(mosaics, "test").resized(8)
    scores = [accuracy(from_model(m), test, m.mean, m.std) for m in (first, tuned)]
    assert min(scores) > 0.3  # of ten kinds
    assert "# mine+f1" in paf.with_suffix(".md").read_text()


def test_the_command_prints_what_it_made_as_json(mosaics: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    first, tuned = tmp_path / "relu.safetensors", tmp_path / "paf.safetensors"
    graph = own()
    tensors = {name: np.full(shape, 0.1, np.float32) for name, shape in graph.tensor_shapes().items()}
    Model(graph, tensors, (0.5,) * 3, (0.25,) * 3).save(first)
    options = [f"--recipe={setting}" for setting in ("batch=50", "settle=1", "bfloat16=0", "crop=2")]
    done = command(
        "finetune", first, "--paf", "f1", "--data", mosaics, "--epochs", "1", *options, "-o", tuned, "--json"
    )
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert (printed["file"], printed["card"]) == (str(tuned), str(tuned.with_suffix(".md")))
    assert (printed["network"], printed["identity"]) == ("mine+f1", load(tuned).identity)


def test_fewer_outputs_than_classes_are_refused(mosaics: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labels up to 9 and mine has 5 outputs"):
        train(own(5), tmp_path / "x.safetensors", mosaics, ONE)


def test_images_are_cut_to_a_size_that_is_not_square(mosaics: Path, tmp_path: Path) -> None:
    out = tmp_path / "wide.safetensors"
    train(own(shape=(3, 8, 16)), out, mosaics, ONE)
    assert load(out).graph.input_shape == (3, 8, 16)


def points(count: int = 2_000) -> DataSet:
    """Four features of very different sizes, three classes; a quarter of them by a product."""
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (count, 4))
    labels = (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] * x[:, 3] > 0)
    return DataSet((x * [1, 10, 100, 1000] + 5).astype(np.float32), labels, ("none", "one", "both"))


@pytest.mark.parametrize("to", ["paf", "quadratic"])
def test_vectors_are_trained_and_fine_tuned_like_images(tmp_path: Path, to: str) -> None:
    g = GraphBuilder("tabular", (4,))
    x = g.activation("relu", g.linear("fc1", "input", 32), "relu1")
    x = g.activation("relu", g.linear("fc2", x, 32), "relu2")
    g.linear("fc3", x, 3)
    first, second = tmp_path / "relu.safetensors", tmp_path / "tuned.safetensors"
    quick = replace(QUICK, epochs=12, peak_lr=0.1)
    train(g.build(), first, points(), quick)
    model = load(first)
    assert model.classes == ("none", "one", "both")
    data = points()
    assert model.mean == pytest.approx(data.inputs.mean(0), rel=0.1, abs=20)
    assert model.std == pytest.approx(data.inputs.std(0), rel=0.1)
    assert 2 < model.input_bound < 6
    assert accuracy(from_model(model), data, model.mean, model.std) > 0.85
    finetune(model, to, second, data, replace(quick, epochs=3, settle=1, peak_lr=0.02))
    tuned = load(second)
    assert {node.op.kind for node in tuned.graph.activations} == {"paf" if to == "paf" else "herpn"}
    assert (tuned.classes, tuned.mean, tuned.std) == (model.classes, model.mean, model.std)
    assert accuracy(from_model(tuned), data, tuned.mean, tuned.std) > 0.8
    card = first.with_suffix(".md").read_text()
    assert "(x - mean) / std per feature" in card
    assert "image" not in card.replace("of images", "")


def test_a_network_of_other_classes_has_no_names_of_cifar(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = DataSet(random.integers(0, 256, (100, 8, 8, 3)).astype(np.uint8), np.arange(100) % 10)
    out = tmp_path / "x.safetensors"
    train(own(), out, images, replace(ONE, batch=20))
    assert load(out).classes == tuple("0123456789")


X = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
Y = np.arange(100) % 10
REAL = torch.tensor(X).permute(0, 3, 1, 2) / 255 * 4 - 2  # as `random` normalises


def tensors() -> TensorDataset:
    return TensorDataset(REAL, torch.tensor(Y))


def in_npz(folder: Path) -> Path:
    np.savez(folder / "data.npz", x=X, y=Y)
    return folder / "data.npz"


def in_class_folders(folder: Path) -> Path:
    for index, (pixels, label) in enumerate(zip(X, Y, strict=True)):
        (folder / f"kind{label}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"kind{label}" / f"{index}.png")
    return folder


def random() -> Model:
    rng = np.random.default_rng(1)
    weights = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in own().tensor_shapes().items()}
    return Model(own(), weights, (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("data", "fitted"),
    [
        pytest.param(in_class_folders, 81, id="folder of class folders"),
        pytest.param(in_npz, 81, id="npz"),
        pytest.param(lambda folder: str(in_npz(folder)), 81, id="str"),
        pytest.param(lambda _: DataLoader(tensors(), batch_size=32), 81, id="DataLoader"),
        pytest.param(lambda _: (DataLoader(tensors()), DataLoader(tensors())), 90, id="two DataLoaders"),
        pytest.param(lambda _: tensors(), 81, id="Dataset"),
        pytest.param(lambda _: iter([(REAL, torch.tensor(Y))]), 81, id="iterator"),
        pytest.param(lambda _: (X, Y), 81, id="arrays"),
        pytest.param(lambda _: (REAL, torch.tensor(Y)), 81, id="tensors"),
    ],
)
def test_data_may_have_any_form(tmp_path: Path, data: Callable[[Path], Any], fitted: int) -> None:
    """Of 100 examples a tenth is for the test unless there is another one, and a tenth of the rest is held out."""
    (tmp_path / "data").mkdir()
    out, quick = tmp_path / "paf.safetensors", replace(ONE, batch=20, settle=1)
    tuned = fheinfer.finetune(random(), "paf", str(out), data(tmp_path / "data"), quick)
    assert (tuned.name, tuned.identity) == ("mine+f1", load(out).identity)
    assert tuned.provenance["trained on"].startswith(f"{fitted} ")
    trained = train(own(), tmp_path / "relu.safetensors", data(tmp_path / "data"), quick)
    assert trained.provenance["trained on"].startswith(f"{fitted} ")


def test_data_without_labels_is_refused(tmp_path: Path) -> None:
    images = DataSet(np.zeros((100, 8, 8, 3), np.uint8), np.full(100, -1))
    with pytest.raises(DatasetError, match="no labels"):
        train(own(), tmp_path / "x.safetensors", images, ONE)
    assert not list(tmp_path.iterdir())
