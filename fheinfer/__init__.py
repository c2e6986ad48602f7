"""fheinfer: a neural network looks at a picture that it never sees."""

from __future__ import annotations

import os

from fheinfer.machine import openmp_limit

# Waiting threads that spin take the cores from the ones that work, many times over on small rings and on shared
# machines. Read once, when the OpenMP runtime is loaded, so it is set before the core is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.update(openmp_limit())

try:
    from fheinfer import _core  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the compiled part of fheinfer cannot be loaded ({error}); install with `pip install .` (or `make demo`), "
        "and run from outside the source folder unless the install is editable"
    ) from error

from fheinfer import errors
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
from fheinfer.model.model import Weights, load
from fheinfer.runtime.slots import run_slots
from fheinfer.server import Server

load_weights = load

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
