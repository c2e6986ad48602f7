"""fheinfer: a neural network looks at a picture that it never sees."""

from __future__ import annotations

import os

# Waiting threads that spin take the cores from the ones that work, many times over on small rings and on shared
# machines. Read once, when the OpenMP runtime is loaded, so it is set before the core is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fheinfer.client import Client  # noqa: E402
from fheinfer.compiler import compile  # noqa: E402
from fheinfer.compiler.plan import ClientSpec, Plan  # noqa: E402
from fheinfer.keygen import keygen  # noqa: E402
from fheinfer.params import ParameterSet, parameter_set, parameter_sets  # noqa: E402
from fheinfer.preprocess import load_image, normalise  # noqa: E402
from fheinfer.runtime.slots import run_slots  # noqa: E402
from fheinfer.server import Server  # noqa: E402
from fheinfer.weights import Weights, load  # noqa: E402

load_weights = load

__all__ = [
    "Client", "ClientSpec", "ParameterSet", "Plan", "Server", "Weights", "compile", "keygen", "load_image", "load_weights",
    "normalise", "parameter_set", "parameter_sets", "run_slots",
]
