"""Measurements of a trained module on pictures, always in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fheinfer.train.data import Pictures
from fheinfer.train.images import to_input
from fheinfer.train.module import BatchNorm, GraphModule

_BATCH = 500


def inputs_of(pictures: Pictures, mean: Sequence[float], std: Sequence[float], device: torch.device
              ) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, labels) of all pictures in order."""
    for start in range(0, len(pictures), _BATCH):
        images = torch.from_numpy(pictures.images[start:start + _BATCH].copy()).to(device)
        labels = torch.from_numpy(pictures.labels[start:start + _BATCH].copy()).long().to(device)
        yield to_input(images, mean, std), labels


@torch.inference_mode()
def accuracy(module: GraphModule, pictures: Pictures, mean: Sequence[float], std: Sequence[float]) -> float:
    """Part of the pictures whose largest logit is their label, 0..1."""
    module.eval()
    device = next(module.parameters()).device
    right = 0
    for x, labels in inputs_of(pictures, mean, std, device):
        right += int((module(x).argmax(1) == labels).sum())
    return right / len(pictures)


@torch.inference_mode()
def recalibrate(module: GraphModule, pictures: Pictures, mean: Sequence[float], std: Sequence[float]) -> None:
    """Replaces every batch norm's running statistics by exact averages over `pictures`, in float32.

    Averaged weights never saw the statistics they need, and bfloat16 blurs those of training.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    usual = [layer.momentum for layer in norms]
    device = next(module.parameters()).device
    module.train()
    for index, (x, _) in enumerate(inputs_of(pictures, mean, std, device), start=1):
        for layer in norms:
            layer.momentum = 1 / index  # a plain average over the batches so far
        module(x)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum
    module.eval()


@torch.inference_mode()
def relu_ranges(module: GraphModule, pictures: Pictures, mean: Sequence[float], std: Sequence[float]
                ) -> dict[str, float]:
    """Largest |input| of every relu node over `pictures`, by node name in graph order."""
    module.eval()
    device = next(module.parameters()).device
    relus = [node for node in module.graph if node.op == "relu"]
    largest = {node.name: 0.0 for node in relus}
    for x, _ in inputs_of(pictures, mean, std, device):
        values = module.forward_all(x)
        for node in relus:
            largest[node.name] = max(largest[node.name], float(values[node.inputs[0]].abs().max()))
    return largest
