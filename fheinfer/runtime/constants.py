"""Constants of a plan, encoded once and kept for later evaluations as far as memory allows.

An evaluation needs every diagonal of every linear map as a plaintext polynomial. They depend on the plan alone, so all
sessions of a plan share them, whoever's keys they use. Kept are encoded residues, or else integer coefficients, or else
nothing: of set turbo 4 GB, 0.4 GB and nothing, with which an evaluation takes 5.6, 7.4 and 8.5 seconds of processor
time (docs/explanation/performance.md). Before they are there, twice and four times as much is set aside for them: how
many diagonals can be kept by half is known once they are encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock

from fheinfer import _core
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import Step, step_map

StepConstants = Mapping[str, _core.LinearMapConstants]
"""By name of the step; steps that are not there encode what they need as they go."""

_TIERS = (_core.Tier.encoded, _core.Tier.coefficients)
"""What can be kept, fastest first."""


@dataclass
class _Kept:
    """What is kept of one plan: `bytes` as predicted until it has been encoded, then as held."""

    steps: StepConstants
    bytes: int
    users: int = 0

    def held(self) -> int:
        return sum(constants.held_bytes for constants in self.steps.values())


class ConstantCache:
    """What is kept of the plans in one process.

    Args:
        free: bytes that may be taken more than is kept already; asked from a plan's second evaluation on.
        lock: held while `free` is asked and until what it allows is counted.
    """

    def __init__(self, free: Callable[[], int], lock: RLock) -> None:
        self._free = free
        self._lock = lock
        self._seen: set[tuple[str, int]] = set()
        self._kept: dict[tuple[str, int], _Kept] = {}

    @property
    def bytes(self) -> int:
        """Bytes that all of it takes at most: diagonals are encoded when an evaluation first needs them."""
        with self._lock:
            return sum(kept.bytes for kept in self._kept.values())

    @contextmanager
    def use(self, plan: Plan, inputs: int = 1) -> Iterator[StepConstants]:
        """What is kept of a plan, pinned while the context is open. Nothing at its first evaluation, so that evaluating
        once needs no more memory.

        Args:
            inputs: 1 or 2 at a time, for which constants have other scales, and those of outputs other values.
        """
        kept = self._pinned(plan, inputs) if plan.backend.name == "native" else None
        try:
            yield kept.steps if kept else {}
        finally:
            if kept:
                with self._lock:
                    kept.users -= 1
                    if all(constants.held_bytes for constants in kept.steps.values()):
                        kept.bytes = kept.held()

    def drop(self) -> int:
        """Gives back what nobody uses, and returns how many bytes that were; it is made again where memory allows."""
        with self._lock:
            idle = [key for key, kept in self._kept.items() if not kept.users]
            return sum(self._kept.pop(key).held() for key in idle)

    def _pinned(self, plan: Plan, inputs: int) -> _Kept | None:
        key = plan.identity, inputs
        with self._lock:
            if key not in self._kept and key in self._seen:
                steps, size = _fitting(plan, self._free())
                if steps:
                    self._kept[key] = _Kept(steps, size)
            self._seen.add(key)
            if kept := self._kept.get(key):
                kept.users += 1
            return kept


def _fitting(plan: Plan, free: int) -> tuple[StepConstants, int]:
    """What fits of a plan's constants, and how many bytes that are at most."""
    if free <= 0:
        return {}, 0
    maps = {step.name: (step, found) for step in plan.steps if (found := step_map(step, plan.constants))}
    for tier in _TIERS:
        made = {name: _core.LinearMapConstants(found, tier) for name, (_, found) in maps.items()}
        size = sum(made[name].bytes(tier, _limbs(plan, step)) for name, (step, _) in maps.items())
        if size <= free:
            return made, size
    return {}, 0


def _limbs(plan: Plan, step: Step) -> int:
    return plan.params.limbs(step.level + step.depth)
