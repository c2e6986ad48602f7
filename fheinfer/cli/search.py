"""`fheinfer search`: the cheapest setting that keeps the accuracy."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli import choices
from fheinfer.cli.accuracy import counted, examples_of, run
from fheinfer.cli.options import ActOption, DataOption, JsonOption, MarginOption, ModelOption, SetOption, refuse
from fheinfer.errors import UsageError
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from fheinfer.compiler.plan import Plan
    from fheinfer.evaluation.accuracy import Evaluation
    from fheinfer.evaluation.search import Point, SearchResult, Setting


def search(
    over: Annotated[
        str,
        typer.Option(metavar="WHAT", help="alpha (of composites), degree (of series), margin, scale-bits or set."),
    ],
    max_loss: Annotated[
        float, typer.Option(min=0, max=1, metavar="PART", help="Accuracy that may be lost: 0.01 is one point.")
    ] = 0.01,
    mode: Annotated[str, typer.Option("--mode", metavar="M", help="approx, or simulate (with noise).")] = "simulate",
    set_name: SetOption = None,
    act: ActOption = None,
    model: ModelOption = None,
    data: DataOption = None,
    part: Annotated[str, typer.Option("--part", metavar="P", help="train, test or all.")] = "train",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Evaluate only the first N examples.")] = 1000,
    margin: MarginOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Seed of the simulated noise.", show_default="0")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the cheapest setting whose simulated accuracy is within a bound of the network's own; of margins,
    which cost nothing, the best.

    On training data by default: what is chosen on test data cannot be reported on them.
    """
    _check(mode, over, act, margin, seed)
    with needs_torch("search"):
        from fheinfer.evaluation.search import search as find
        from fheinfer.evaluation.search import settings
    from fheinfer.cli.display import err, print_json, steps_bar
    from fheinfer.compiler.activations import RANGE_MARGIN
    from fheinfer.compiler.pipeline import compile as compile_model
    from fheinfer.model.model import load

    base = choices.parameters(set_name)
    loaded = load(choices.model_file(model, base))
    choices.require_relus(loaded, act)
    candidates = settings(over, base, RANGE_MARGIN if margin is None else margin, loaded.graph, act)
    if len(loaded.graph.outputs) > 1 or not counted(loaded, loaded.graph.output.name):
        raise UsageError(f"a search counts classes, and {loaded.name} has no single output of them")
    part, examples = examples_of(data, part, loaded, limit, loaded.graph.outputs)
    examples.require_labels()

    def compiled(setting: Setting) -> Plan:
        return compile_model(loaded, setting.params, activation=setting.activation, margin=setting.margin)

    def evaluate(plan: Plan, setting: str) -> Evaluation:
        return run(mode, loaded, plan, examples, seed or 0, setting, clear=clear)

    def tell(point: Point) -> None:
        err.print(f"{point.setting}: {100 * point.accuracy:.2f} %")

    clear = run("clear", loaded, None, examples)
    with steps_bar("compiling") as progress:
        found = find(over, candidates, max_loss, compiled, evaluate, clear.top(1), tell, progress)
    if as_json:
        print_json({**asdict(found), "over": over, "max_loss": max_loss, "images": len(examples), "mode": mode})
        return
    title = f"{loaded.name}, {len(examples):,} {part} examples, {100 * found.clear:.2f} % in clear"
    _print(found, title, over, max_loss)


def _check(mode: str, over: str, act: str | None, margin: float | None, seed: int | None) -> None:
    if mode not in ("approx", "simulate"):
        raise UsageError(f"cannot search in mode {mode!r}; there are approx and simulate")
    if mode == "approx":
        refuse("it is for --mode simulate", seed=seed)
    if over in ("alpha", "degree"):
        refuse(f"--over {over} chooses the activation", act=act)
    if over == "margin":
        refuse("--over margin chooses the factor", margin=margin)


def _print(found: SearchResult, title: str, over: str, max_loss: float) -> None:
    from fheinfer.cli.display import out, table

    table(
        title,
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
        out.print(f"{setting}: omitted, {reason}")
    if found.best is None:
        advice = "choose a finer --act" if over == "margin" else "or raise --margin"
        raise UsageError(f"nothing over {over} stays within {100 * max_loss:g} points; allow more, {advice}")
    kind = "best" if over == "margin" else "cheapest"
    out.print(f"{kind} within {100 * max_loss:g} points: {found.best.setting}")
