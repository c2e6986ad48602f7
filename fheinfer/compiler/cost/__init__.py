"""What a plan costs before it runs: a cost model per backend."""

from __future__ import annotations

from fheinfer.compiler.cost.base import CostModel
from fheinfer.compiler.cost.native import NativeCost, NominalCost
from fheinfer.compiler.cost.openfhe import OpenFheCost
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.key_policy import KeyPolicy, core_policy
from fheinfer.crypto.params import ParameterSet

__all__ = ["COST_MODELS", "CostModel", "NativeCost", "NominalCost", "OpenFheCost", "cost_model"]

COST_MODELS: dict[str, type[CostModel]] = {"native": NativeCost, "openfhe": OpenFheCost}
"""By name of the backend."""


def cost_model(params: ParameterSet, backend: Backend, policy: KeyPolicy) -> CostModel:
    """The model for this set, evaluated by this backend with the rotation keys of a policy."""
    return COST_MODELS[backend.name](params, backend, core_policy(policy))
