"""Every form of an activation, encrypted on the small ring: the same as on slots, and what the registry says it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.approx import activation
from fheinfer.approx.forms import Quadratic
from fheinfer.errors import FheinferError, UnknownSetError, UsageError
from fheinfer.metrics import precision_bits
from fheinfer.params import parameter_set
from fheinfer.weights import Weights
from tests.conftest import NETWORK, TINY

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
