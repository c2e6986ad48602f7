"""fheinfer: a neural network looks at data that it never sees.

A model is compiled once into a plan, a plan and one client's evaluation keys make a session, and a session turns
encrypted inputs into encrypted outputs. Names are imported when they are first used, so that each process loads only
what it needs: an evaluating one no client code, and none of them PyTorch.
"""

from __future__ import annotations

import importlib
import os
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
    from fheinfer.compiler.pipeline import compile
    from fheinfer.compiler.plan import Plan
    from fheinfer.compiler.plan import load as load_plan
    from fheinfer.compiler.wanted import Wanted
    from fheinfer.crypto.client_spec import ClientSpec
    from fheinfer.crypto.keygen import keygen
    from fheinfer.crypto.params import ParameterSet, parameter_set, parameter_sets
    from fheinfer.data.images import load_image, normalise
    from fheinfer.data.resources import default_model
    from fheinfer.evaluation.metrics import precision_bits, top_class
    from fheinfer.evaluation.plain import plain_layers, plain_outputs
    from fheinfer.frontends.onnx import from_onnx
    from fheinfer.frontends.torch_export import from_torch
    from fheinfer.local import infer
    from fheinfer.model.model import Model
    from fheinfer.model.model import load as load_model
    from fheinfer.model.replacing import replace_max_pools
    from fheinfer.runtime.slots import run_slots
    from fheinfer.server import Server
    from fheinfer.service.remote import Remote
    from fheinfer.train.calibrate import calibrate
    from fheinfer.train.finetune import finetune

_PLACES = {
    "Client": "client",
    "ClientSpec": "crypto.client_spec",
    "Model": "model.model",
    "ParameterSet": "crypto.params",
    "Plan": "compiler.plan",
    "Remote": "service.remote",
    "Server": "server",
    "Wanted": "compiler.wanted",
    "activation": "approx",
    "calibrate": "train.calibrate",
    "compile": "compiler.pipeline",
    "default_model": "data.resources",
    "finetune": "train.finetune",
    "from_onnx": "frontends.onnx",
    "from_torch": "frontends.torch_export",
    "infer": "local",
    "keygen": "crypto.keygen",
    "load_image": "data.images",
    "load_model": "model.model:load",
    "load_plan": "compiler.plan:load",
    "normalise": "data.images",
    "parameter_set": "crypto.params",
    "parameter_sets": "crypto.params",
    "plain_layers": "evaluation.plain",
    "plain_outputs": "evaluation.plain",
    "precision_bits": "evaluation.metrics",
    "replace_max_pools": "model.replacing",
    "run_slots": "runtime.slots",
    "top_class": "evaluation.metrics",
}
"""Public name -> module, and the name there where it is another."""

__all__ = [
    "Client",
    "ClientSpec",
    "Model",
    "ParameterSet",
    "Plan",
    "Remote",
    "Server",
    "Wanted",
    "activation",
    "calibrate",
    "compile",
    "default_model",
    "errors",
    "finetune",
    "from_onnx",
    "from_torch",
    "infer",
    "keygen",
    "load_image",
    "load_model",
    "load_plan",
    "normalise",
    "parameter_set",
    "parameter_sets",
    "plain_layers",
    "plain_outputs",
    "precision_bits",
    "replace_max_pools",
    "run_slots",
    "top_class",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(f"fheinfer.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
