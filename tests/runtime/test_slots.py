"""The plan in clear: close to PyTorch by the polynomials' error, and strict about ranges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import RangeError
from fheinfer.frontends import zoo
from fheinfer.model.model import Weights, shapes
from fheinfer.runtime.executor import StepDone

F64 = NDArray[np.float64]
SET = parameter_set("insecure-tiny")


def test_every_layer_equals_pytorch_but_for_the_polynomials(
    tiny_weights: Weights, tiny_plan: fheinfer.Plan, tiny_picture: F64
) -> None:
    pytest.importorskip("torch")
    from fheinfer.evaluation.plain import plain_layers

    layers: dict[str, F64] = {}
    logits = fheinfer.run_slots(tiny_plan, tiny_picture, layers=layers)
    exact = plain_layers(tiny_weights, tiny_picture)
    assert list(layers) == [step.name for step in tiny_plan.steps]
    assert np.abs(layers["bn1"] - exact["bn1"]).max() < 1e-9  # no polynomial yet
    scale = {step.name: step.scale for step in tiny_plan.steps}
    assert np.abs(layers["relu1"] - exact["relu1"]).max() < 0.5 / 59 * scale["bn1"]
    assert np.abs(logits - exact["fc"]).max() < 0.1 * np.abs(exact["fc"]).max()


def test_a_longer_polynomial_is_closer(tiny_weights: Weights, tiny_picture: F64) -> None:
    pytest.importorskip("torch")
    from fheinfer.evaluation.plain import plain_logits

    exact = plain_logits(tiny_weights, tiny_picture)
    errors = [
        np.abs(
            fheinfer.run_slots(
                fheinfer.compile(tiny_weights, dataclasses.replace(SET, activation=f"relu:{degree}", levels=levels)),
                tiny_picture,
            )
            - exact
        ).max()
        for degree, levels in ((13, 9), (59, 9), (247, 11))
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_activation_inputs_stay_in_the_interval_of_their_polynomial(
    tiny_plan: fheinfer.Plan, tiny_weights: Weights
) -> None:
    """On pictures like those of the calibration."""
    scale = {step.name: step.scale for step in tiny_plan.steps}
    sources = [step.inputs[0] for step in tiny_plan.steps if step.op == "chebyshev"]
    for seed in range(1000, 1010):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        layers: dict[str, F64] = {}
        fheinfer.run_slots(tiny_plan, fheinfer.normalise(pixels, tiny_weights.mean, tiny_weights.std), layers=layers)
        assert all(np.abs(layers[name]).max() <= scale[name] for name in sources)


@pytest.mark.parametrize("activation", ["relu1", "layer2.0.relu1", "layer3.0.relu2"])
def test_a_value_outside_its_range_names_the_layer(tiny_weights: Weights, tiny_picture: F64, activation: str) -> None:
    narrow = {**tiny_weights.ranges, activation: 1e-3}
    plan = fheinfer.compile(dataclasses.replace(tiny_weights, ranges=narrow), SET)
    with pytest.raises(RangeError, match=f"the input of activation '{activation}' reaches"):
        fheinfer.run_slots(plan, tiny_picture)


def test_observers_hear_every_step_in_order(tiny_plan: fheinfer.Plan, tiny_picture: F64) -> None:
    heard: list[StepDone] = []
    fheinfer.run_slots(tiny_plan, tiny_picture, observer=heard.append)
    assert [d.step.name for d in heard] == [s.name for s in tiny_plan.steps]
    assert [d.index for d in heard] == list(range(len(tiny_plan.steps)))
    assert all(d.level == d.step.level and d.total == len(tiny_plan.steps) and d.seconds >= 0 for d in heard)


def test_resnet20_runs_in_clear_on_every_set() -> None:
    graph, rng = zoo.network("resnet20"), np.random.default_rng(0)
    arrays = {
        name: rng.normal(0, (1 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        if len(shape) > 1
        else np.ones(shape, np.float32)
        for name, shape in shapes(graph).items()
    }
    weights = Weights(graph, arrays, (0.5,) * 3, (0.25,) * 3, {n.name: 60.0 for n in graph if n.op == "relu"})
    picture = rng.uniform(-2, 2, (3, 32, 32))
    logits = [fheinfer.run_slots(fheinfer.compile(weights, name), picture) for name in ("1", "3")]
    assert all(x.shape == (10,) and np.isfinite(x).all() for x in logits)
    assert np.abs(logits[0] - logits[1]).max() > 0  # other polynomials
