"""Which rotation keys a server gets: few and small, or one for every rotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

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

NEAR = 1.15
"""Ratio of times that `choose` does not tell apart."""


class Predicted(Protocol):
    """What a run under a policy is predicted to take: seconds, and bytes of the server's memory."""

    @property
    def seconds(self) -> float: ...

    @property
    def peak_memory(self) -> int: ...


class Prediction(NamedTuple):
    """The same as plain numbers."""

    seconds: float
    peak_memory: int


class Selection(NamedTuple):
    """Rotation keys for a plan: those to use, and those that have to be made first."""

    use: Rotations
    missing: Rotations


def core_policy(policy: KeyPolicy) -> _core.KeyPolicy:
    """The same for the C++ core."""
    return _core.KeyPolicy.__members__[policy]


def serving(keys: Iterable[tuple[int, int]], rotation: int, limbs: int) -> tuple[int, int] | None:
    """The lowest of these keys that serves the rotation at this height, or None."""
    heights = [have for k, have in keys if k == rotation and have >= limbs]
    return (rotation, min(heights)) if heights else None


def select(keys: Iterable[tuple[int, int]], needs: Iterable[tuple[int, int]], split: int | None) -> Selection:
    """The keys to use for rotations, of those that are there.

    Args:
        keys: (rotation, limbs) of the keys that are there.
        needs: (rotation, limbs) that a plan needs.
        split: None where each rotation may have a height of its own (OpenFHE). Else rotations that a plan needs at one
            height share their work, and their keys have to be of one height, too: the one that most of them have, and
            the lowest of those. Heights above `split` are of CoeffToSlot alone, and do not serve anything else: work
            grows with the height.
    """
    there, use, missing = sorted(keys), set[tuple[int, int]](), set[tuple[int, int]]()
    if split is None:
        for need in needs:
            key = serving(there, *need)
            (use if key else missing).add(key or need)
        return Selection(tuple(sorted(use)), tuple(sorted(missing)))
    groups: dict[int, set[int]] = {}
    for k, limbs in needs:
        groups.setdefault(limbs, set()).add(k)
    for limbs, rotations in groups.items():
        by_height: dict[int, set[int]] = {limbs: set()}
        for k, have in there:
            if have >= limbs and (have > split) == (limbs > split):
                by_height.setdefault(have, set()).add(k)
        height = min(by_height, key=lambda h: (len(rotations - by_height[h]), h))
        use |= {(k, height) for k in rotations & by_height[height]}
        missing |= {(k, height) for k in rotations - by_height[height]}
    return Selection(tuple(sorted(use)), tuple(sorted(missing)))


def choose(predictions: Mapping[KeyPolicy, Predicted], wanted: str, free: int | None) -> KeyPolicy:
    """The policy to make keys by.

    Args:
        predictions: of the same plan under every policy.
        wanted: a policy; or "auto": the fastest within `MEMORY_LIMIT`, or else the fastest within `free`, or else the
            smallest, by prediction; of two that are nearly as fast, the smaller.
        free: bytes of memory there are; None where nobody knows.

    Raises:
        UsageError: no such policy, or one that a limit of memory left out of the plan.
    """
    for policy in predictions:
        if policy == wanted:
            return policy
    if wanted in KEY_POLICIES:
        raise UsageError(
            f"no {wanted} keys: with them a server takes more memory than this plan was compiled for; choose "
            f"{' or '.join(predictions)}, or compile it with a higher limit"
        )
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
