"""What each named set is meant for."""

from __future__ import annotations

import dataclasses

import pytest

from fheinfer.approx import activation
from fheinfer.compiler.cost import COST_MODELS
from fheinfer.compiler.presets import preset, set_for
from fheinfer.crypto.backends import BACKENDS, backend
from fheinfer.crypto.params import parameter_set, parameter_sets
from fheinfer.errors import UnknownSetError, UsageError
from fheinfer.frontends import zoo


@pytest.mark.parametrize("params", parameter_sets(insecure=True), ids=lambda s: s.name)
def test_every_set_has_a_preset_of_things_that_exist(params: object) -> None:
    meant = preset(params)  # type: ignore[arg-type]
    assert zoo.network(meant.network).name == meant.network
    assert activation(meant.activation).function == "ReLU"
    backend(meant.backend).check(params)  # type: ignore[arg-type]


def test_a_set_of_ones_own_has_the_defaults_of_set_1() -> None:
    own = dataclasses.replace(parameter_set("turbo"), name="mine")
    assert preset(own) == preset(1)
    with pytest.raises(UnknownSetError):
        preset("mine")


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("resnet20-turbo", "turbo"),
        ("resnet20-herpn", "quad"),
        ("resnet20+f1", "paf"),
        ("resnet8-tiny-turbo", "insecure-tiny-turbo"),
        ("resnet56", "1"),
        ("something of one's own", "1"),
    ],
)
def test_a_network_has_the_set_that_is_meant_for_it(network: str, name: str) -> None:
    assert set_for(network).name == name


def test_resnet20_is_evaluated_by_set_1() -> None:
    assert set_for("resnet20").name == "1"


def test_every_backend_has_a_cost_model() -> None:
    assert set(BACKENDS) == set(COST_MODELS)
    with pytest.raises(UsageError, match="no backend 'gpu'; there are native, openfhe"):
        backend("gpu")
