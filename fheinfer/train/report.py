"""What a finished run leaves: the model file and its model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fheinfer.data.labelled import DataSet
from fheinfer.evaluation.kept import with_kept_bits
from fheinfer.evaluation.ranges import in_words
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from fheinfer.progress import ProgressCallback
from fheinfer.storage import atomic_write
from fheinfer.train import quantise
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.evaluate import largest_input, measure, noisy_accuracy, recalibrate
from fheinfer.train.module import GraphModule
from fheinfer.train.prune import saved

_LARGEST = float(torch.finfo(torch.float32).max)
"""Written for a range that is no number: some image ran away."""

_SHOWN = 8


def write_report(
    state: Checkpoint,
    graph: Graph,
    fitting: DataSet,
    held_out: DataSet,
    test: DataSet,
    out: Path,
    measuring: Callable[[str], ProgressCallback],
    fused: bool = False,
    classes: tuple[str, ...] = (),
    final: str = "",
) -> Model:
    """Settles the best weights of a run in float32, measures them once on `test`, writes `out` and `out`.md.

    Args:
        measuring: gives the callback for images that are done, by the name of what is measured.
        classes: names of the outputs; numbers where none are given.
        final: what the client does to outputs after decryption, as of `Model`.

    Raises:
        StorageError: a file cannot be written.
    """
    recipe = state.recipe
    module = GraphModule(graph, recipe.bits).to("cuda" if torch.cuda.is_available() else "cpu")
    module.load_state_dict(state.best)
    quantise.fix(module)
    if not recipe.settle:  # otherwise the weights have settled to the statistics they have
        recalibrate(module, fitting, recipe, measuring("statistics"), fused)
    as_given = (recipe.mean, recipe.std)
    what = fitting.noun
    provenance = {"trained on": f"{len(fitting):,} {what}", "best epoch": str(state.best_epoch)}
    seen = {}
    for name, part in ((f"training {what}", fitting), (f"held-out {what}", held_out), (f"test {what}", test)):
        right, seen[name] = measure(module, part, *as_given, measuring(name), fused)
        if part is not fitting:
            provenance[f"accuracy on {len(part):,} {name}"] = f"{100 * right:.2f} %"
    if any(node.op.polynomial for node in graph):
        peak = max(max(pair) for sizes in seen.values() for pair in sizes.values())
        noisy = noisy_accuracy(
            module, test, *as_given, seen[f"training {what}"], progress=measuring(f"test {what}, noise")
        )
        provenance |= {
            f"largest value into or out of an activation, all {what}": f"{peak:{'.1f' if peak < 1e6 else '.1e'}}",
            f"accuracy on the test {what} under noise of 2^-8 of each layer's maximum": f"{100 * noisy:.2f} %",
        }
    provenance |= {f"recipe: {name}": value for name, value in recipe.describe().items()}
    if state.curve:  # of a checkpoint of an earlier version it begins in the middle, or there is none
        epochs = range(state.epoch - len(state.curve) + 1, state.epoch + 1)
        provenance["curve"] = "; ".join(
            f"{epoch} {loss:.4f} {100 * right:.2f}" for epoch, (loss, right) in zip(epochs, state.curve, strict=True)
        )
    ranges = {name: min(inside, _LARGEST) for name, (inside, _) in seen[f"training {what}"].items()}
    tensors = {name: tensor.cpu().numpy() for name, tensor in module.state_dict().items()}
    if not fitting.images:
        ranges[graph.input.name] = largest_input(fitting, recipe)
    model = Model(graph, tensors, recipe.mean, recipe.std, classes, ranges, provenance, final)
    if recipe.prune:
        model = replace(model, provenance={**provenance, **saved(model)})
    model = with_kept_bits(model, fitting)
    model.save(out)
    atomic_write(out.with_suffix(".md"), [model_card(model).encode()])
    return model


def model_card(model: Model) -> str:
    """Writes Markdown: what the model is, how it was made, the ranges that its activations need, and the curve."""
    count = sum(array.size for array in model.tensors.values())
    facts = {
        "network": model.name,
        "numbers": f"{count:,}",
        "identity (SHA-256)": f"`{model.identity}`",
        "input": _input(model),
        "mean": _numbers(model.mean),
        "std": _numbers(model.std),
        **model.provenance,
    }
    curve = facts.pop("curve", "")
    what = "images" if len(model.graph.input_shape) == 3 else "examples"
    lines = [
        f"# {model.name}",
        "",
        f"Trained by fheinfer. Selection used held-out training {what} only; the test "
        f"{what} were used once, for the figure below.",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += [
        "",
        f"Largest \\|input\\| of every activation over the {what} it was trained on: the interval that an "
        "encrypted run has to cover.",
        "",
        "| activation | largest input |",
        "|---|---|",
    ]
    lines += [f"| {name} | {in_words(value)} |" for name, value in model.ranges.items()]
    if curve:
        lines += ["", *_curve([point.split() for point in curve.split("; ")])]
    return "\n".join(lines) + "\n"


def _input(model: Model) -> str:
    channels = {1: "grey", 3: "RGB"}.get(model.graph.input_shape[0], "one mean and std per channel")
    match len(model.graph.input_shape):
        case 3:
            return f"(image / 255 - mean) / std, {channels}"
        case 1:
            return "(x - mean) / std per feature"
        case _:
            return "x"


def _numbers(values: Sequence[float]) -> str:
    more = f"; {len(values):,} in all" if len(values) > _SHOWN else ""
    return f"{list(values[:_SHOWN])}{more}"


def _curve(points: list[list[str]]) -> list[str]:
    """The held-out accuracy as a chart (Mermaid, which forges draw), then all numbers."""
    first, last = int(points[0][0]), int(points[-1][0])
    chart = [
        "xychart-beta",
        f'    x-axis "epoch" {first} --> {max(first + 1, last)}',
        '    y-axis "held out, %"',
        f"    line [{', '.join(right for *_, right in points)}]",
    ]
    head = [
        "As training measured it, epoch by epoch; an example that could not be evaluated encrypted, because of a "
        "value too large, counts as wrong there.",
        "",
        "```mermaid",
        *chart,
        "```",
        "",
    ]
    return [
        *head,
        "| epoch | mean loss | held out |",
        "|---|---|---|",
        *(f"| {epoch} | {loss} | {right} % |" for epoch, loss, right in points),
    ]
