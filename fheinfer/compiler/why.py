"""Why a parameter set was chosen: each choice with its value, its reason and what else there was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Alternative:
    """Another value of a choice, with the best set that has it.

    seconds, memory  predicted, with two threads of the reference machine, and bytes; None where that was not computed
    """

    value: str
    set: str
    seconds: float
    bits: float
    memory: int | None = None


@dataclass(frozen=True)
class Reason:
    """One choice. alternatives: from the fastest to the slowest, without the value that was taken."""

    choice: str
    value: str
    reason: str
    alternatives: tuple[Alternative, ...] = ()


def lines(reasons: Sequence[Reason]) -> list[str]:
    """The reasons as text, one line per choice and one per alternative."""
    out = []
    for r in reasons:
        out.append(f"{r.choice}: {r.value} ({r.reason})")
        for a in r.alternatives:
            out.append(f"  instead {a.value}: {a.seconds:.3g} s, {a.bits:.0f} bits, set {a.set}")
    return out
