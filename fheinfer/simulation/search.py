"""The cheapest setting whose simulated accuracy is close enough to the network's own, by binary search; or the best of
those that cost the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fheinfer.compiler.plan import Plan
from fheinfer.errors import UsageError
from fheinfer.params import ParameterSet, parameter_sets
from fheinfer.simulation.evaluate import Evaluation

Evaluate = Callable[[ParameterSet, float], tuple[Evaluation, Plan]]
"""Runs the pictures under a set and with a factor on calibrated ranges: what came out, and the plan."""

DEGREES = (7, 15, 31, 63, 119, 127, 200, 247)
"""The longest series of every depth, and those of the published sets."""
ALPHAS = tuple(range(4, 15))
SCALE_BITS = tuple(range(30, 48))
MARGINS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Setting:
    """What one point is compiled with; `margin` is the factor on the ranges of calibration."""

    name: str
    params: ParameterSet
    margin: float


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
    """`points` in the order they were tried; `best` is the cheapest one within the bound, the most accurate where
    all cost the same, None where none is."""

    clear: float
    points: tuple[Point, ...]
    best: Point | None


def settings(over: str, base: ParameterSet, margin: float) -> list[Setting]:
    """From cheap and coarse to dear and fine; margins by size.

    Raises:
        UsageError: nothing of that name to search over.
    """
    if over == "margin":
        return [Setting(f"margin {m:g}", base, m) for m in MARGINS]
    if over in ("alpha", "degree"):
        names = [f"minimax:{a}" for a in ALPHAS] if over == "alpha" else [f"relu:{d}" for d in DEGREES]
        return [Setting(name, replace(base, activation=name), margin) for name in names]
    if over == "scale-bits":
        room = base.first_bits - base.scale_bits
        fitting = [b for b in SCALE_BITS if b <= base.scale_bits]
        return [Setting(f"{b} bits", replace(base, scale_bits=b, first_bits=b + room), margin) for b in fitting]
    if over == "set":
        native = [s for s in parameter_sets() if s.native]
        order = sorted(native, key=lambda s: int(s.activation.removeprefix("relu:")))
        return [Setting(f"set {s.name}", s, margin) for s in order]
    raise UsageError(f"cannot search over {over!r}; there are alpha, degree, margin, scale-bits and set")


def search(
    over: str,
    base: ParameterSet,
    margin: float,
    max_loss: float,
    evaluate: Evaluate,
    clear: float,
    report: Callable[[Point], None] = lambda point: None,
) -> Found:
    """Binary search: what is finer is taken to lose no more. Margins are all tried: too small a range is left,
    too large a one has a larger error, and each network has its own best between.

    Args:
        margin: factor on the ranges of calibration, where that is not what is searched.
        max_loss: accuracy that may be lost against `clear`, as a part of one.
        report: told of every point when it is known.
    """
    candidates = settings(over, base, margin)
    tried: list[Point] = []

    def attempt(setting: Setting) -> Point:
        found, plan = evaluate(setting.params, setting.margin)
        accuracy, bits = found.top(1), found.bits.minimum if found.bits else None
        seconds, overflows = plan.prediction.seconds, len(found.overflows)
        point = Point(setting.name, accuracy, clear - accuracy, seconds, plan.bootstraps, bits, overflows)
        tried.append(point)
        report(point)
        return point

    if over == "margin":
        within = [point for point in map(attempt, candidates) if point.within(max_loss)]
        # Of equals the widest: pictures that were not tried will come.
        return Found(clear, tuple(tried), max(reversed(within), key=lambda point: point.accuracy, default=None))
    low, high, best = 0, len(candidates) - 1, None
    while low <= high:
        middle = (low + high) // 2
        point = attempt(candidates[middle])
        if point.within(max_loss):
            best, high = point, middle - 1
        else:
            low = middle + 1
    return Found(clear, tuple(tried), best)
