"""Networks that are not of the zoo are trained and fine-tuned like those that are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fheinfer.data import datasets as data
from fheinfer.data.images import CLASSES
from fheinfer.errors import GraphError, UsageError
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph
from fheinfer.model.model import load
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


def test_fewer_outputs_than_classes_are_refused(mosaics: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labels up to 9 and mine has 5 outputs"):
        train(own(5), tmp_path / "x.safetensors", mosaics, ONE)


def test_images_that_are_not_square_are_refused(mosaics: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="mine takes images of 8x16"):
        train(own(shape=(3, 8, 16)), tmp_path / "x.safetensors", mosaics, ONE)
    assert not list(tmp_path.iterdir())
