"""The plain reference: the operations' own meaning, against NumPy, PyTorch's layers and the trainable module."""

from __future__ import annotations

import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fheinfer.errors import InputError, UsageError
from fheinfer.evaluation.plain import node_values, plain_layers, plain_outputs
from fheinfer.frontends import zoo
from fheinfer.model.model import Model
from fheinfer.train.module import from_model
from tests.conftest import random_model

GRAPH = zoo.network("resnet8-tiny")
IMAGE = np.random.default_rng(0).normal(size=(3, 8, 8))


@pytest.fixture
def model() -> Model:
    return random_model("resnet8-tiny", 1)


def test_every_node_is_reported_in_float64(model: Model) -> None:
    layers = plain_layers(model, IMAGE)
    assert {name: value.shape for name, value in layers.items()} == GRAPH.shapes
    assert all(value.dtype == np.float64 for value in layers.values())
    assert np.array_equal(layers["input"], IMAGE)
    assert np.array_equal(layers["fc"], plain_outputs(model, IMAGE))


def test_values_are_not_kept_after_their_last_use(model: Model) -> None:
    """With all layers of VGG16 at 224 x 224 for a hundred images evaluation took 11 GB."""
    tensors = {name: torch.tensor(array) for name, array in model.tensors.items()}
    seen: list[weakref.ref[torch.Tensor]] = []
    for _, value in node_values(model.graph, tensors, torch.randn(2, 3, 8, 8)):
        assert sum(value() is not None for value in seen) <= 2  # of a block: where it branches, and the branch
        seen.append(weakref.ref(value))
    assert len(seen) == len(model.graph.nodes)


def test_nodes_mean_what_numpy_says(model: Model) -> None:
    layers, t = plain_layers(model, IMAGE), {k: v.astype(np.float64) for k, v in model.tensors.items()}
    window = IMAGE[:, 2:5, 4:7]
    assert layers["conv1"][1, 3, 5] == pytest.approx((window * t["conv1.weight"][1]).sum())
    scale = t["bn1.weight"] / np.sqrt(t["bn1.running_var"] + 1e-5)
    shifted = (layers["conv1"] - t["bn1.running_mean"][:, None, None]) * scale[:, None, None]
    assert layers["bn1"] == pytest.approx(shifted + t["bn1.bias"][:, None, None])
    assert layers["relu1"] == pytest.approx(np.maximum(layers["bn1"], 0))
    assert layers["avgpool"] == pytest.approx(layers["layer3.0.relu2"].mean(axis=(1, 2)))
    assert layers["fc"] == pytest.approx(t["fc.weight"] @ layers["avgpool"] + t["fc.bias"])


@pytest.mark.parametrize(
    "network", [n for n in zoo.names() if "tiny" in n or n == "checkerboard"] + ["resnet8-tiny+f1"]
)
def test_the_trainable_module_means_the_same(network: str) -> None:
    model = random_model(network, 3)
    inside = {n: np.full_like(a, 20) if n.endswith("scale") else a for n, a in model.tensors.items()}  # of PAFs
    model = replace(model, tensors=inside)
    x = np.random.default_rng(1).normal(size=model.graph.input_shape)
    with torch.inference_mode():
        values = from_model(model, torch.float64).forward_all(torch.from_numpy(x)[None])
    for name, expected in plain_layers(model, x).items():
        assert values[name][0].numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12), name


class Vgg(nn.Module):
    """vgg3-tiny as anyone would write it in PyTorch, with the same names."""

    def __init__(self) -> None:
        super().__init__()
        for i, (channels, width) in enumerate(((3, 4), (4, 8)), start=1):
            block = nn.ModuleDict(
                {"conv": nn.Conv2d(channels, width, 3, padding=1, bias=False), "bn": nn.BatchNorm2d(width)}
            )
            self.add_module(f"stage{i}", nn.ModuleDict({"1": block}))
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in ("stage1", "stage2"):
            block = self.get_submodule(f"{stage}.1")
            x = self.pool(torch.relu(block.get_submodule("bn")(block.get_submodule("conv")(x))))
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


def test_it_is_what_a_hand_written_network_computes() -> None:
    model, theirs = random_model("vgg3-tiny", 5), Vgg().double().eval()
    state = {name: torch.from_numpy(array.astype(np.float64)) for name, array in model.tensors.items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(IMAGE)[None])[0].numpy()
    assert plain_outputs(model, IMAGE) == pytest.approx(expected, rel=1e-9)


def test_an_image_of_another_shape_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match=r"\(3, 8, 8\)"):
        plain_outputs(model, IMAGE[:, :7])


def test_without_torch_it_says_what_to_install(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="pip install torch"):
        plain_outputs(model, IMAGE)


def test_torch_is_imported_only_when_it_is_used() -> None:
    code = (
        "import sys, fheinfer.evaluation.plain, fheinfer.model.model, fheinfer.data.images;"
        "import fheinfer.evaluation.metrics;sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
