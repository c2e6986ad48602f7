"""The cheapest setting whose simulated accuracy is close enough to the network's own, by binary search; or the best of
those that cost the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fheinfer.compiler.plan import Plan
from fheinfer.crypto.params import ParameterSet, parameter_sets
from fheinfer.errors import PlanError, UsageError
from fheinfer.evaluation.accuracy import Evaluation
from fheinfer.model.graph import Graph

Compile = Callable[[ParameterSet, float], Plan]
"""The plan under a set and with a factor on calibrated ranges; PlanError where the network does not fit the set."""
Evaluate = Callable[[Plan, str], Evaluation]
"""Runs the pictures by a plan; the words say which setting that is."""

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
    all cost the same, None where none is; `unfit` are settings that the network does not fit, and why."""

    clear: float
    points: tuple[Point, ...]
    best: Point | None
    unfit: dict[str, str]


def settings(over: str, base: ParameterSet, margin: float, graph: Graph) -> list[Setting]:
    """From cheap and coarse to dear and fine; margins by size, sets as they are numbered.

    Raises:
        UsageError: nothing of that name to search over, or nothing that would change this network or set.
    """
    if over == "margin":
        found = [Setting(f"margin {m:g}", base, m) for m in MARGINS]
    elif over in ("alpha", "degree"):
        if not graph.has_relus:
            raise UsageError(f"--over {over} chooses what stands for a ReLU, and {graph.name} has none")
        names = [f"minimax:{a}" for a in ALPHAS] if over == "alpha" else [f"relu:{d}" for d in DEGREES]
        found = [Setting(name, replace(base, activation=name), margin) for name in names]
    elif over == "scale-bits":
        room = base.first_bits - base.scale_bits
        fitting = [b for b in SCALE_BITS if b <= base.scale_bits]
        found = [Setting(f"{b} bits", replace(base, scale_bits=b, first_bits=b + room), margin) for b in fitting]
    elif over == "set":
        native = [s for s in parameter_sets() if s.native and s.name != "relu"]  # which is set 1
        found = [Setting(f"set {s.name}", s, margin) for s in native]
    else:
        raise UsageError(f"cannot search over {over!r}; there are alpha, degree, margin, scale-bits and set")
    if not found:
        raise UsageError(f"nothing to search over {over} for set {base.name}, whose scales have {base.scale_bits} bits")
    return found


def search(
    over: str,
    candidates: Sequence[Setting],
    max_loss: float,
    compile: Compile,
    evaluate: Evaluate,
    clear: float,
    report: Callable[[Point], None] = lambda point: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Binary search: what is finer is taken to lose no more. Margins are all tried: too small a range is left,
    too large a one has a larger error, and each network has its own best between.

    Args:
        candidates: `settings(over, ...)`.
        max_loss: accuracy that may be lost against `clear`, as a part of one.
        report: told of every point when it is known.
        progress: told how many plans are compiled.

    Raises:
        PlanError: the network fits none of them.
    """
    plans: dict[str, Plan] = {}
    unfit: dict[str, str] = {}
    for done, setting in enumerate(candidates, start=1):
        try:
            plans[setting.name] = compile(setting.params, setting.margin)
        except PlanError as error:
            unfit[setting.name] = str(error)
        progress(done, len(candidates))
    if not plans:
        raise PlanError(unfit[candidates[-1].name])
    names = list(plans)
    if over == "set":
        names.sort(key=lambda name: plans[name].prediction.seconds)
    tried: list[Point] = []

    def attempt(name: str) -> Point:
        plan = plans[name]
        found = evaluate(plan, name)
        accuracy, bits = found.top(1), found.bits.minimum if found.bits else None
        seconds, overflows = plan.prediction.seconds, len(found.overflows)
        point = Point(name, accuracy, clear - accuracy, seconds, plan.bootstraps, bits, overflows)
        tried.append(point)
        report(point)
        return point

    if over == "margin":
        within = [point for point in map(attempt, names) if point.within(max_loss)]
        # Of equals the widest: pictures that were not tried will come.
        return Found(clear, tuple(tried), max(reversed(within), key=lambda point: point.accuracy, default=None), unfit)
    low, high, best = 0, len(names) - 1, None
    while low <= high:
        middle = (low + high) // 2
        point = attempt(names[middle])
        if point.within(max_loss):
            best, high = point, middle - 1
        else:
            low = middle + 1
    return Found(clear, tuple(tried), best, unfit)
