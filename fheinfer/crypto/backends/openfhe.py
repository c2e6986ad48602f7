"""Evaluation by OpenFHE's own operations: the reference that the native backend is checked against."""

from __future__ import annotations

from fheinfer import _core
from fheinfer.crypto.backends.base import Backend, KeyMaker
from fheinfer.crypto.params import OPENFHE_EVAL_MOD_LEVELS, ParameterSet
from fheinfer.errors import PlanError


class OpenFheBackend(Backend):
    name = "openfhe"
    key_heights = 1

    def check(self, params: ParameterSet) -> None:
        if params.composite:
            raise PlanError(f"set {params.name} has a composite-prime chain, which OpenFHE does not evaluate")
        super().check(params)

    def bootstrap_levels(self, params: ParameterSet) -> int:
        return params.cts_budget + params.stc_budget + OPENFHE_EVAL_MOD_LEVELS if params.bootstraps else 0

    def bootstrap_input(self, params: ParameterSet) -> int:
        return 1  # one level goes into OpenFHE's adjustment of the scale

    def two_inputs(self, params: ParameterSet) -> bool:
        return False

    def key_maker(self, keys: _core.ClientKeys) -> KeyMaker:
        return keys

    def evaluator(self, context: _core.Context, key_id: str, policy: _core.KeyPolicy) -> _core.OpenFheEvaluator:
        return _core.OpenFheEvaluator(context, key_id, policy)
