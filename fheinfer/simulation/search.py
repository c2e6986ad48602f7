"""The cheapest setting whose simulated accuracy is close enough to the network's own, by binary search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fheinfer.compiler.plan import Plan
from fheinfer.errors import UsageError
from fheinfer.params import ParameterSet, parameter_sets
from fheinfer.simulation.evaluate import Evaluation

Evaluate = Callable[[ParameterSet], tuple[Evaluation, Plan]]
"""Runs the pictures under a set: what came out, and the plan."""

DEGREES = (7, 15, 31, 63, 119, 127, 200, 247)
"""The longest series of every depth, and those of the published sets."""
ALPHAS = tuple(range(4, 15))
SCALE_BITS = tuple(range(30, 48))


@dataclass(frozen=True)
class Point:
    """A setting that was tried. Accuracies and losses as parts of one; seconds of an encrypted run are predicted."""

    setting: str
    accuracy: float
    loss: float
    seconds: float
    bootstraps: int
    bits: float | None
    overflows: int

    def within(self, max_loss: float) -> bool:
        return self.loss <= max_loss


@dataclass(frozen=True)
class Found:
    """`points` in the order they were tried; `best` is the cheapest one within the bound, None where none is."""

    clear: float
    points: tuple[Point, ...]
    best: Point | None


def settings(over: str, base: ParameterSet) -> list[tuple[str, ParameterSet]]:
    """(name, parameter set) from cheap and coarse to dear and fine.

    Raises:
        UsageError: nothing of that name to search over.
    """
    if over == "alpha":
        return [(f"minimax:{a}", replace(base, activation=f"minimax:{a}")) for a in ALPHAS]
    if over == "degree":
        return [(f"relu:{d}", replace(base, activation=f"relu:{d}")) for d in DEGREES]
    if over == "scale-bits":
        room = base.first_bits - base.scale_bits
        fitting = [b for b in SCALE_BITS if b <= base.scale_bits]
        return [(f"{b} bits", replace(base, scale_bits=b, first_bits=b + room)) for b in fitting]
    if over == "set":
        native = [s for s in parameter_sets() if s.native]
        order = sorted(native, key=lambda s: int(s.activation.removeprefix("relu:")))
        return [(f"set {s.name}", s) for s in order]
    raise UsageError(f"cannot search over {over!r}; there are alpha, degree, scale-bits and set")


def search(
    over: str,
    base: ParameterSet,
    max_loss: float,
    evaluate: Evaluate,
    clear: float,
    report: Callable[[Point], None] = lambda point: None,
) -> Found:
    """Binary search: what is finer is taken to lose no more.

    Args:
        max_loss: accuracy that may be lost against `clear`, as a part of one.
        report: told of every point when it is known.
    """
    candidates = settings(over, base)
    tried: list[Point] = []

    def attempt(index: int) -> Point:
        name, params = candidates[index]
        found, plan = evaluate(params)
        accuracy, bits = found.top(1), found.bits.minimum if found.bits else None
        seconds, overflows = plan.prediction.seconds, len(found.overflows)
        point = Point(name, accuracy, clear - accuracy, seconds, plan.bootstraps, bits, overflows)
        tried.append(point)
        report(point)
        return point

    low, high, best = 0, len(candidates) - 1, None
    while low <= high:
        middle = (low + high) // 2
        point = attempt(middle)
        if point.within(max_loss):
            best, high = point, middle - 1
        else:
            low = middle + 1
    return Found(clear, tuple(tried), best)
