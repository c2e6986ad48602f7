"""The cheapest setting whose simulated accuracy is close enough to the network's own, by binary search; or the best of
those that cost the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fheinfer.compiler.plan import Plan
from fheinfer.compiler.presets import preset
from fheinfer.compiler.program import PLACED_UNDER
from fheinfer.crypto.params import ParameterSet, parameter_sets
from fheinfer.errors import PlanError, UsageError
from fheinfer.evaluation.accuracy import Evaluation
from fheinfer.evaluation.noise import NOISE_MODELS
from fheinfer.model.graph import Graph
from fheinfer.progress import ProgressCallback, silent

DEGREES = (7, 15, 31, 63, 119, 127, 200, 247)
"""The longest series of every depth, and those of the published sets."""
ALPHAS = tuple(range(4, 15))
SCALE_BITS = tuple(range(30, 48))
ROUNDING = 1e-9
"""Of a difference of accuracies: 0.90 - 0.88 is more than 0.02 in floating point."""
MARGINS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Setting:
    """What one point is compiled with.

    activation  what approximates a ReLU; None for the one of the set's preset
    margin      factor on the ranges of calibration
    """

    name: str
    params: ParameterSet
    activation: str | None
    margin: float


Compile = Callable[[Setting], Plan]
"""The plan under a setting; PlanError where the network does not fit the set."""
Evaluate = Callable[[Plan, str], Evaluation]
"""Evaluates the images by a plan; the words say which setting that is."""


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
        """Says whether no more accuracy is lost than that."""
        return self.loss <= max_loss + ROUNDING


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    points  in the order they were tried
    best    the cheapest one within the bound, the most accurate where all cost the same, None where none is
    unfit   settings that the network does not fit, and why
    """

    clear: float
    points: tuple[Point, ...]
    best: Point | None
    unfit: dict[str, str]


def settings(
    over: str, base: ParameterSet, margin: float, graph: Graph, activation: str | None = None
) -> list[Setting]:
    """Lists settings from cheap and coarse to costly and fine; margins by size, sets as they are numbered.

    Args:
        over: "alpha", "degree", "margin", "scale-bits" or "set".
        base, margin, activation: of every setting, but for what is searched over.

    Raises:
        UsageError: nothing of that name to search over, or nothing that would change this network or set.
    """
    if over == "margin":
        found = [Setting(f"margin {m:g}", base, activation, m) for m in MARGINS]
    elif over in ("alpha", "degree"):
        if not graph.has_relus:
            raise UsageError(f"--over {over} chooses what approximates a ReLU, and {graph.name} has none")
        names = [f"minimax:{a}" for a in ALPHAS] if over == "alpha" else [f"relu:{d}" for d in DEGREES]
        found = [Setting(name, base, name, margin) for name in names]
    elif over == "scale-bits":
        room = base.first_bits - base.scale_bits
        fitting = [b for b in SCALE_BITS if b <= base.scale_bits]
        sets = [replace(base, scale_bits=b, first_bits=b + room) for b in fitting]
        found = [Setting(f"{params.scale_bits} bits", params, activation, margin) for params in sets]
    elif over == "set":
        found = [Setting(f"set {s.name}", s, activation, margin) for s in _sets()]
    else:
        raise UsageError(f"cannot search over {over!r}; there are alpha, degree, margin, scale-bits and set")
    if not found:
        raise UsageError(f"nothing to search over {over} for set {base.name}, whose scales have {base.scale_bits} bits")
    return found


def _sets() -> list[ParameterSet]:
    """Those that can be simulated, each once: set "relu" is set 1 by another name."""
    return [s for s in parameter_sets() if preset(s).backend in NOISE_MODELS and s.name != "relu"]


def search(
    over: str,
    candidates: Sequence[Setting],
    max_loss: float,
    compile: Compile,
    evaluate: Evaluate,
    clear: float,
    report: Callable[[Point], None] = lambda point: None,
    progress: ProgressCallback = silent,
) -> SearchResult:
    """Finds the best setting by binary search: what is finer is taken to lose no more. Margins are all tried: too
    small a range is left, too large a one has a larger error, and each network has its own best between.

    Args:
        candidates: `settings(over, ...)`.
        max_loss: accuracy that may be lost against `clear`, as a part of one.
        report: called with every point when it is known.
        progress: called with the plans that are compiled.

    Raises:
        PlanError: the network fits none of them.
    """
    plans: dict[str, Plan] = {}
    unfit: dict[str, str] = {}
    for done, setting in enumerate(candidates, start=1):
        try:
            plans[setting.name] = compile(setting)
        except PlanError as error:
            unfit[setting.name] = str(error)
        progress(done, len(candidates))
    if not plans:
        raise PlanError(unfit[candidates[-1].name])
    names = list(plans)
    if over == "set":
        names.sort(key=lambda name: _seconds(plans[name]))
    tried: list[Point] = []

    def attempt(name: str) -> Point:
        plan = plans[name]
        found = evaluate(plan, name)
        accuracy, bits = found.top(1), found.bits.minimum if found.bits else None
        seconds, overflows = _seconds(plan), len(found.overflows)
        point = Point(name, accuracy, clear - accuracy, seconds, plan.bootstraps, bits, overflows)
        tried.append(point)
        report(point)
        return point

    if over == "margin":
        within = [point for point in map(attempt, names) if point.within(max_loss)]
        # Of equals the widest: images that were not tried will come.
        return SearchResult(
            clear, tuple(tried), max(reversed(within), key=lambda point: point.accuracy, default=None), unfit
        )
    low, high, best = 0, len(names) - 1, None
    while low <= high:
        middle = (low + high) // 2
        point = attempt(names[middle])
        if point.within(max_loss):
            best, high = point, middle - 1
        else:
            low = middle + 1
    return SearchResult(clear, tuple(tried), best, unfit)


def _seconds(plan: Plan) -> float:
    return plan.keys[PLACED_UNDER].seconds
