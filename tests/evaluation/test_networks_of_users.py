"""Accuracy of users' networks under the plans that are chosen for them, with the noise of encryption simulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.approx import fidelity
from fheinfer.data.labelled import DataSet
from fheinfer.evaluation.accuracy import Evaluation, evaluate
from tests import networks


def clear_and_simulated(network: networks.Network, count: int, **options: Any) -> tuple[Evaluation, Evaluation]:
    """The last `count` test inputs, by the network and by its plan; those to calibrate with come first."""
    model = fheinfer.from_torch(
        network.module, network.example, mean=network.mean, std=network.std, classes=network.classes or None
    ).calibrate(network.train)
    assert network.labels is not None
    data = DataSet(network.inputs[-count:].numpy(), network.labels[-count:].numpy(), model.classes, normalised=True)
    simulated = evaluate(model, fheinfer.compile(model, **options), data, "simulate")
    return evaluate(model, None, data, "clear"), simulated


def test_a_checkerboard_keeps_its_colours() -> None:
    clear, simulated = clear_and_simulated(networks.checkerboard(), 500, bits=7)
    assert abs(simulated.top(1) - clear.top(1)) <= 0.003
    assert not simulated.overflows
    assert (simulated.logits.argmax(1) == clear.logits.argmax(1)).mean() >= 0.995


@pytest.mark.parametrize("bits", fidelity.OFFERED)
@pytest.mark.parametrize("network", [networks.checkerboard, networks.stripes])
def test_outputs_keep_the_bits_that_were_asked_for(network: Callable[[], networks.Network], bits: int) -> None:
    """To half a bit, as weights that are trained here differ by machine: a checkerboard keeps 6.3, 8.1 and 11.6."""
    clear, simulated = clear_and_simulated(network(), 500, bits=bits)
    assert not clear.pytorch_bits
    (kept,) = simulated.pytorch_bits.values()
    assert simulated.bits is not None
    assert kept.median > bits - 0.5
    assert simulated.bits.minimum > kept.minimum  # encryption costs less than polynomials


def test_digits_keep_their_classes(public_data: Path) -> None:
    clear, simulated = clear_and_simulated(networks.heir_lenet(public_data), 100)
    assert (simulated.logits.argmax(1) == clear.logits.argmax(1)).sum() >= 99
    assert simulated.bits is not None
    assert simulated.bits.minimum > 8  # what encryption leaves; the rest is the polynomials'


@pytest.mark.slow
def test_5000_digits_are_within_0_3_points(public_data: Path) -> None:
    clear, simulated = clear_and_simulated(networks.heir_lenet(public_data), 5_000)
    assert clear.top(1) > 0.98
    assert abs(simulated.top(1) - clear.top(1)) <= 0.003


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 8])
def test_1000_images_of_mlperfs_resnet8(public_data: Path, bits: float | None) -> None:
    clear, simulated = clear_and_simulated(networks.mlperf_resnet8(public_data), 1_000, bits=bits)
    assert clear.top(1) > 0.85
    assert abs(simulated.top(1) - clear.top(1)) <= 0.003
