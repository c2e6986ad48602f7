"""`fheinfer train`, `finetune` and `calibrate`: making models. Their modules need PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli.options import DataOption, JsonOption, OutputOption, refuse
from fheinfer.optional import require

if TYPE_CHECKING:
    from rich.console import Console

    from fheinfer.train.observer import TrainingObserver, TrainingProgress

EpochsOption = Annotated[int | None, typer.Option("--epochs", metavar="N", help="Passes over the training data.")]
RateOption = Annotated[float | None, typer.Option("--lr", metavar="RATE", help="Peak learning rate.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything that is random.")]
RecipeOption = Annotated[
    list[str] | None, typer.Option("--recipe", metavar="NAME=VALUE", help="Setting of docs/how-to/training.md; repeat.")
]
FusedOption = Annotated[bool, typer.Option("--fused", help="Compile the network first: faster, needs g++.")]
ResumeTraining = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")]


def _ready() -> None:
    """Before imports of training. Freed memory stays with the process: fetching it again page by page was half of all
    processor time."""
    from fheinfer import _core

    _core.keep_freed_memory()
    require("torch", "training")


def _settings(recipe: list[str] | None, **short: float | None) -> list[str]:
    """Settings of a recipe, those with an option of their own last."""
    return [*(recipe or ()), *(f"{name}={value}" for name, value in short.items() if value is not None)]


def train(
    output: OutputOption,
    network: Annotated[
        str,
        typer.Option("--network", metavar="N", help="Network of the zoo (`fheinfer train --network ?`), or a model."),
    ] = "resnet20",
    data: DataOption = None,
    epochs: EpochsOption = None,
    lr: RateOption = None,
    seed: SeedOption = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model whose logits are learned beside labels.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model to begin with, where names and shapes agree.")
    ] = None,
    recipe: RecipeOption = None,
    fused: FusedOption = False,
    resume: ResumeTraining = False,
) -> None:
    """Train a network; write the model and a model card."""
    _ready()
    from fheinfer.cli.display import out
    from fheinfer.model.model import load
    from fheinfer.train.loop import train as run
    from fheinfer.train.recipe import Recipe

    settings = Recipe().changed(_settings(recipe, epochs=epochs, peak_lr=lr, seed=seed))
    taught_by, first = (load(file) if file else None for file in (teacher, start))
    trained = load(Path(network)).graph if Path(network).is_file() else network
    with training_view() as observe:
        run(trained, output, data, settings, resume, observe, taught_by, fused, first)
    out.print(f"{output} and {output.with_suffix('.md')}")


def finetune(
    file: Annotated[Path, typer.Argument(metavar="MODEL", help="Model file, of any network.")],
    output: OutputOption,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="paf|paf:NAME|quadratic", help="Polynomials to train.", show_default="paf"),
    ] = None,
    paf: Annotated[
        str | None,
        typer.Option(
            "--paf", metavar="NAME", help="f1, f1g2, 2f12g1, a7, ... (`fheinfer approx list`).", show_default="f1"
        ),
    ] = None,
    data: DataOption = None,
    epochs: EpochsOption = None,
    lr: RateOption = None,
    seed: SeedOption = None,
    recipe: RecipeOption = None,
    fused: FusedOption = False,
    resume: ResumeTraining = False,
    as_json: JsonOption = False,
) -> None:
    """Replace the ReLUs of a model, and what looks like them, by PAFs or quadratics, and train it on."""
    _ready()
    from fheinfer.cli.display import out, print_json
    from fheinfer.model.model import load
    from fheinfer.train import finetune as tuning

    if to is not None and to != "paf":
        refuse(f"--to {to} says which polynomials", paf=paf)
    target = to if to not in (None, "paf") else f"paf:{paf or tuning.PAF}"
    settings = tuning.recipe_for(target).changed(_settings(recipe, epochs=epochs, peak_lr=lr, seed=seed))
    model = load(file)
    with training_view() as observe:
        tuning.finetune(model, target, output, data, settings, resume, observe, fused)
    if as_json:
        tuned = load(output)
        print_json(
            {
                "file": str(output),
                "card": str(output.with_suffix(".md")),
                "network": tuned.name,
                "identity": tuned.identity,
                "provenance": dict(tuned.provenance),
            }
        )
        return
    out.print(f"{output} and {output.with_suffix('.md')}")


def calibrate(
    file: Annotated[Path, typer.Argument(metavar="MODEL", help="Model file.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Model with the ranges, or with the ending .json a file of ranges and histograms.",
            show_default="MODEL itself",
        ),
    ] = None,
    data: DataOption = None,
    images: Annotated[
        int, typer.Option("--limit", "--images", min=1, metavar="N", help="Look at no more than N examples.")
    ] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Measure the range of every activation's inputs over training data, and put the ranges into the model."""
    _ready()
    from fheinfer.cli.display import err, out, print_json, steps_bar, table
    from fheinfer.data import datasets
    from fheinfer.data.loaders import from_python
    from fheinfer.evaluation.ranges import in_words
    from fheinfer.model.model import load
    from fheinfer.storage import require_writable
    from fheinfer.train.calibrate import calibrated, measure_ranges

    target = file if output is None else output
    require_writable(target)
    model = load(file)
    examples = from_python(datasets.source(data), model.graph.input_shape, images)
    for note in examples.notes:
        err.print(note)
    with steps_bar("measuring") as progress:
        ranges = measure_ranges(model, examples, progress=progress)
    if target.suffix == ".json":
        ranges.save(target)
    else:
        calibrated(model, ranges, examples).save(target)
    seen = ranges.largest()
    if as_json:
        print_json({"file": str(target), "images": ranges.images, "largest": seen})
        return
    table(str(target), ["activation", "largest input"], [[name, in_words(largest)] for name, largest in seen.items()])
    if target.suffix == ".json":
        out.print(f"to use them: fheinfer model import {file} --ranges {target} -o FILE")
    else:
        out.print(f"{target}: {model.name} with the ranges of {ranges.images:,} examples")


@contextmanager
def training_view(console: Console | None = None) -> Iterator[TrainingObserver]:
    """An observer for `train`: how far it is, and one line per epoch that stays; the bar is removed also on errors."""
    from fheinfer.cli.display import err
    from fheinfer.cli.progress import Meter

    with Meter("training", "count", console or err) as meter:
        at = (0.0, 0.0)

        def observe(progress: TrainingProgress) -> None:
            nonlocal at
            if progress.measuring:
                share = 100 * progress.step / max(1, progress.steps)
                meter.update(*at, f"measuring {progress.measuring}, {share:.0f} %")
                return
            at = (progress.epoch * progress.steps + progress.step, progress.epochs * progress.steps)
            meter.update(*at, f"epoch {progress.epoch + 1}/{progress.epochs}, loss {progress.loss:.3f}")
            if progress.held_out is not None:
                meter.print(
                    f"epoch {progress.epoch + 1:3}/{progress.epochs}  loss {progress.loss:.3f}  "
                    f"held out {100 * progress.held_out:.2f} %"
                )

        yield observe
