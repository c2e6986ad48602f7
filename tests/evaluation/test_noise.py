"""The noise model against encrypted runs on the small ring, layer by layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import fheinfer
from fheinfer.compiler.steps import Step
from fheinfer.crypto.backends import BACKENDS, backend
from fheinfer.crypto.key_policy import KeyPolicy
from fheinfer.errors import UsageError
from fheinfer.evaluation.batch import Batch
from fheinfer.evaluation.noise import NOISE_MODELS, NativeNoise, noise_model
from fheinfer.model.model import Model
from tests.conftest import NETWORK, TINY, Rig, calibrated, random_model, tiny_pixels

F64 = NDArray[np.float64]
IMAGES = 6
COPIES = 20


def bits(error: F64) -> float:
    return float(-np.log2(np.sqrt(np.square(error).mean())))


@pytest.mark.parametrize(
    ("network", "name", "activation"),
    [
        (NETWORK, TINY, "relu:59"),
        (NETWORK, TINY, "f1g2"),
        (NETWORK, TINY, "relu-aq"),
        ("resnet8-tiny-turbo", "insecure-tiny-turbo", None),
    ],
)
def test_predicted_and_measured_bits_of_every_layer_are_within_one(
    tmp_path: Path, network: str, name: str, activation: str | None
) -> None:
    model = calibrated(random_model(network, 1), range(1000, 1040))
    plan = fheinfer.compile(model, name, activation=activation)
    images = [fheinfer.normalise(tiny_pixels(seed), model.mean, model.std) for seed in range(IMAGES)]
    compare(plan, images, tmp_path)


class Decoder(nn.Module):
    """Transposed convolutions: one of a stride as large as its kernel, one of a smaller stride."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 32, 3, 2, 1), nn.ConvTranspose2d(32, 16, 2, 2)
        self.last = nn.ConvTranspose2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.up(self.down(x) ** 2) ** 2)


class Resampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(functional.interpolate(self.first(x) ** 2, (9, 7), mode="bilinear") ** 2)


class Repacked(nn.Module):
    """A view whose elements a convolution cannot read where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last((self.first(x) ** 2).reshape(-1, 8, 4, 9))


class Gated(nn.Module):
    """A value times numbers that depend on the means of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(4, 8, 3, 1, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        return self.last(x * self.gate(x.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize("policy", ["minimal", "fast"])
@pytest.mark.parametrize(
    ("network", "kind"),
    [(Decoder, "conv_transpose2d"), (Resampled, "resample"), (Repacked, "repack"), (Gated, "multiply")],
)
def test_every_kind_of_linear_map_is_as_noisy_as_the_model_says(
    tmp_path: Path, network: type[nn.Module], kind: str, policy: KeyPolicy
) -> None:
    torch.manual_seed(1)
    xs = torch.rand(16, 4, 8, 8)
    model = fheinfer.from_torch(network().eval(), xs[:1], quiet=True).calibrate(xs)
    plan = fheinfer.compile(model, "insecure-tiny-turbo")
    assert kind in [step.op.kind for step in plan.steps]
    compare(plan, list(xs[:IMAGES].double().numpy()), tmp_path, policy)


def compare(plan: fheinfer.Plan, images: list[F64], folder: Path, policy: KeyPolicy = "fast") -> None:
    """The error of every step, encrypted and by the model."""
    fheinfer.keygen(plan.client, folder / "keys", policy=policy)
    session = fheinfer.Server().session(plan, folder / "keys" / "server")
    client = fheinfer.Client(folder / "keys", plan.client)
    measured: dict[str, list[F64]] = {step.name: [] for step in plan.steps}
    predicted: dict[str, list[F64]] = {step.name: [] for step in plan.steps}
    for seed, image in enumerate(images):
        layers: dict[str, F64] = {}
        fheinfer.run_slots(plan, image, layers=layers)
        session.evaluate(client.encrypt(image), checkpoints=folder / "run", keep_layers=True)
        for index, step in enumerate(plan.steps):
            _, slots = client.read_slots(folder / "run" / f"layer_{index:03d}.ct")
            measured[step.name].append((step.values(slots) - layers[step.name]) / scale(step))

        batch = Batch(plan, noise_model(plan, seed))
        batch.constants = {key: torch.from_numpy(array) for key, array in plan.constants.items()}

        def observe(step: Step, y: torch.Tensor, layers: dict[str, F64] = layers) -> None:
            exact = layers[step.name] / scale(step)
            predicted[step.name].append(y.numpy().reshape(COPIES, *exact.shape) - exact)

        batch.outputs(torch.from_numpy(image).repeat(COPIES, 1, 1, 1), observe)
    for step in plan.steps:
        decoder = 0.5  # decryption adds as much noise as there is
        found, modelled = (bits(np.concatenate([e.ravel() for e in d[step.name]])) for d in (measured, predicted))
        assert found == pytest.approx(modelled - decoder, abs=1), step.name


def scale(step: Step) -> F64:
    return np.asarray(step.scale).reshape(-1, 1, 1) if np.ndim(step.scale) else np.asarray(step.scale)


@pytest.mark.parametrize("slots", [256, 1024])
@pytest.mark.parametrize("name", ["1", "2", "3", "4"])
def test_a_bootstrap_is_as_noisy_as_the_model_says(
    native_rig: object, tiny_plan: fheinfer.Plan, name: str, slots: int
) -> None:
    rig: Rig = native_rig(name, slots)  # type: ignore[operator]
    random, errors = np.random.default_rng(0), []
    for _ in range(4):
        x = random.uniform(-1, 1, rig.params.slots)
        errors.append(
            rig.decrypt(rig.evaluator.bootstrap(rig.encrypt(x, backend("native").bootstrap_input(rig.params)))) - x
        )
    noise = NativeNoise(dataclasses.replace(tiny_plan, params=rig.params))
    y = torch.from_numpy(random.uniform(-1, 1, 100_000)).view(1, 1, 1, -1)
    predicted = (noise._bootstrap(y) - y).numpy()
    assert bits(np.concatenate(errors)) == pytest.approx(bits(predicted), abs=0.3)


def test_a_backend_without_a_noise_model_is_refused_by_its_name(tiny_model: Model) -> None:
    assert set(NOISE_MODELS) < set(BACKENDS)
    with pytest.raises(UsageError, match="openfhe backend is not modelled"):
        noise_model(fheinfer.compile(tiny_model, f"{TINY}-openfhe"))


def test_the_same_seed_gives_the_same_noise(tiny_plan: fheinfer.Plan) -> None:
    x = torch.zeros(2, 3, 8, 8)
    one, same, other = (Batch(tiny_plan, noise_model(tiny_plan, seed)).outputs(x)["fc"] for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.parametrize("lost", [float("nan"), 1e12])
def test_decryption_of_an_input_that_left_its_range_spoils_no_other(tiny_model: Model, lost: float) -> None:
    noise = NativeNoise(fheinfer.compile(tiny_model, TINY))
    exact = torch.zeros(3, 10)
    evaluated = exact + 1e-3
    evaluated[0] = lost
    decrypted = noise.decrypted(evaluated, exact)
    assert decrypted[1:].abs().max() < 1e-2
