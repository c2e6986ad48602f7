"""Batches compute what the slots backend computes, one image after the other, and say where a range was left."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev as numpy_chebyshev
from numpy.typing import NDArray

import fheinfer
from fheinfer.compiler.steps import Step
from fheinfer.data.labelled import DataSet
from fheinfer.errors import UsageError
from fheinfer.evaluation import accuracy, inputs
from fheinfer.evaluation.accuracy import evaluate, simulated_layers
from fheinfer.evaluation.batch import Batch, chebyshev
from fheinfer.evaluation.precision import layer_bits
from fheinfer.model import ops
from fheinfer.model.model import Model
from fheinfer.packing import spread
from tests.conftest import TINY, tiny_pixels

F64 = NDArray[np.float64]
ACTIVATIONS = ("relu:59", "f1g2", "minimax:7", "relu-aq")


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=70), st.integers(0, 99))
def test_series_are_those_of_numpy(coefficients: list[float], seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-1, 1, (2, 3, 5, 7))
    series, exact = torch.tensor(coefficients, dtype=torch.float64), numpy_chebyshev.chebval(x, coefficients)
    reference = ops.Chebyshev("c", 1.0, 1.0).reference([torch.from_numpy(x)], {"coefficients": series})
    assert reference.numpy() == pytest.approx(exact, abs=1e-11)
    assert chebyshev(torch.from_numpy(x), series).numpy() == pytest.approx(reference.numpy(), abs=1e-11)


def test_series_keep_channels_last() -> None:
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    found = chebyshev(x, torch.tensor([0.5, 1.0, 0.25]))
    assert torch.allclose(found, 0.5 + x + 0.25 * (2 * x * x - 1), atol=1e-6)


def test_lowered_operations_mean_what_their_docstrings_say() -> None:
    random = np.random.default_rng(4)
    x, y = random.normal(size=(2, 2, 3, 4, 5))
    a, b, c = random.normal(size=(3, 3))
    tensors = {"a": torch.from_numpy(a), "b": torch.from_numpy(b), "c": torch.from_numpy(c)}
    per_channel = {name: value[:, None, None] for name, value in (("a", a), ("b", b), ("c", c))}
    expected = [
        (ops.Quadratic("a", "b", "c", 1.0), per_channel["a"] + per_channel["b"] * x + per_channel["c"] * x**2),
        (ops.Square("a", "b", 1.0), (x + per_channel["a"]) ** 2 + per_channel["b"]),
        (ops.Multiply(1.0), x * y),
        (ops.Repack("c"), x * per_channel["c"]),
        (ops.SumPool(), x.sum(axis=(2, 3))),
        (ops.Bootstrap(), x),
    ]
    assert {type(op) for op, _ in expected} == set(ops.LOWERED.values()) - {ops.Chebyshev}
    for op, values in expected:
        inputs = [torch.from_numpy(x), torch.from_numpy(y)][: op.arity]
        found = op.reference(inputs, {role: tensors[name] for role, name in op.tensors.items()})
        assert found.numpy() == pytest.approx(values, abs=1e-12), op.kind


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_step_equals_the_slots_backend(tiny_model: Model, activation: str) -> None:
    plan = fheinfer.compile(tiny_model, TINY, activation=activation)
    images = [fheinfer.normalise(tiny_pixels(seed), tiny_model.mean, tiny_model.std) for seed in range(3)]
    steps: dict[str, torch.Tensor] = {}
    batch = Batch(plan)

    def observe(step: Step, y: torch.Tensor) -> None:
        steps[step.name] = y.clone()

    logits = batch.outputs(torch.from_numpy(np.stack(images)).float(), observe)["fc"]
    for index, image in enumerate(images):
        layers: dict[str, F64] = {}
        expected = fheinfer.run_slots(plan, image, layers=layers)
        assert logits[index].numpy() == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())
        for step in plan.steps:
            values = steps[step.name][index].numpy().reshape(layers[step.name].shape) * spread(step.scale, step.shape)
            assert values == pytest.approx(layers[step.name], abs=1e-4 * np.abs(layers[step.name]).max())
    assert not batch.overflows()
    assert set(batch.reached) == set(tiny_model.ranges)


def test_simulated_layers_are_those_of_slots_with_noise(tiny_plan: fheinfer.Plan, tiny_image: F64) -> None:
    layers: dict[str, F64] = {}
    fheinfer.run_slots(tiny_plan, tiny_image, layers=layers)
    bits = layer_bits(tiny_plan, simulated_layers(tiny_plan, tiny_image, seed=3), layers)
    assert list(bits) == [step.name for step in tiny_plan.steps]
    assert 10 < min(p.minimum for p in bits.values()) < max(p.median for p in bits.values()) < 30


def test_an_input_outside_its_range_is_counted_by_layer(tiny_model: Model) -> None:
    narrow = {**tiny_model.ranges, "layer2.0.relu1": tiny_model.ranges["layer2.0.relu1"] / 10}
    plan = fheinfer.compile(dataclasses.replace(tiny_model, ranges=narrow), TINY, activation="minimax:10")
    images = np.stack([fheinfer.normalise(tiny_pixels(s), tiny_model.mean, tiny_model.std) for s in range(4)])
    batch = Batch(plan)
    logits = batch.outputs(torch.from_numpy(images).float())["fc"]
    first = batch.overflows()[0]
    assert (first.activation, first.images) == ("layer2.0.relu1", 4)
    assert first.largest > 2
    assert not torch.isfinite(logits).all()  # what an encrypted run would decrypt, and not know


@pytest.fixture(scope="module")
def images() -> DataSet:
    images = np.stack([tiny_pixels(seed) for seed in range(40)])
    return DataSet(images, np.arange(40, dtype=np.uint8) % 10)


def test_modes_agree_as_far_as_the_polynomials_do(tiny_model: Model, images: DataSet) -> None:
    plan = fheinfer.compile(tiny_model, TINY)
    clear, approx, noisy = (evaluate(tiny_model, plan, images, mode) for mode in ("clear", "approx", "simulate"))
    largest = np.abs(clear.logits).max()
    assert np.abs(approx.logits - clear.logits).max() < 0.1 * largest
    assert 0 < np.abs(noisy.logits - approx.logits).max() < 1e-3 * largest
    assert noisy.bits is not None
    assert noisy.bits.minimum > 10
    assert clear.top(10) == 1.0
    assert clear.top(1) <= clear.top(3)


def test_batches_of_large_networks_are_small(
    tiny_model: Model, images: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fheinfer.compile(tiny_model, TINY)
    at_once = evaluate(tiny_model, plan, images)
    values = sum(math.prod(shape) for shape in tiny_model.graph.shapes.values())
    monkeypatch.setattr(inputs, "VALUES_AT_ONCE", 7 * values + values // 2)
    done: list[int] = []
    for mode in ("clear", "approx", "simulate"):
        done.clear()
        found = evaluate(tiny_model, plan, images, mode, progress=lambda count, _: done.append(count))
        assert done == [7, 14, 21, 28, 35, 40]
        assert len(found.logits) == 40
    assert np.allclose(evaluate(tiny_model, plan, images).logits, at_once.logits, atol=1e-5)


def test_outputs_in_clear_that_are_known_are_not_computed_again(
    tiny_model: Model, images: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fheinfer.compile(tiny_model, TINY)
    clear, beside = (evaluate(tiny_model, plan, images, mode) for mode in ("clear", "approx"))
    monkeypatch.setattr(accuracy, "node_values", None)
    monkeypatch.setattr(inputs, "BATCH", 7)
    found = evaluate(tiny_model, plan, images, "approx", clear=clear.outputs)
    assert found.pytorch_bits["fc"].median == pytest.approx(beside.pytorch_bits["fc"].median, abs=0.01)


def test_a_logit_that_is_no_number_is_no_hit(tiny_model: Model, images: DataSet) -> None:
    plan = fheinfer.compile(tiny_model, TINY)
    found = dataclasses.replace(evaluate(tiny_model, plan, images, "clear"), outputs={"fc": np.full((40, 10), np.nan)})
    assert found.top(10) == 0


def test_an_unknown_mode_is_refused(tiny_model: Model, images: DataSet) -> None:
    with pytest.raises(UsageError, match="clear, approx, simulate"):
        evaluate(tiny_model, fheinfer.compile(tiny_model, TINY), images, "encrypted")
