"""What each named parameter set is meant for: its default network, activation and backend."""

from __future__ import annotations

from dataclasses import dataclass

from fheinfer.crypto.params import ParameterSet, parameter_set, parameter_sets


@dataclass(frozen=True)
class Preset:
    """Defaults of a parameter set.

    network     name of the shipped model that it evaluates unless told otherwise
    activation  what approximates a ReLU (`fheinfer approx list`)
    backend     who evaluates (`fheinfer.crypto.backends`)
    """

    network: str = "resnet20"
    activation: str = "relu:59"
    backend: str = "native"


_PRESETS = {
    "2": Preset(activation="relu:200"),
    "3": Preset(activation="relu:119"),
    "paf": Preset("resnet20+f1", "relu:119"),
    "quad": Preset("resnet20-herpn", "relu:3"),
    "turbo": Preset("resnet20-turbo", "relu:3"),
    "insecure-tiny-turbo": Preset("resnet8-tiny-turbo", "relu:3"),
}


def preset(params: ParameterSet | str | int) -> Preset:
    """The defaults of a set; those of set 1 for a set without any of its own.

    Raises:
        UnknownSetError: no set of that name.
    """
    name = params.name if isinstance(params, ParameterSet) else parameter_set(params).name
    base = name.removesuffix("-openfhe")
    found = _PRESETS.get(base, Preset())
    return found if base == name else Preset(found.network, found.activation, "openfhe")


def set_for(network: str) -> ParameterSet:
    """The first set that is meant for a network, or set 1."""
    meant = (s for s in parameter_sets(insecure=True) if preset(s).network == network)
    return next(meant, parameter_set(1))
