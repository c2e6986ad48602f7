"""`fheinfer eval`: accuracy over a data set, in clear, by polynomials, with simulated noise, or encrypted."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from fheinfer.cli import images as pictures_cli
from fheinfer.cli.display import err, out, print_json, size, steps_bar, table
from fheinfer.cli.plan import DataOption, JsonOption, SetOption, WeightsOption, plan_for, set_folder
from fheinfer.cli.results import logits_csv
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.pipeline import RANGE_MARGIN
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.params import parameter_set
from fheinfer.storage import atomic_write, require_writable
from fheinfer.data.resources import default_weights
from fheinfer.errors import UsageError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.model.model import Weights, load
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from fheinfer.data.datasets import Pictures
    from fheinfer.evaluation.accuracy import Evaluation

_FIXED = {"clear": "in clear there are no polynomials", "encrypted": "encrypted, they are those of the set"}
ActOption = Annotated[str | None, typer.Option("--act", help="Activation instead of the set's.")]


def evaluate(
    mode: Annotated[str, typer.Option(help="clear, approx (polynomials), simulate (noise) or encrypted.")] = "approx",
    set_name: SetOption = "1",
    act: ActOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    part: Annotated[str, typer.Option(help="test or train.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.")] = None,
    top_k: Annotated[str, typer.Option(help="Accuracies to report.")] = "1,2,3,5",
    margin: Annotated[float, typer.Option(min=0.01, help="Factor on the ranges of calibration.")] = RANGE_MARGIN,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated noise.")] = 0,
    keys: Annotated[Path, typer.Option("--keys", help="Folder of all keys, for --mode encrypted.")] = Path("keys"),
    runs: Annotated[Path, typer.Option(help="Folder for encrypted runs that can be resumed.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted encrypted run.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Label, class and logits of every picture.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy over a data set: in clear, by polynomials, with the noise of an encrypted run, all without keys; or with
    keys, encrypted."""
    if csv_file:
        require_writable(csv_file)
    base = parameter_set(set_name)
    path = weights or default_weights(base.network)
    trained = load(path)
    if mode in _FIXED and (act or margin != RANGE_MARGIN):
        raise UsageError(f"{_FIXED[mode]}; leave out --act and --margin")
    require_relus(trained, act)
    pictures = pictures_of(data, part, trained, limit)
    plan: Plan | None = None
    if mode == "encrypted":
        folder = set_folder(keys, set_name)
        plan = plan_for(folder, trained, set_name)
        found = _encrypted(trained, path, plan, pictures, folder, runs, resume)
    else:
        if mode != "clear":
            plan = compile(trained, with_activation(set_name, act), margin=margin)
        found = run(mode, trained, plan, pictures, seed)
    ks = _numbers(top_k, found.logits.shape[1])
    if csv_file:
        atomic_write(csv_file, [_csv(found).encode()])
    if as_json:
        print_json(
            {
                "mode": mode,
                "set": plan.params.name if plan else None,
                "activation": plan.params.activation if plan else None,
                "images": len(found.labels),
                "top": {k: found.top(k) for k in ks},
                "seconds": found.seconds,
                "overflows": [asdict(o) for o in found.overflows],
                "reached": found.reached,
                "bits": asdict(found.bits) if found.bits else None,
                "same_class_as_clear": found.same_class,
                "predicted": asdict(plan.prediction) if plan else None,
                "bootstraps": plan.bootstraps if plan else None,
            }
        )
        return
    title = f"{trained.network}, {len(found.labels):,} {part} images, {mode}"
    if plan:
        title += f", set {plan.params.name}"
    if plan and trained.graph.has_relus:
        title += f", {plan.params.activation}"
    table(title, ["", "accuracy"], [[f"top {k}", f"{100 * found.top(k):.2f} %"] for k in ks])
    if found.same_class is not None:
        out.print(f"the same class as in clear on {found.same_class} of {len(found.labels)}")
    if found.bits:
        out.print(f"logits against the same without noise: {found.bits}")
    out.print(f"took {found.seconds:.0f} s", highlight=False)
    if plan:
        seconds, memory = plan.prediction.seconds, plan.prediction.peak_memory
        out.print(f"encrypted: {plan.bootstraps} bootstraps, about {seconds:.0f} s and {size(memory)}")
    for overflow in found.overflows:
        paf = trained.graph[overflow.activation].op == "paf"
        wider = "raise --margin, or measure ranges on more pictures (fheinfer calibrate)"
        advice = "its scale is part of the weights" if paf else wider
        err.print(
            f"warning: {overflow.activation} leaves its range on {overflow.images:,} images, by a factor of "
            f"{overflow.largest:.3g}; {advice}",
            markup=False,
        )


def run(
    mode: str, weights: Weights, plan: Plan | None, pictures: Pictures, seed: int = 0, title: str = "images"
) -> Evaluation:
    """`simulation.evaluate` under a bar."""
    with needs_torch("evaluation over a data set"):
        from fheinfer.evaluation.accuracy import evaluate as simulate
    with steps_bar(title) as progress:
        return simulate(weights, plan, pictures, mode, seed=seed, progress=progress)


def _encrypted(
    weights: Weights, path: Path, plan: Plan, pictures: Pictures, keys: Path, runs: Path, resume: bool
) -> Evaluation:
    """Every picture encrypted, evaluated by a server process and decrypted; against the same in clear and on slots."""
    names = {f"{index:05d}-": pixels for index, pixels in enumerate(pictures.images)}
    clear, exact = (run(mode, weights, plan, pictures) for mode in ("clear", "approx"))
    done = pictures_cli.evaluated(plan, names, weights, path, keys, runs, resume=resume)
    logits = np.stack([done.logits[name] for name in names])
    return replace(
        exact,
        mode="encrypted",
        logits=logits,
        seconds=done.seconds["evaluate"],
        bits=precision_bits(exact.logits, logits),
        same_class=int((logits.argmax(1) == clear.logits.argmax(1)).sum()),
    )


def with_activation(set_name: str, act: str | None) -> str:
    """The name of the set with that activation instead of its own."""
    return f"{parameter_set(set_name).name.partition('+')[0]}+{act}" if act else set_name


def require_relus(weights: Weights, act: str | None) -> None:
    """
    Raises:
        UsageError: an activation was chosen for a network that has nothing it could stand for.
    """
    if act and not weights.graph.has_relus:
        raise UsageError(f"--act chooses what stands for a ReLU, and {weights.network} has none")


def pictures_of(data: Path | None, part: str, weights: Weights, limit: int | None) -> Pictures:
    """Pictures of a part of the data set at the size the network takes.

    Raises:
        UsageError: another part than train or test.
        GraphError: a network that takes no pictures.
        DatasetError: data that is missing or damaged.
    """
    with needs_torch("evaluation over a data set"):
        from fheinfer.data import datasets as dataset

    side = weights.graph.picture_side
    if part not in ("train", "test"):
        raise UsageError(f"no part {part!r} of the data; there are train and test")
    pictures = dataset.load(dataset.folder(data), part)
    if limit is not None:
        pictures = pictures.first(limit)
    return pictures.resized(side)


def _numbers(text: str, classes: int) -> list[int]:
    from fheinfer.evaluation.accuracy import check_top

    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--top-k {text!r}: give numbers with commas between, such as 1,2,3,5") from None
    check_top(values, classes)
    return values


def _csv(found: Evaluation) -> str:
    labelled = enumerate(zip(found.labels, found.logits, strict=True))
    return logits_csv(["image", "label", "class"],
                      [([index, label, int(np.argmax(logits))], logits) for index, (label, logits) in labelled])
