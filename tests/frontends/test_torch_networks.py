"""Whole networks of many kinds: each equals its module, on the input that it is imported with and on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fheinfer
from fheinfer.errors import UsageError
from fheinfer.frontends.torch_export import import_torch
from fheinfer.model.model import Model
from fheinfer.train.module import from_model
from tests import networks
from tests.frontends import torch_networks as more

SMALL: dict[str, Callable[[], nn.Module]] = {
    "mlp": networks.MnistMlp,
    "lola": networks.Lola,
    "lenet": networks.LenetSquares,
    "heir lenet": networks.HeirLenet,
}
GREY = {"mlp": (1, 28, 28), "lola": (1, 28, 28), "lenet": (1, 28, 28), "heir lenet": (1, 32, 32)}
COLOUR: dict[str, Callable[[], nn.Module]] = {
    "mlperf resnet8": networks.MlperfResnet8,
    "resnet18": lambda: networks.Resnet18(width=8),
    "vgg11 with max pools": lambda: networks.Vgg11(pool=nn.MaxPool2d),
    "mobilenet": networks.MobileNet,
    **more.NETWORKS,
}
CASES: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    *((name, make, GREY[name]) for name, make in SMALL.items()),
    *((name, make, (3, 32, 32)) for name, make in COLOUR.items()),
    *((name, make, shape) for name, (make, shape) in more.OTHERS.items()),
]


def trained(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """With statistics in its batch norms as training leaves them."""
    torch.manual_seed(1)
    net.train()
    with torch.no_grad():
        net(torch.randn(4, *shape))
    return net.eval()


def outputs(model: Model, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        values = from_model(model, torch.float64).forward_all(x.double())
    found = [values[name] for name in model.graph.outputs]
    return [y.sigmoid() for y in found] if model.final == "sigmoid" else found


@pytest.mark.parametrize(("name", "make", "shape"), CASES, ids=[name for name, *_ in CASES])
def test_a_network_computes_what_pytorch_computes(
    name: str, make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    """Here by the module that trains it, for a batch: so every imported graph can be trained, too."""
    net = trained(make(), shape)
    model = fheinfer.from_torch(net, torch.zeros(1, *shape), name=name)
    assert model.name == name
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = net.double()(x.double())
    expected = expected if isinstance(expected, tuple | list) else [expected]
    found = outputs(model, x)
    assert len(found) == len(expected)
    for y, want in zip(found, expected, strict=True):
        assert y.numel() == want.numel()
        error = float((y.reshape(want.shape) - want).abs().max())
        assert error <= 1e-9 * float(want.abs().max())
    own = dict(net.named_parameters()).keys()
    assert {tensor for tensor in model.tensors if tensor in own}, "parameters keep their names"


def test_what_a_network_takes_and_gives_is_said(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2), nn.LogSoftmax(1))
    imported = import_torch(net, torch.zeros(1, 3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, classes=("cat", "dog"))
    assert imported.notes[:5] == (
        "input: 3 x 8 x 8 (channels x height x width)",
        "normalisation: of pixels between 0 and 1, mean 0.5, 0.5, 0.5, std 0.25, 0.25, 0.25",
        "output '3': 2 numbers, then log-softmax by the client",
        "classes: cat, dog",
        "operations: 1 conv2d, 1 relu, 1 linear",
    )
    assert imported.notes[5].startswith("compared with PyTorch on 3 inputs")
    imported.model.save(tmp_path / "m.safetensors")
    again = fheinfer.load_model(tmp_path / "m.safetensors")
    assert (again.final, again.identity) == ("log_softmax", imported.model.identity)
    plain = import_torch(net, torch.zeros(1, 3, 8, 8))
    assert "none (mean 0, std 1): arrays are taken as they are, and pixels of image files divided" in plain.notes[1]
    assert plain.notes[3] == "classes: no names given"


def test_what_was_assumed_is_printed_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model = fheinfer.from_torch(net, torch.zeros(1, 4))
    printed = capsys.readouterr()
    for part in (
        "input: 4 (numbers)",
        "normalisation: none (mean 0, std 1)",
        "classes: no names given",
        "compared with",
    ):
        assert part in printed.err, part
        assert part in str(model), part
    assert "ranges: missing: calibrate the model" in str(model)
    assert printed.out == ""
    fheinfer.from_torch(net, torch.zeros(1, 4), mean=[0.5] * 4, std=[2.0] * 4, quiet=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("half", [{"mean": [0.5] * 4}, {"std": [2.0] * 4}])
def test_half_of_a_normalisation_is_refused(half: dict[str, list[float]]) -> None:
    with pytest.raises(UsageError, match="mean and std go together"):
        fheinfer.from_torch(nn.Linear(4, 3), torch.zeros(1, 4), **half)  # type: ignore[arg-type]


def test_the_module_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())
    net[2].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    fheinfer.from_torch(net, torch.zeros(1, 4))
    assert [module.training for module in net.modules()] == [True, True, True, False]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_kinds_of_numbers_are_taken(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).to(dtype)
    model = fheinfer.from_torch(net, torch.zeros(1, 4, dtype=dtype))
    x = np.random.default_rng(1).normal(size=4)
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(x))
    assert fheinfer.plain_outputs(model, x) == pytest.approx(expected.numpy(), rel=1e-6)


def test_shared_and_tied_weights_are_kept_once() -> None:
    model = fheinfer.from_torch(more.Tied(), torch.zeros(1, 6))
    assert sorted(model.tensors) == ["bias", "first.weight"]
    assert model.tensors["first.weight"].shape == (6, 6)


def test_an_imported_network_compiles_and_runs_on_slots() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    ).eval()
    model = fheinfer.from_torch(net, torch.zeros(1, 3, 8, 8))
    plan = fheinfer.compile(replace(model, ranges={"2": 4.0}), 1)
    x = np.random.default_rng(2).uniform(-1, 1, (3, 8, 8))
    logits = fheinfer.run_slots(plan, x)
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(x)[None])[0].numpy()
    assert np.abs(np.ravel(logits) - expected).max() < 0.05 * np.abs(expected).max()
