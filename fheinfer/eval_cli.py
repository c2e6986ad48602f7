"""`fheinfer eval`: accuracy over a data set, in clear, by polynomials, or with simulated noise."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fheinfer.compiler import compile
from fheinfer.compiler.pipeline import RANGE_MARGIN
from fheinfer.compiler.plan import Plan
from fheinfer.console import err, out, print_json, size, steps_bar, table
from fheinfer.errors import UsageError
from fheinfer.params import parameter_set
from fheinfer.plan_cli import JsonOption, SetOption, WeightsOption
from fheinfer.resources import default_weights
from fheinfer.storage import atomic_write, require_writable
from fheinfer.weights import load

if TYPE_CHECKING:
    from fheinfer.simulation.evaluate import Evaluation
    from fheinfer.train.data import Pictures

DataOption = Annotated[Path | None, typer.Option(help="Folder of CIFAR-10 sheets; default $FHEINFER_DATA.")]
ActOption = Annotated[str | None, typer.Option("--act", help="Activation instead of the set's.")]


def evaluate(
    mode: Annotated[str, typer.Option(help="clear, approx (by polynomials) or simulate (with noise).")] = "approx",
    set_name: SetOption = "1",
    act: ActOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    part: Annotated[str, typer.Option(help="test or train.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.")] = None,
    top_k: Annotated[str, typer.Option(help="Accuracies to report.")] = "1,2,3,5",
    margin: Annotated[float, typer.Option(min=0.01, help="Factor on the ranges of calibration.")] = RANGE_MARGIN,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated noise.")] = 0,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Label, class and logits of every picture.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy over a data set, without keys: in clear, by polynomials, or with the noise of an encrypted run."""
    if csv_file:
        require_writable(csv_file)
    trained = load(weights or default_weights(parameter_set(set_name).network))
    plan = compile(trained, with_activation(set_name, act), margin=margin)
    pictures = pictures_of(data, part, int(trained.graph.input.attrs["shape"][1]), limit)
    found = run(mode, trained, plan, pictures, seed)
    ks = _numbers(top_k, found.logits.shape[1])
    if csv_file:
        atomic_write(csv_file, [_csv(found).encode()])
    if as_json:
        print_json(
            {
                "mode": mode,
                "set": plan.params.name,
                "activation": plan.params.activation,
                "images": len(found.labels),
                "top": {k: found.top(k) for k in ks},
                "seconds": found.seconds,
                "overflows": [asdict(o) for o in found.overflows],
                "reached": found.reached,
                "bits": asdict(found.bits) if found.bits else None,
                "predicted": asdict(plan.prediction),
                "bootstraps": plan.bootstraps,
            }
        )
        return
    title = f"{plan.network}, {len(found.labels):,} {part} images, {mode}"
    if mode != "clear":
        title += f", set {plan.params.name}, {plan.params.activation}"
    table(title, ["", "accuracy"], [[f"top {k}", f"{100 * found.top(k):.2f} %"] for k in ks])
    if found.bits:
        out.print(f"logits against the same without noise: {found.bits}")
    if mode != "clear":
        seconds, memory = plan.prediction.seconds, plan.prediction.peak_memory
        out.print(f"encrypted: {plan.bootstraps} bootstraps, about {seconds:.0f} s and {size(memory)}")
    for overflow in found.overflows:
        err.print(
            f"warning: {overflow.activation} leaves its range on {overflow.images:,} images, by a factor of "
            f"{overflow.largest:.3g}; raise --margin or calibrate on more pictures",
            markup=False,
        )


def run(mode: str, weights: Any, plan: Plan, pictures: Pictures, seed: int = 0, title: str = "images") -> Evaluation:
    """`simulation.evaluate` under a bar."""
    try:
        from fheinfer.simulation.evaluate import evaluate as simulate
    except ModuleNotFoundError as error:
        raise UsageError("evaluation over a data set needs PyTorch: pip install 'fheinfer[train]'") from error
    with steps_bar(title) as progress:
        return simulate(weights, plan, pictures, mode, seed=seed, progress=progress)


def with_activation(set_name: str, act: str | None) -> str:
    """The name of the set with that activation instead of its own."""
    return f"{parameter_set(set_name).name.partition('+')[0]}+{act}" if act else set_name


def pictures_of(data: Path | None, part: str, side: int, limit: int | None) -> Pictures:
    """Pictures of a part of the data set at the size the network takes.

    Raises:
        UsageError: another part than train or test.
        DatasetError: data that is missing or damaged.
    """
    from fheinfer.train import data as dataset

    if part not in ("train", "test"):
        raise UsageError(f"no part {part!r} of the data; there are train and test")
    pictures = dataset.load(dataset.folder(data), part)
    if limit is not None:
        pictures = pictures.take(np.arange(min(limit, len(pictures))))
    return pictures.resized(side)


def _numbers(text: str, classes: int) -> list[int]:
    from fheinfer.simulation.evaluate import check_top

    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--top-k {text!r}: give numbers with commas between, such as 1,2,3,5") from None
    check_top(values, classes)
    return values


def _csv(found: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "class", *(f"logit_{i}" for i in range(found.logits.shape[1]))])
    for index, (label, logits) in enumerate(zip(found.labels, found.logits, strict=True)):
        writer.writerow([index, label, int(np.argmax(logits)), *(f"{x:.6g}" for x in logits)])
    return text.getvalue()
