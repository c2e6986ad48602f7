"""Constants of a plan, encoded once and kept for later evaluations as far as memory allows.

An evaluation needs every diagonal of every linear map as a plaintext polynomial. They depend on the plan alone, so all
sessions of a plan share them, whoever's keys they use. Kept are encoded residues, or else integer coefficients, or else
nothing: for set turbo 4 GB, 0.4 GB and nothing, for which an evaluation takes 5.6, 7.4 and 8.5 seconds of processor
time (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import RLock

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
        lock: held while `free` is asked and until what it allows is counted.
    """

    def __init__(self, free: Callable[[], int], lock: RLock) -> None:
        self._free = free
        self._lock = lock
        self._evaluations: dict[str, int] = {}
        self._kept: dict[str, StepConstants] = {}
        self._bytes: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        """Bytes that all of it takes at most, once it is encoded, which is when an evaluation first needs it."""
        with self._lock:
            return sum(self._bytes.values())

    def of(self, plan: Plan) -> StepConstants:
        """What is kept of a plan: nothing at its first evaluation, so that evaluating once needs no more memory."""
        if plan.backend.name != "native":
            return {}
        with self._lock:
            count = self._evaluations.get(plan.identity, 0)
            self._evaluations[plan.identity] = count + 1
            if count == 1:
                self._kept[plan.identity], self._bytes[plan.identity] = _fitting(plan, self._free())
            return self._kept.get(plan.identity, {})

    def drop(self) -> None:
        """Gives everything back, once evaluations that use it are done; it is made again where memory allows."""
        with self._lock:
            self._kept.clear()
            self._bytes.clear()
            self._evaluations.clear()


def _fitting(plan: Plan, free: int) -> tuple[StepConstants, int]:
    """What fits of a plan's constants, and its bytes."""
    maps = {step.name: (step, found) for step in plan.steps if (found := linear_map(step, plan.constants))}
    for tier in _TIERS:
        made = {name: _core.LinearMapConstants(found, tier) for name, (_, found) in maps.items()}
        size = sum(made[name].bytes(tier, _limbs(plan, step)) for name, (step, _) in maps.items())
        if size <= free:
            return made, size
    return {}, 0


def _limbs(plan: Plan, step: Step) -> int:
    return plan.params.limbs(step.level + step.depth)
