"""Measurements of a trained module on images, always in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fheinfer.data.labelled import DataSet
from fheinfer.evaluation.inputs import inputs_of
from fheinfer.model.ops import HerPN
from fheinfer.progress import ProgressCallback, silent
from fheinfer.train.module import NORMS, GraphModule
from fheinfer.train.penalty import largest_of_each, without_runaways
from fheinfer.train.recipe import Recipe

MOST = 64.0
"""How large values may get that are to survive encryption at short scales."""

Sizes = Mapping[str, tuple[float, float]]
"""Activation, in graph order -> its largest |input| and its largest |output|."""


@torch.inference_mode()
def accuracy(
    module: GraphModule,
    images: DataSet,
    mean: Sequence[float],
    std: Sequence[float],
    most: float = math.inf,
    progress: ProgressCallback = silent,
) -> float:
    """Measures the part of the images whose largest logit is their label, 0..1.

    With `most`, an image that could not be evaluated encrypted counts as wrong: with a value beyond `most` into or out
    of a quadratic, or into a PAF beyond its scale.
    """
    module.eval()
    device = next(module.parameters()).device
    limits: dict[str, Tensor | float] = {}
    if most < math.inf:
        quadratics = [node for node in module.graph.activations if isinstance(node.op, HerPN)]
        limits = {name: most for node in quadratics for name in (node.inputs[0], node.name)}
        limits |= {module.graph[name].inputs[0]: paf.scale for name, paf in module.pafs().items()}
    right = 0
    for x, labels in inputs_of(images, mean, std, device, progress):
        values = module.forward_all(x)
        good = _right(values[module.graph.output.name], labels)
        for name, limit in limits.items():
            good &= largest_of_each(values[name]) <= limit
        right += int(good.sum())
    return right / len(images)


@torch.inference_mode()
def recalibrate(
    module: GraphModule,
    images: DataSet,
    recipe: Recipe,
    progress: ProgressCallback = silent,
    fused: bool = False,
) -> None:
    """Replaces every normalisation's running statistics by exact averages over `images`, in float32.

    Averaged weights never saw the statistics they need, and bfloat16 blurs those of training. As in training, images
    that run away are dropped: one of them would make the statistics of every layer behind it no numbers.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, NORMS)]
    usual = [layer.momentum for layer in norms]
    statistics = [buffer for layer in norms for buffer in layer.buffers()]
    sums = [torch.zeros_like(buffer) for buffer in statistics]
    device = next(module.parameters()).device
    module.train()
    run = torch.compile(_without_runaways) if fused else _without_runaways
    for layer in norms:
        layer.momentum = 1.0  # what is running are the statistics of one batch
    batches = 0
    for x, _ in inputs_of(images, recipe.mean, recipe.std, device, progress):
        run(module, x, recipe.bound)
        batches += 1
        for total, buffer in zip(sums, statistics, strict=True):
            total += buffer
    for total, buffer in zip(sums, statistics, strict=True):
        buffer.copy_(total / batches)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum
    module.eval()


def _without_runaways(module: GraphModule, x: Tensor, bound: float) -> Tensor:
    return module.forward_all(x, without_runaways(module.bounds(bound)))[module.graph.output.name]


@torch.inference_mode()
def measure(
    module: GraphModule,
    images: DataSet,
    mean: Sequence[float],
    std: Sequence[float],
    progress: ProgressCallback = silent,
    fused: bool = False,
) -> tuple[float, Sizes]:
    """Measures `accuracy`, and what every activation saw over `images`, in one pass; inf where it was no number."""
    module.eval()
    device = next(module.parameters()).device
    activations = module.graph.activations
    look = torch.compile(_look) if fused else _look
    found, right = torch.zeros(len(activations), 2, device=device), 0
    for x, labels in inputs_of(images, mean, std, device, progress):
        logits, seen = look(module, x)
        right += int(_right(logits, labels).sum())
        found = found.maximum(seen.nan_to_num(nan=math.inf, posinf=math.inf))
    return right / len(images), {
        node.name: (inside, outside) for node, (inside, outside) in zip(activations, found.tolist(), strict=True)
    }


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits that are no numbers are wrong, though argmax finds something in them."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def _look(module: GraphModule, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and (activations, 2): the largest |input| and |output| of each."""
    values = module.forward_all(x)
    names = [name for node in module.graph.activations for name in (node.inputs[0], node.name)]
    return values[module.graph.output.name], torch.stack([largest_of_each(values[n]).amax() for n in names]).view(-1, 2)


@torch.inference_mode()
def noisy_accuracy(
    module: GraphModule,
    images: DataSet,
    mean: Sequence[float],
    std: Sequence[float],
    sizes: Sizes,
    noise: float = 2**-8,
    progress: ProgressCallback = silent,
) -> float:
    """Measures `accuracy` with noise as of encryption: Gaussian, on the input and the output of every activation.

    Args:
        sizes: what `measure` found; the standard deviation is `noise` times that.
    """
    module.eval()
    device = next(module.parameters()).device
    random = torch.Generator(device).manual_seed(0)
    deviation = {}
    for node in module.graph.activations:
        deviation[node.inputs[0]], deviation[node.name] = (noise * size for size in sizes[node.name])

    def disturb(name: str, value: Tensor) -> Tensor:
        if name not in deviation:
            return value
        return value + deviation[name] * torch.randn(value.shape, generator=random, device=device)

    right = 0
    for x, labels in inputs_of(images, mean, std, device, progress):
        logits = module.forward_all(x, disturb)[module.graph.output.name]
        right += int(_right(logits, labels).sum())
    return right / len(images)


def largest_input(data: DataSet, recipe: Recipe) -> float:
    """Returns the largest |value| of the network's input over `data`."""
    batches = inputs_of(data, recipe.mean, recipe.std, torch.device("cpu"))
    return max(float(x.abs().max()) for x, _ in batches)
