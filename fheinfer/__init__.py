"""fheinfer: a neural network classifies an image that it never sees.

Names are loaded when they are first used: the command line answers at once, and a server process loads no client.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fheinfer import errors
from fheinfer.machine import openmp_limit

# Waiting threads that spin take the cores from the ones that work, many times over on small rings and on shared
# machines. Read once, when the OpenMP runtime is loaded, so it is set before the core is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.update(openmp_limit())

if TYPE_CHECKING:
    from fheinfer.approx import activation
    from fheinfer.client import Client
    from fheinfer.compiler import compile
    from fheinfer.compiler.plan import ClientSpec, Plan
    from fheinfer.crypto.keygen import keygen
    from fheinfer.crypto.params import ParameterSet, parameter_set, parameter_sets
    from fheinfer.data.images import CLASSES, load_image, normalise
    from fheinfer.data.resources import default_weights
    from fheinfer.evaluation.metrics import precision_bits, top_class
    from fheinfer.evaluation.plain import plain_layers, plain_logits
    from fheinfer.model.model import Weights
    from fheinfer.model.model import load as load_weights
    from fheinfer.runtime.slots import run_slots
    from fheinfer.server import Server

_PLACES = {
    "approx": ["activation"],
    "client": ["Client"],
    "compiler": ["compile"],
    "compiler.plan": ["ClientSpec", "Plan"],
    "crypto.keygen": ["keygen"],
    "crypto.params": ["ParameterSet", "parameter_set", "parameter_sets"],
    "data.images": ["CLASSES", "load_image", "normalise"],
    "data.resources": ["default_weights"],
    "evaluation.metrics": ["precision_bits", "top_class"],
    "evaluation.plain": ["plain_layers", "plain_logits"],
    "model.model": ["Weights", "load_weights"],
    "runtime.slots": ["run_slots"],
    "server": ["Server"],
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "CLASSES",
    "Client",
    "ClientSpec",
    "ParameterSet",
    "Plan",
    "Server",
    "Weights",
    "activation",
    "compile",
    "default_weights",
    "errors",
    "keygen",
    "load_image",
    "load_weights",
    "normalise",
    "parameter_set",
    "parameter_sets",
    "plain_layers",
    "plain_logits",
    "precision_bits",
    "run_slots",
    "top_class",
]


def __getattr__(name: str) -> Any:
    if name == "_core":
        try:
            return import_module("fheinfer._core")
        except ImportError as error:
            raise ImportError(
                f"the compiled part of fheinfer cannot be loaded ({error}); install with `pip install .` (or `make "
                "demo`), and run from outside the source folder unless the install is editable"
            ) from error
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'fheinfer' has no attribute {name!r}")
    module = import_module(f"fheinfer.{_PLACE_OF[name]}")
    value = globals()[name] = getattr(module, "load" if name == "load_weights" else name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
