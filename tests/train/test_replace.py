"""Polynomials begin close to the activations that they replace, whatever those are, and train like those of ReLUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fheinfer.data import datasets as data
from fheinfer.errors import UsageError
from fheinfer.evaluation.inputs import inputs_of
from fheinfer.model import ops
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model, load
from fheinfer.train import calibrate as calibration
from fheinfer.train.evaluate import accuracy
from fheinfer.train.finetune import finetune
from fheinfer.train.loop import train
from fheinfer.train.module import from_model
from fheinfer.train.replace import replaced
from tests.train.conftest import QUICK

KINDS = {
    "relu": ops.Relu(),
    "silu": ops.Silu(),
    "gelu": ops.Gelu(),
    "mish": ops.Mish(),
    "hardswish": ops.Hardswish(),
    "leaky_relu": ops.LeakyRelu(0.1),
    "elu": ops.Elu(),
    "prelu": ops.Prelu("act.weight"),
}


def mixed() -> Graph:
    """Another activation in every layer, and a max pool: nothing that the zoo has."""
    g = GraphBuilder("mixed", (3, 8, 8))
    x = g.activation("silu", g.conv_bn("input", "c1", "b1", 8, 3), "a1")
    x = g.add("pool", ops.MaxPool(3, 2, 1), x)
    x = g.activation("leaky_relu", g.conv_bn(x, "c2", "b2", 12, 3), "a2")
    x = g.activation("hardswish", g.conv_bn(x, "c3", "b3", 12, 3), "a3")
    g.linear("head", g.add("mean", ops.GlobalAvgPool(), x), 10)
    return g.build()


def single(kind: str) -> Model:
    g = GraphBuilder("single", (3, 8, 8))
    x = g.add("act", KINDS[kind], "input")
    g.linear("head", g.add("mean", ops.GlobalAvgPool(), x), 10)
    graph = g.build()
    tensors = {n: np.full(s, 0.2, np.float32) for n, s in graph.tensor_shapes().items()}
    return Model(graph, tensors, (0.4,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("to", "most"), [("paf:f1g2", 0.04), ("quadratic", 0.09)])
def test_a_polynomial_is_fitted_to_what_the_activation_sees(kind: str, to: str, most: float, mosaics: Path) -> None:
    model = single(kind)
    images = data.load(mosaics, "train").resized(8).take(np.arange(200))
    made = replaced(model, to, calibration.measure_ranges(model, images, margin=1.2))
    assert set(made.tensors) == set(made.graph.tensor_shapes())
    x = torch.cat([x for x, _ in inputs_of(images, model.mean, model.std, torch.device("cpu"))])
    with torch.no_grad():
        old, new = (from_model(m).forward_all(x)["act"] for m in (model, made))
    most = 0.1 if (kind, to) == ("elu", "paf:f1g2") else most  # whose even part no PAF has
    assert float((old - new).square().mean().sqrt()) < most * float(x.abs().max())


@pytest.fixture(scope="module")
def trained(mosaics: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    out = tmp_path_factory.mktemp("mixed") / "mixed.safetensors"
    train(mixed(), out, mosaics, QUICK)
    return load(out)


def test_all_of_smartpaf_on_a_network_that_is_not_of_the_zoo(trained: Model, mosaics: Path, tmp_path: Path) -> None:
    recipe = replace(QUICK, epochs=4, peak_lr=0.01, settle=1, progressive=True, alternate=True, dynamic=True, swa=2)
    finetune(trained, "paf:f2g2", tmp_path / "paf.safetensors", mosaics, recipe)
    made = load(tmp_path / "paf.safetensors")
    assert [n.name for n in made.graph if isinstance(n.op, ops.Paf)] == ["a1", "a2", "a3"]
    test = data.load(mosaics, "test").resized(8)
    before, after = (accuracy(from_model(m), test, m.mean, m.std) for m in (trained, made))
    assert after > before - 0.1


def test_what_was_replaced_by_what_is_in_the_provenance(trained: Model, mosaics: Path) -> None:
    few = data.load(mosaics, "train").resized(8).take(np.arange(100))
    ranges = calibration.measure_ranges(trained, few, margin=1.2)
    with pytest.raises(UsageError, match="no PAF 'f9'"):
        replaced(trained, "paf:f9", ranges)
    assert replaced(trained, "quadratic", ranges).provenance["quadratic"] == "quadratic"
    assert replaced(trained, "f1", ranges).provenance["paf"] == "f1"
