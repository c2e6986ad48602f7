"""The plan in clear: close to PyTorch by the polynomials' error, and strict about ranges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import InputError, RangeError
from fheinfer.frontends import zoo
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.model import Model
from fheinfer.model.ops import Add, Chebyshev, GlobalAvgPool, MeanPool, Relu
from fheinfer.runtime.executor import StepDone
from fheinfer.runtime.slots import run_slots
from tests.conftest import random_model
from tests.reference import reference_layers, reference_outputs

F64 = NDArray[np.float64]
SET = parameter_set("insecure-tiny")
TURBO = dataclasses.replace(parameter_set("insecure-tiny-turbo"), log_n=14, slots=8192, levels=12)


def test_every_layer_equals_pytorch_but_for_the_polynomials(
    tiny_model: Model, tiny_plan: Plan, tiny_image: F64
) -> None:
    layers: dict[str, F64] = {}
    outputs = fheinfer.run_slots(tiny_plan, tiny_image, layers=layers)
    exact = reference_layers(tiny_model, tiny_image)
    assert list(layers) == [step.name for step in tiny_plan.steps]
    assert np.abs(layers["bn1"] - exact["bn1"]).max() < 1e-9  # no polynomial yet
    scale = {step.name: np.asarray(step.scale) for step in tiny_plan.steps}
    assert np.abs(layers["relu1"] - exact["relu1"]).max() < 0.5 / 59 * scale["bn1"]
    assert np.abs(outputs - exact["fc"]).max() < 0.1 * np.abs(exact["fc"]).max()


def test_a_longer_polynomial_is_closer(tiny_model: Model, tiny_image: F64) -> None:
    exact, errors = reference_outputs(tiny_model, tiny_image), []
    for degree, levels in ((13, 9), (59, 9), (247, 11)):
        plan = fheinfer.compile(tiny_model, dataclasses.replace(SET, levels=levels), activation=f"relu:{degree}")
        errors.append(np.abs(fheinfer.run_slots(plan, tiny_image) - exact).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_activation_inputs_stay_in_the_interval_of_their_polynomial(tiny_plan: Plan, tiny_model: Model) -> None:
    """On images like those of the calibration."""
    scale = {step.name: step.scale for step in tiny_plan.steps}
    sources = [step.inputs[0] for step in tiny_plan.steps if isinstance(step.op, Chebyshev)]
    assert sources
    for seed in range(1000, 1010):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        layers: dict[str, F64] = {}
        fheinfer.run_slots(tiny_plan, fheinfer.normalise(pixels, tiny_model.mean, tiny_model.std), layers=layers)
        assert all(np.abs(layers[name]).max() <= scale[name] for name in sources)


@pytest.mark.parametrize("activation", ["relu1", "layer2.0.relu1", "layer3.0.relu2"])
def test_a_value_outside_its_range_names_the_layer(tiny_model: Model, tiny_image: F64, activation: str) -> None:
    narrow = {**tiny_model.ranges, activation: 1e-3}
    plan = fheinfer.compile(dataclasses.replace(tiny_model, ranges=narrow), SET)
    with pytest.raises(RangeError, match=f"the input of activation '{activation}' reaches"):
        fheinfer.run_slots(plan, tiny_image)


def test_inputs_are_checked_as_before_encryption(tiny_plan: Plan) -> None:
    with pytest.raises(RangeError, match="normalise it first"):
        fheinfer.run_slots(tiny_plan, np.full((3, 8, 8), 255.0))
    with pytest.raises(InputError, match="NaN"):
        fheinfer.run_slots(tiny_plan, np.full((3, 8, 8), np.nan))


def test_observers_hear_every_step_in_order(tiny_plan: Plan, tiny_image: F64) -> None:
    heard: list[StepDone] = []
    fheinfer.run_slots(tiny_plan, tiny_image, observer=heard.append)
    assert [d.step.name for d in heard] == [s.name for s in tiny_plan.steps]
    assert [d.index for d in heard] == list(range(len(tiny_plan.steps)))
    assert all(d.level == d.step.level and d.total == len(tiny_plan.steps) and d.seconds >= 0 for d in heard)


def test_resnet20_runs_in_clear_on_two_sets() -> None:
    model = random_model("resnet20", 0)
    image = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32))
    exact = reference_layers(model, image)
    ranges = {n.name: 1.5 * float(np.abs(exact[n.inputs[0]]).max()) for n in model.graph.activations}
    model = dataclasses.replace(model, ranges=ranges)
    outputs = [fheinfer.run_slots(fheinfer.compile(model, name), image) for name in ("1", "3")]
    assert all(x.shape == (10,) and np.isfinite(x).all() for x in outputs)
    assert np.abs(outputs[0] - outputs[1]).max() > 0  # other polynomials


def quadratic_model(shape: tuple[int, ...], seed: int = 0) -> Model:
    """A convolutional network of squares, which the compiler computes without an error: any size of image."""
    g = GraphBuilder("squares", shape)
    x = g.activation("herpn", g.conv_bn("input", "c1", "b1", 3, 3), "h1")
    y = g.add("sum", Add(), g.conv_bn(x, "c2", "b2", 3, 3), x)
    y = g.activation("herpn", g.conv_bn(y, "c3", "b3", 5, 3, 2), "h2")
    g.linear("fc", g.add("pool", GlobalAvgPool(), y), 7)
    model = random_model(g.build(), seed)
    return dataclasses.replace(model, ranges=dict.fromkeys(model.ranges, 200.0))


@pytest.mark.parametrize(
    "shape",
    [(3, 28, 28), (3, 12, 12), (3, 30, 20), (1, 28, 28), (1, 2, 9), (1, 9, 2), (2, 5, 7), (3, 32, 32), (4, 3, 3)],
    ids=str,
)
def test_images_of_any_size_give_what_pytorch_gives(shape: tuple[int, ...]) -> None:
    model = quadratic_model(shape)
    image = np.random.default_rng(1).uniform(-1, 1, shape)
    layers: dict[str, F64] = {}
    outputs = fheinfer.run_slots(fheinfer.compile(model, TURBO), image, layers=layers)
    exact = reference_layers(model, image)
    assert np.abs(layers["h1"] - exact["h1"]).max() < 1e-9
    assert outputs.shape == (7,)
    assert np.abs(outputs - exact["fc"]).max() < 1e-9 * max(1, np.abs(exact["fc"]).max())


@pytest.mark.parametrize("shape", [(1, 1, 9), (1, 9, 1)], ids=str)
def test_a_stride_along_a_side_of_one_pixel_gives_what_pytorch_gives(shape: tuple[int, ...]) -> None:
    model = quadratic_model(shape)
    x = np.random.default_rng(1).uniform(-1, 1, shape)
    exact = reference_outputs(model, x)
    found = fheinfer.run_slots(fheinfer.compile(model, TURBO), x)
    assert np.abs(found - exact).max() < 1e-9 * max(1, np.abs(exact).max())


@pytest.mark.parametrize("sizes", [(1, 2), (3, 5, 2), (7, 13, 11, 3), (101, 33, 17), (2, 100, 2)], ids=str)
def test_vectors_of_any_length_give_what_pytorch_gives(sizes: tuple[int, ...]) -> None:
    model = random_model(zoo.perceptron("mlp", sizes), 2)
    model = dataclasses.replace(model, ranges=dict.fromkeys(model.ranges, 30.0))
    x = np.random.default_rng(3).uniform(-1, 1, sizes[0])
    exact = reference_outputs(model, x)
    plan = fheinfer.compile(model, dataclasses.replace(SET, levels=14, slots=1024), activation="minimax:10")
    error = np.abs(fheinfer.run_slots(plan, x) - exact).max()
    assert error < (1e-9 if len(sizes) == 2 else 0.05 * max(1, np.abs(exact).max()))


def test_pools_of_images_that_are_no_power_of_two() -> None:
    g = GraphBuilder("pooled", (2, 12, 20))
    x = g.activation("relu", g.conv2d("c1", "input", 3, 3), "r1")
    g.linear("fc", g.add("pool", MeanPool(4), x), 3)
    model = random_model(g.build(), 4)
    model = dataclasses.replace(model, ranges={"r1": 20.0})
    x_ = np.random.default_rng(5).uniform(-1, 1, (2, 12, 20))
    exact = reference_outputs(model, x_)
    plan = fheinfer.compile(model, dataclasses.replace(TURBO, levels=20), activation="minimax:10")
    assert any(isinstance(node.op, Relu) for node in model.graph)
    assert np.abs(fheinfer.run_slots(plan, x_) - exact).max() < 0.02 * max(1, np.abs(exact).max())


class Joined(nn.Module):
    """A pool and a vector that is made an image, joined: they stand in slots of different distances."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.line = nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Linear(75, 27)
        self.first, self.second, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.pool(x), self.line(x.flatten(1)).reshape(-1, 3, 3, 3)], 1)
        y = y * y
        z = y + self.second((self.first(y) * 0.1) ** 2)
        return self.last(z * z * 0.1)  # type: ignore[no-any-return]


def test_a_convolution_that_is_added_to_a_view_without_regular_rows() -> None:
    torch.manual_seed(0)
    module, x = Joined().eval(), torch.randn(8, 3, 5, 5)
    model = fheinfer.from_torch(module, x[:1], quiet=True).calibrate(x)
    plan = fheinfer.compile(model, "insecure-tiny-turbo")
    with torch.inference_mode():
        assert np.abs(run_slots(plan, x[0].numpy()) - module(x[:1])[0].numpy()).max() < 1e-6
