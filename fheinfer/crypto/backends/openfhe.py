"""Evaluation by OpenFHE's own operations: the reference that the native backend is checked against."""

from __future__ import annotations

from fheinfer import _core
from fheinfer.crypto.backends.base import Backend, KeyMaker
from fheinfer.crypto.params import OPENFHE_EVAL_MOD_LEVELS, ParameterSet
from fheinfer.errors import PlanError


class OpenFheBackend(Backend):
    """The backend of OpenFHE's own operations."""

    name = "openfhe"
    native_chain = False
    key_heights = 1

    def check(self, params: ParameterSet) -> None:
        """Whether OpenFHE evaluates the set's chain, and its bootstrap fits.

        Raises:
            PlanError: it does not.
        """
        if params.composite:
            raise PlanError(f"set {params.name} has a composite-prime chain, which OpenFHE does not evaluate")
        super().check(params)

    def bootstrap_levels(self, params: ParameterSet) -> int:
        """Those of CoeffToSlot, EvalMod and SlotToCoeff; 0 where the set has no bootstraps."""
        return params.cts_budget + params.stc_budget + OPENFHE_EVAL_MOD_LEVELS if params.bootstraps else 0

    def bootstrap_input(self, params: ParameterSet) -> int:
        """Level 1, whatever the set."""
        return 1  # one level goes into OpenFHE's adjustment of the scale

    def two_inputs(self, params: ParameterSet) -> bool:
        """Never; only the native backend does."""
        return False

    def key_maker(self, keys: _core.ClientKeys) -> KeyMaker:
        """The client's keys themselves, which make OpenFHE's."""
        return keys

    def evaluator(self, context: _core.Context, key_id: str, policy: _core.KeyPolicy) -> _core.OpenFheEvaluator:
        """An evaluator without keys yet; OpenFHE keeps keys by the tag `key_id`."""
        return _core.OpenFheEvaluator(context, key_id, policy)
