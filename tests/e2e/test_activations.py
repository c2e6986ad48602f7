"""Every form of an activation, encrypted on the small ring: the same as on slots, and what the registry says it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.approx import activation
from fheinfer.approx.forms import Quadratic
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import FheinferError, MismatchError, UnknownSetError, UsageError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.evaluation.plain import plain_layers
from fheinfer.evaluation.ranges import Histogram, Ranges
from fheinfer.model.model import Weights
from fheinfer.train.replace import replaced
from tests.conftest import NETWORK, TINY, calibrated, random_weights, tiny_pixels

F64 = NDArray[np.float64]
ACTIVATIONS = ("f1g2", "minimax:8", "relu:27", "relu-aq")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_plan_computes_what_the_registry_says(tiny_weights: Weights, tiny_picture: F64, name: str) -> None:
    plan, act = fheinfer.compile(tiny_weights, f"{TINY}+{name}"), activation(name)
    layers: dict[str, F64] = {}
    fheinfer.run_slots(plan, tiny_picture, layers=layers)
    for node in tiny_weights.graph:
        if node.op == "relu":
            x = layers[node.inputs[0]]
            bound = 1.0 if isinstance(act, Quadratic) else tiny_weights.ranges[node.name] * 1.2
            assert layers[node.name] == pytest.approx(bound * act.evaluate(x / bound), abs=1e-9 * bound)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_encrypted_equals_slots(tmp_path: Path, tiny_weights: Weights, tiny_picture: F64, name: str) -> None:
    fheinfer.keygen(f"{TINY}+{name}", tmp_path, network=NETWORK)
    folder = tmp_path / f"set{TINY}+{name}"
    server, client = fheinfer.Server(folder / "server", tiny_weights), fheinfer.Client(folder)
    logits = client.decrypt(server.evaluate(client.encrypt(tiny_picture, server.plan.client)))
    expected = fheinfer.run_slots(server.plan, tiny_picture)
    assert precision_bits(expected, logits).minimum > 8
    if name == "minimax:8":  # longer than a bootstrap gives levels for: one stands inside of the composite
        names = [step.name for step in server.plan.steps if step.op == "bootstrap"]
        assert any(name.endswith("/bootstrap") and "/p1/" not in name for name in names)


def test_a_set_with_an_activation_is_the_same_set_otherwise() -> None:
    plain, other = parameter_set("1"), parameter_set("set1+minimax:7")
    assert (other.name, other.activation, other.identity) == ("1+minimax:7", "minimax:7", plain.identity)


@pytest.mark.parametrize(
    ("name", "error"), [("1+", UnknownSetError), ("9+f1", UnknownSetError), ("1+tanh", UsageError)]
)
def test_names_that_mean_nothing_are_refused(tiny_weights: Weights, name: str, error: type[FheinferError]) -> None:
    with pytest.raises(error):
        fheinfer.compile(tiny_weights, name)


def ranges_of(weights: Weights) -> Ranges:
    """As if measured on pictures that reach exactly the ranges the weights name."""
    found = {name: Histogram(reach=bound, largest=bound) for name, bound in weights.ranges.items()}
    return Ranges(weights.network, weights.identity, 1, 1.2, found)


@pytest.mark.parametrize(
    ("network", "name", "bootstraps"),
    [
        ("resnet8-tiny-herpn", TINY, True),
        ("resnet8-tiny-turbo", "insecure-tiny-turbo", False),
        ("resnet8-tiny+f1g2", TINY, True),
    ],
)
def test_polynomial_networks_run_encrypted(tmp_path: Path, network: str, name: str, bootstraps: bool) -> None:
    """With bootstraps on a chain of set 1, and on a chain of short primes without."""
    wild = random_weights(network, 2)  # values of quadratics explode unless they are trained not to
    arrays = {key: array / np.float32(2) if array.ndim == 4 else array for key, array in wild.arrays.items()}
    if "+" in network:
        tame = calibrated(random_weights(NETWORK, 2), range(1000, 1020))
        weights = replaced(tame, "f1g2", ranges_of(tame), tune=False)
    else:
        weights = calibrated(dataclasses.replace(wild, arrays=arrays), range(1000, 1020))
    picture = fheinfer.normalise(tiny_pixels(3), weights.mean, weights.std)
    plan = fheinfer.compile(weights, name)
    assert (plan.bootstraps > 0) == bootstraps
    layers: dict[str, F64] = {}
    expected = fheinfer.run_slots(plan, picture, layers=layers)
    exact = plain_layers(weights, picture)
    for activation_node in weights.graph.activations:  # polynomials already: nothing is approximated
        found = layers[activation_node.name]
        assert found == pytest.approx(exact[activation_node.name], abs=1e-8 * np.abs(found).max())
    assert expected == pytest.approx(exact["fc"], abs=1e-8 * np.abs(expected).max())
    for step in plan.steps:  # as large as the set allows, and no larger
        scale = np.asarray(step.scale).reshape(-1, *(1,) * (layers[step.name].ndim - 1))
        largest = np.abs(layers[step.name] / scale)[np.isfinite(layers[step.name] / scale)].max()
        if step.op == "quadratic":
            assert plan.params.reach < largest <= plan.params.reach**2 or plan.params.reach == 1
        if step.name == plan.steps[-1].name:
            assert largest <= plan.params.reach**2

    fheinfer.keygen(name, tmp_path, network=network)
    folder = tmp_path / f"set{name}"
    server, client = fheinfer.Server(folder / "server", weights), fheinfer.Client(folder)
    logits = client.decrypt(server.evaluate(client.encrypt(picture, server.plan.client)))
    assert precision_bits(expected, logits).minimum > 8

    second = fheinfer.normalise(tiny_pixels(4), weights.mean, weights.std)
    pictures = [client.encrypt(p, server.plan.client) for p in (picture, second)]
    if bootstraps:
        with pytest.raises(UsageError, match="one picture at a time"):
            server.evaluate_two(*pictures)
        return
    for given, result in zip((picture, second), server.evaluate_two(*pictures), strict=True):
        assert precision_bits(fheinfer.run_slots(plan, given), client.decrypt(result)).minimum > 8
    with pytest.raises(MismatchError):
        server.evaluate_two(pictures[0], server.evaluate(pictures[1]))


@pytest.mark.parametrize(
    ("network", "name", "bits"),
    [
        ("resnet8-tiny-silu", TINY, 6),
        ("vgg3-tiny", f"{TINY}+relu:27", 4),
        ("vgg3-tiny-mean", TINY, 6),
    ],
)
def test_smooth_activations_and_pools_run_encrypted(tmp_path: Path, network: str, name: str, bits: float) -> None:
    weights = calibrated(random_weights(network, 2), range(1000, 1020))
    picture = fheinfer.normalise(tiny_pixels(3), weights.mean, weights.std)
    fheinfer.keygen(name, tmp_path, network=network)
    folder = tmp_path / f"set{name}"
    server, client = fheinfer.Server(folder / "server", weights), fheinfer.Client(folder)
    logits = client.decrypt(server.evaluate(client.encrypt(picture, server.plan.client)))
    expected = fheinfer.run_slots(server.plan, picture)
    assert precision_bits(expected, logits).minimum > 12
    assert precision_bits(plain_layers(weights, picture)["fc"], expected).minimum > bits


def test_max_pool_is_as_exact_as_its_comparisons() -> None:
    weights = calibrated(random_weights("vgg3-tiny", 2), range(1000, 1020))
    picture = fheinfer.normalise(tiny_pixels(3), weights.mean, weights.std)
    exact = plain_layers(weights, picture)["fc"]
    coarse, fine = (precision_bits(exact, fheinfer.run_slots(fheinfer.compile(weights, f"2+minimax:{alpha}"), picture))
                    for alpha in (6, 11))
    assert fine.minimum > 8 > coarse.minimum > 3
