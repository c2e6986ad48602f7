"""Which rotation keys a server gets: few and small, or one for every rotation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from fheinfer import _core
from fheinfer.errors import UsageError

if TYPE_CHECKING:
    from fheinfer.compiler.plan import Plan

KeyPolicy = Literal["minimal", "fast"]
"""fast: a key for every rotation, so that all rotations of a ciphertext share one ModUp. minimal: keys of single steps;
other rotations are made of those, each with a key switch of its own."""
KEY_POLICIES: tuple[KeyPolicy, ...] = ("minimal", "fast")

MEMORY_LIMIT = 5 * 10**9
"""Bytes of a server's memory that `choose` keeps to where a policy can."""

NEAR = 1.1
"""Times that `choose` does not tell apart."""


def core_policy(keys: KeyPolicy) -> _core.KeyPolicy:
    """The same for the C++ core."""
    return _core.KeyPolicy.__members__[keys]


def choose(plans: Sequence[Plan], wanted: str, free: int | None) -> Plan:
    """One of the plans of a network, which differ in their keys alone.

    Args:
        wanted: a policy; or "auto", the fastest plan within `MEMORY_LIMIT`, or else the fastest within `free`, or else
            the smallest, by their predictions; of two that are nearly as fast, the smaller.
        free: bytes of memory there are; None where nobody knows.

    Raises:
        UsageError: no such policy.
    """
    named = {plan.keys: plan for plan in plans}
    if wanted != "auto":
        if wanted not in named:
            raise UsageError(f"no keys of the kind {wanted!r}; there are {', '.join(named)} and auto")
        return named[wanted]
    most = float("inf") if free is None else free
    for limit in (min(most, MEMORY_LIMIT), most):
        fitting = [plan for plan in plans if plan.prediction.peak_memory <= limit]
        if fitting:
            fastest = min(plan.prediction.seconds for plan in fitting)
            near = [plan for plan in fitting if plan.prediction.seconds <= NEAR * fastest]
            return min(near, key=lambda plan: plan.prediction.peak_memory)
    return min(plans, key=lambda plan: plan.prediction.peak_memory)
