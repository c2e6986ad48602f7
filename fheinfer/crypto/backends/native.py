"""Evaluation by fheinfer's own kernels (csrc/ckks, csrc/evaluator/native.h)."""

from __future__ import annotations

from fheinfer import _core
from fheinfer.crypto.backends.base import Backend, KeyMaker
from fheinfer.crypto.params import NATIVE_EVAL_MOD_LEVELS, ParameterSet


class NativeBackend(Backend):
    """The backend of `fheinfer._core`'s kernels, for real inputs with bootstraps and for two inputs without."""

    name = "native"
    native_chain = True
    key_heights = 2

    def bootstrap_levels(self, params: ParameterSet) -> int:
        """Those of CoeffToSlot and EvalMod; 0 where the set has no bootstraps."""
        # SlotToCoeff comes first, at the lowest levels: it is paid for by the levels before a bootstrap.
        return params.cts_budget + NATIVE_EVAL_MOD_LEVELS if params.bootstraps else 0

    def bootstrap_input(self, params: ParameterSet) -> int:
        """The levels that SlotToCoeff consumes, which comes first."""
        return params.stc_budget

    def two_inputs(self, params: ParameterSet) -> bool:
        """Where the set has no bootstraps."""
        return not params.bootstraps  # bootstraps keep real parts only

    def key_maker(self, keys: _core.ClientKeys) -> KeyMaker:
        """Makes keys of the shape that `csrc/ckks` reads."""
        return _core.NativeKeys(keys)

    def evaluator(self, context: _core.Context, key_id: str, policy: _core.KeyPolicy) -> _core.NativeEvaluator:
        """An evaluator without keys yet; the policy says which rotations its bootstraps use."""
        return _core.NativeEvaluator(context, policy)
