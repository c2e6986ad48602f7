"""`fheinfer search`: the cheapest setting that keeps the accuracy."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli.accuracy import ActOption, pictures_of, require_relus, run, with_activation
from fheinfer.cli.display import err, out, print_json, steps_bar, table
from fheinfer.cli.plan import DataOption, JsonOption, SetOption, WeightsOption
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.pipeline import RANGE_MARGIN
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.params import parameter_set
from fheinfer.data.resources import default_weights
from fheinfer.errors import UsageError
from fheinfer.model.model import load
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from fheinfer.evaluation.accuracy import Evaluation
    from fheinfer.evaluation.search import Point


def search(
    over: Annotated[str, typer.Option(help="alpha (of composites), degree (of series), margin, scale-bits or set.")],
    max_loss: Annotated[float, typer.Option(min=0, max=1, help="Accuracy that may be lost: 0.01 is one point.")] = 0.01,
    mode: Annotated[str, typer.Option(help="approx, or simulate (with noise).")] = "simulate",
    set_name: SetOption = "1",
    act: ActOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    part: Annotated[str, typer.Option(help="test or train.")] = "train",
    limit: Annotated[int, typer.Option(min=1, help="Pictures for every point.")] = 1000,
    margin: Annotated[float, typer.Option(min=0.01, help="Factor on the ranges of calibration.")] = RANGE_MARGIN,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated noise.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Binary search for the cheapest setting whose simulated accuracy is within a bound of the network's own; of
    margins, which cost nothing, the best.

    On training pictures by default: what is chosen on test pictures cannot be reported on them.
    """
    if mode not in ("approx", "simulate"):
        raise UsageError(f"cannot search in mode {mode!r}; there are approx and simulate")
    if act and over in ("alpha", "degree", "set"):
        raise UsageError(f"--over {over} chooses the activation; leave out --act")
    if over == "margin" and margin != RANGE_MARGIN:
        raise UsageError("--over margin chooses the factor; leave out --margin")
    with needs_torch("search"):
        from fheinfer.evaluation.search import search as find
        from fheinfer.evaluation.search import settings

    base = parameter_set(with_activation(set_name, act))
    trained = load(weights or default_weights(base.network))
    require_relus(trained, act)
    candidates = settings(over, base, margin, trained.graph)
    pictures = pictures_of(data, part, trained, limit)

    def evaluate(plan: Plan, setting: str) -> Evaluation:
        return run(mode, trained, plan, pictures, seed, setting)

    def tell(point: Point) -> None:
        err.print(f"{point.setting}: {100 * point.accuracy:.2f} %", highlight=False)

    clear = run("clear", trained, None, pictures).top(1)
    with steps_bar("compiling") as progress:
        found = find(over, candidates, max_loss, lambda params, factor: compile(trained, params, margin=factor),
                     evaluate, clear, tell, progress)
    if as_json:
        print_json({**asdict(found), "over": over, "max_loss": max_loss, "images": len(pictures), "mode": mode})
        return
    table(
        f"{trained.network}, {len(pictures):,} {part} images, {100 * clear:.2f} % in clear",
        ["setting", "accuracy", "loss", "bits", "layers out of range", "bootstraps", "predicted s"],
        [
            [
                p.setting + (" <" if p is found.best else ""),
                f"{100 * p.accuracy:.2f} %",
                f"{100 * p.loss:.2f}",
                "-" if p.bits is None else f"{p.bits:.1f}",
                p.overflows,
                p.bootstraps,
                f"{p.seconds:.0f}",
            ]
            for p in found.points
        ],
    )
    for setting, reason in found.unfit.items():
        out.print(f"{setting}: left out, {reason}", highlight=False)
    if found.best:
        kind = "best" if over == "margin" else "cheapest"
        out.print(f"{kind} within {100 * max_loss:g} points: {found.best.setting}")
    else:
        advice = "choose a finer --act" if over == "margin" else "or raise --margin"
        raise UsageError(f"nothing over {over} stays within {100 * max_loss:g} points; allow more, {advice}")
