"""`fheinfer train`, `finetune`, `calibrate` and `weights`: making and importing trained networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fheinfer import _core
from fheinfer.cli.display import out, print_json, steps_bar, table
from fheinfer.cli.plan import DataOption
from fheinfer.data.resources import default_weights
from fheinfer.evaluation.ranges import in_words
from fheinfer.evaluation.ranges import load as load_ranges
from fheinfer.frontends import zoo
from fheinfer.model.model import import_file, load
from fheinfer.optional import needs_torch

weights_app = typer.Typer(no_args_is_help=True, help="Trained weights: import and show.")

EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training images.")]
RateOption = Annotated[float | None, typer.Option(help="Peak learning rate.")]
SeedOption = Annotated[int | None, typer.Option(help="Of everything that is random.")]
RecipeOption = Annotated[list[str] | None, typer.Option(help="NAME=VALUE of docs/training.md; repeat.")]
FusedOption = Annotated[bool, typer.Option("--fused", help="Compile the network first: faster, needs g++.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")]


@contextmanager
def _torch() -> Iterator[None]:
    """For imports of training. Freed memory stays with the process: fetching it again page by page was half of all
    processor time."""
    _core.keep_freed_memory()
    with needs_torch("training"):
        yield


def _settings(recipe: list[str] | None, **short: float | None) -> list[str]:
    """Settings of a recipe, those with an option of their own last."""
    return [*(recipe or ()), *(f"{name}={value}" for name, value in short.items() if value is not None)]


def train(
    output: Annotated[Path, typer.Option("--output", "-o")],
    network: Annotated[str, typer.Option(help=f"One of {', '.join(zoo.names())}.")] = "resnet20",
    data: DataOption = None,
    epochs: EpochsOption = None,
    lr: RateOption = None,
    seed: SeedOption = None,
    teacher: Annotated[Path | None, typer.Option(help="Weights whose logits are learned beside labels.")] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, where names and shapes agree.")] = None,
    recipe: RecipeOption = None,
    fused: FusedOption = False,
    resume: ResumeOption = False,
) -> None:
    """Train a network on CIFAR-10; writes weights and a model card."""
    with _torch():
        from fheinfer.cli.training import training_view
        from fheinfer.train.loop import train as run
        from fheinfer.train.recipe import Recipe
    settings = _settings(recipe, epochs=epochs, peak_lr=lr, seed=seed)
    with training_view() as observe:
        taught_by, first = (load(file) if file else None for file in (teacher, start))
        run(network, output, data, Recipe().changed(settings), resume, observe, taught_by, fused, first)
    out.print(f"{output} and {output.with_suffix('.md')}")


def finetune(
    file: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="Of a network with ReLUs.")],
    paf: Annotated[str, typer.Option(help="f1g2, 2f12g1, a7, ... (fheinfer approx list)")],
    output: Annotated[Path, typer.Option("--output", "-o")],
    data: DataOption = None,
    epochs: EpochsOption = None,
    lr: RateOption = None,
    seed: SeedOption = None,
    recipe: RecipeOption = None,
    fused: FusedOption = False,
    resume: ResumeOption = False,
) -> None:
    """Replace the ReLUs of a trained network by PAFs and train it on."""
    with _torch():
        from fheinfer.cli.training import training_view
        from fheinfer.train import finetune as tuning
    settings = _settings(recipe, epochs=epochs, peak_lr=lr, seed=seed)
    with training_view() as observe:
        tuning.finetune(load(file), paf, output, data, tuning.RECIPE.changed(settings), resume, observe, fused)
    out.print(f"{output} and {output.with_suffix('.md')}")


def calibrate(
    file: Annotated[Path, typer.Argument(metavar="WEIGHTS")],
    output: Annotated[Path, typer.Option("--output", "-o")],
    data: DataOption = None,
    images: Annotated[int, typer.Option(min=1, help="Training images to look at.")] = 10_000,
    margin: Annotated[float, typer.Option(help="Factor on what was seen, for what was not.")] = 1.2,
) -> None:
    """Measure the input range and histogram of every activation over training images."""
    with _torch():
        from fheinfer.data import datasets as dataset
        from fheinfer.train import calibrate as measuring
    weights, pictures = load(file), dataset.load(dataset.folder(data), "train")
    with steps_bar("measuring") as observe:
        ranges = measuring.calibrate(weights, pictures.first(images), margin, observe)
    ranges.save(output)
    table(str(output), ["activation", "largest input", "with margin"],
          [[name, f"{seen:.2f}", f"{ranges.bounds()[name]:.2f}"] for name, seen in ranges.largest().items()])
    out.print(f"to use them: fheinfer weights import {file} --ranges {output} -o FILE", highlight=False)


@weights_app.command("import")
def weights_import(
    file: Annotated[Path, typer.Argument(help=".pt, .th, .npz or .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o")],
    network: Annotated[str | None, typer.Option(help="What it is of: resnet20, or what the file says.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10, to measure the activation ranges.")] = None,
    ranges: Annotated[Path | None, typer.Option(help="What `fheinfer calibrate` wrote for these weights.")] = None,
    accuracy: Annotated[bool, typer.Option("--accuracy", help="Also measure accuracy on the test images.")] = False,
) -> None:
    """Read somebody's weights and write them in our form."""
    weights = import_file(file, network, data=None if ranges else data)
    if ranges:
        weights = replace(weights, ranges=load_ranges(ranges, weights).largest())
    weights.save(output)
    out.print(f"{output}: {weights.network}, {len(weights.arrays)} tensors, identity {weights.identity[:16]}")
    if not weights.ranges:
        out.print("no activation ranges: give --data FOLDER or --ranges FILE before encrypting with them")
    if accuracy:
        with _torch():
            from fheinfer.data import datasets as dataset
            from fheinfer.train.evaluate import accuracy as measured
            from fheinfer.train.module import from_weights

        pictures = dataset.load(dataset.folder(data), "test").resized(weights.graph.picture_side)
        top1 = measured(from_weights(weights), pictures, weights.mean, weights.std)
        out.print(f"accuracy on the test images: {100 * top1:.2f} %")


@weights_app.command("show")
def weights_show(
    file: Annotated[Path | None, typer.Argument()] = None, as_json: Annotated[bool, typer.Option("--json")] = False
) -> None:
    """What a weights file holds."""
    path = file or default_weights()
    weights = load(path)
    if as_json:
        print_json(
            {
                "file": str(path),
                "network": weights.network,
                "identity": weights.identity,
                "mean": weights.mean,
                "std": weights.std,
                "ranges": dict(weights.ranges),
                "provenance": dict(weights.provenance),
            }
        )
        return
    table(
        str(path),
        ["activation", "largest input"],
        [[name, in_words(bound)] for name, bound in weights.ranges.items()],
    )
    out.print(
        f"{weights.network}, {sum(a.size for a in weights.arrays.values())} numbers, "
        f"mean {weights.mean}, std {weights.std}"
    )
