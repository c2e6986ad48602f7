"""Constants of a plan, encoded once and kept for later evaluations as far as memory allows.

An evaluation needs every diagonal of every linear map as a plaintext polynomial. Encoding them is cheap beside one
evaluation and needless for the second: they depend on the plan alone, so all sessions of a plan share them, whoever's
keys they use. Kept are encoded residues, or else integer coefficients, or else nothing (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

from fheinfer import _core
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import Step, linear_map

StepConstants = Mapping[str, _core.LinearMapConstants]
"""By name of the step; steps that are not there encode what they need as they go."""

_TIERS = (_core.Tier.encoded, _core.Tier.coefficients)
"""What can be kept, fastest first."""


class ConstantCache:
    """What is kept of the plans in one process.

    Args:
        free: bytes that may be taken more than is kept already; asked when a plan is evaluated for the second time.
    """

    def __init__(self, free: Callable[[], int]) -> None:
        self._free = free
        self._lock = Lock()
        self._evaluations: dict[str, int] = {}
        self._kept: dict[str, StepConstants] = {}

    @property
    def bytes(self) -> int:
        """Bytes that are held now."""
        return sum(constants.held_bytes for steps in list(self._kept.values()) for constants in steps.values())

    def of(self, plan: Plan) -> StepConstants:
        """What is kept of a plan. Nothing at its first evaluation: a process that evaluates once needs no more memory."""
        if plan.backend.name != "native":
            return {}
        with self._lock:
            count = self._evaluations.get(plan.identity, 0)
            self._evaluations[plan.identity] = count + 1
            if count == 1:
                self._kept[plan.identity] = _fitting(plan, self._free())
            return self._kept.get(plan.identity, {})

    def drop(self) -> None:
        """Gives everything back, once evaluations that use it are done; it is made again where memory allows."""
        with self._lock:
            self._kept.clear()
            self._evaluations.clear()


def _fitting(plan: Plan, free: int) -> StepConstants:
    maps = {step.name: (step, found) for step in plan.steps if (found := linear_map(step, plan.constants))}
    for tier in _TIERS:
        made = {name: _core.LinearMapConstants(found, tier) for name, (_, found) in maps.items()}
        if sum(made[name].bytes(tier, _limbs(plan, step)) for name, (step, _) in maps.items()) <= free:
            return made
    return {}


def _limbs(plan: Plan, step: Step) -> int:
    return plan.params.limbs(step.level + step.depth)
