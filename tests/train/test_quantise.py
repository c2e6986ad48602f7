"""Model of few bits: what a grid is, and that a file has one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fheinfer.data import datasets as data
from fheinfer.errors import UsageError
from fheinfer.model.model import load
from fheinfer.model.ops import Conv2d, Linear
from fheinfer.train import quantise
from fheinfer.train.evaluate import accuracy
from fheinfer.train.loop import train
from fheinfer.train.module import GraphModule, from_model
from fheinfer.train.quantise import quantised
from fheinfer.train.recipe import Recipe
from tests.train.conftest import QUICK


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_nearest_points_of_a_symmetric_grid_a_channel(bits: int) -> None:
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    found = quantised(weight, bits)
    for before, after in zip(weight, found, strict=True):
        step = before.abs().max() / (2 ** (bits - 1) - 1)
        grid = step * torch.arange(1 - 2 ** (bits - 1), 2 ** (bits - 1))
        nearest = grid[(before.flatten()[:, None] - grid).abs().argmin(1)].reshape(before.shape)
        assert torch.allclose(after, nearest, rtol=1e-12, atol=1e-15)


def test_zero_bits_zero_weights_and_the_gradient() -> None:
    weight = torch.randn(3, 7, requires_grad=True)
    assert quantised(weight, 0) is weight
    assert not quantised(torch.zeros(2, 3, 1, 1), 3).any()
    factor = torch.randn(3, 7)
    (quantised(weight, 3) * factor).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.equal(weight.grad, factor)


def test_a_file_holds_the_grid_and_does_what_training_did(
    mosaics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[GraphModule] = []
    real = quantise.fix

    def kept(module: GraphModule) -> None:
        trained.append(GraphModule(module.graph, bits=3))
        trained[0].load_state_dict(module.state_dict())
        real(module)

    monkeypatch.setattr(quantise, "fix", kept)
    out = tmp_path / "coarse.safetensors"
    train("resnet8-tiny", out, mosaics, replace(QUICK, bits=3, settle=1))
    model = load(out)
    for node in model.graph:
        if isinstance(node.op, Conv2d | Linear):
            for channel in model.tensors[node.op.weight]:
                assert len(np.unique(channel)) <= 2**3 - 1
    test = data.load(mosaics, "test").resized(8)
    x = torch.randn(20, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(from_model(model)(x), trained[0].eval()(x))
    score = accuracy(from_model(model), test, model.mean, model.std)
    assert score > 0.6
    assert f"| accuracy on 1,000 test images | {100 * score:.2f} % |" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize("bits", [-1, 1, 17])
def test_a_grid_of_one_point_is_refused(bits: int) -> None:
    with pytest.raises(UsageError, match="bits"):
        Recipe(bits=bits)
