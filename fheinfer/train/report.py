"""What a finished run leaves: the weights file and its model card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fheinfer.data.datasets import Pictures
from fheinfer.errors import StorageError
from fheinfer.evaluation.ranges import in_words
from fheinfer.frontends import zoo
from fheinfer.model.graph import POLYNOMIALS
from fheinfer.model.model import Weights
from fheinfer.train import quantise
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.evaluate import Tell, measure, noisy_accuracy, recalibrate
from fheinfer.train.module import GraphModule
from fheinfer.train.prune import saved

_LARGEST = float(torch.finfo(torch.float32).max)
"""Stands for a range that is no number: some picture ran away."""


def write_report(state: Checkpoint, fitting: Pictures, held_out: Pictures, test: Pictures, out: Path,
                 measuring: Callable[[str], Tell], fused: bool = False) -> Weights:
    """Settles the best weights of a run in float32, measures them once on `test`, writes `out` and `out`.md.

    `measuring` gives what to tell of the pictures that are done, by the name of what is measured.

    Raises:
        StorageError: a file cannot be written.
    """
    recipe = state.recipe
    graph = zoo.network(state.network)
    module = GraphModule(graph, recipe.bits).to("cuda" if torch.cuda.is_available() else "cpu")
    module.load_state_dict(state.best)
    quantise.fix(module)
    if not recipe.settle:  # otherwise the weights have settled to the statistics they have
        recalibrate(module, fitting, recipe, measuring("statistics"), fused)
    as_given = (recipe.mean, recipe.std)
    provenance = {"trained on": f"{len(fitting):,} images", "best epoch": str(state.best_epoch)}
    seen = {}
    for name, part in (("training images", fitting), ("held-out images", held_out), ("test images", test)):
        right, seen[name] = measure(module, part, *as_given, measuring(name), fused)
        if part is not fitting:
            provenance[f"accuracy on {len(part):,} {name}"] = f"{100 * right:.2f} %"
    if any(node.op in POLYNOMIALS for node in graph):
        peak = max(max(pair) for sizes in seen.values() for pair in sizes.values())
        noisy = noisy_accuracy(module, test, *as_given, seen["training images"], tell=measuring("test images, noise"))
        provenance |= {
            "largest value into or out of an activation, all images": f"{peak:{'.1f' if peak < 1e6 else '.1e'}}",
            "accuracy on the test images under noise of 2^-8 of each layer's maximum": f"{100 * noisy:.2f} %"}
    provenance |= {f"recipe: {name}": value for name, value in recipe.describe().items()}
    if state.curve:  # of a checkpoint of an earlier version it begins in the middle, or there is none
        epochs = range(state.epoch - len(state.curve) + 1, state.epoch + 1)
        provenance["curve"] = "; ".join(f"{epoch} {loss:.4f} {100 * right:.2f}"
                                        for epoch, (loss, right) in zip(epochs, state.curve, strict=True))
    ranges = {name: min(inside, _LARGEST) for name, (inside, _) in seen["training images"].items()}
    arrays = {name: tensor.cpu().numpy() for name, tensor in module.state_dict().items()}
    weights = Weights(graph, arrays, recipe.mean, recipe.std, ranges, provenance)
    if recipe.prune:
        weights = replace(weights, provenance={**provenance, **saved(weights)})
    weights.save(out)
    card = out.with_suffix(".md")
    try:
        card.write_text(model_card(weights))
    except OSError as error:
        raise StorageError(f"{card}: cannot write the model card ({error.strerror})") from None
    return weights


def model_card(weights: Weights) -> str:
    """Markdown: what the weights are, how they were made, the ranges their activations need, and the curve."""
    count = sum(array.size for array in weights.arrays.values())
    facts = {"network": weights.network, "numbers": f"{count:,}", "identity (SHA-256)": f"`{weights.identity}`",
             "input": "(picture / 255 - mean) / std, RGB",
             "mean": str(list(weights.mean)), "std": str(list(weights.std)), **weights.provenance}
    curve = facts.pop("curve", "")
    lines = [f"# {weights.network}", "", "Trained by fheinfer. Selection used held-out training images only; the test "
             "images were used once, for the figure below.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "Largest \\|input\\| of every activation over the images it was trained on: the interval that an "
              "encrypted run has to cover.", "", "| activation | largest input |", "|---|---|"]
    lines += [f"| {name} | {in_words(value)} |" for name, value in weights.ranges.items()]
    if curve:
        lines += ["", *_curve([point.split() for point in curve.split("; ")])]
    return "\n".join(lines) + "\n"


def _curve(points: list[list[str]]) -> list[str]:
    """The held-out accuracy as a chart (Mermaid, which forges draw), then all numbers."""
    first, last = int(points[0][0]), int(points[-1][0])
    chart = ["xychart-beta", f'    x-axis "epoch" {first} --> {max(first + 1, last)}',
             '    y-axis "held-out images, %"', f"    line [{', '.join(right for *_, right in points)}]"]
    head = ["As training measured it, epoch by epoch; an image that could not be evaluated encrypted, because of a "
            "value too large, counts as wrong there.", "", "```mermaid", *chart, "```", ""]
    return [*head, "| epoch | mean loss | held-out images |", "|---|---|---|",
            *(f"| {epoch} | {loss} | {right} % |" for epoch, loss, right in points)]
