"""Which rotation keys a server gets: few and small, or one for every rotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

from fheinfer import _core
from fheinfer.errors import UsageError

KeyPolicy = Literal["minimal", "fast"]
"""fast: a key for every rotation, so that all rotations of a ciphertext share one ModUp. minimal: keys of single steps;
other rotations are made of those, each with a key switch of its own."""
KEY_POLICIES: tuple[KeyPolicy, ...] = ("minimal", "fast")

Rotations = tuple[tuple[int, int], ...]
"""(rotation, limbs of its key), sorted."""

MEMORY_LIMIT = 5 * 10**9
"""Bytes of a server's memory that `choose` keeps to where a policy can."""

NEAR = 1.1
"""Ratio of times that `choose` does not tell apart."""


class Predicted(Protocol):
    """What a run under a policy is predicted to take: seconds, and bytes of the server's memory."""

    @property
    def seconds(self) -> float: ...

    @property
    def peak_memory(self) -> int: ...


def core_policy(policy: KeyPolicy) -> _core.KeyPolicy:
    """The same for the C++ core."""
    return _core.KeyPolicy.__members__[policy]


def serving(keys: Iterable[tuple[int, int]], rotation: int, limbs: int) -> tuple[int, int] | None:
    """The lowest of these keys that serves the rotation at this height, or None."""
    heights = [have for k, have in keys if k == rotation and have >= limbs]
    return (rotation, min(heights)) if heights else None


def choose(predictions: Mapping[KeyPolicy, Predicted], wanted: str, free: int | None) -> KeyPolicy:
    """The policy to make keys by.

    Args:
        predictions: of the same plan under every policy.
        wanted: a policy; or "auto": the fastest within `MEMORY_LIMIT`, or else the fastest within `free`, or else the
            smallest, by prediction; of two that are nearly as fast, the smaller.
        free: bytes of memory there are; None where nobody knows.

    Raises:
        UsageError: no such policy.
    """
    for policy in predictions:
        if policy == wanted:
            return policy
    if wanted != "auto":
        raise UsageError(f"no rotation keys of the kind {wanted!r}; there are {', '.join(predictions)} and auto")
    most = float("inf") if free is None else free
    for limit in (min(most, MEMORY_LIMIT), most):
        fitting = {policy: p for policy, p in predictions.items() if p.peak_memory <= limit}
        if fitting:
            fastest = min(p.seconds for p in fitting.values())
            near = [policy for policy, p in fitting.items() if p.seconds <= NEAR * fastest]
            return min(near, key=lambda policy: fitting[policy].peak_memory)
    return min(predictions, key=lambda policy: predictions[policy].peak_memory)
