"""What a training run does, as numbers: frozen, checked once, written into the model card."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from fheinfer.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum under a one-cycle learning rate.

    epochs, batch        passes over the training images; images a step
    peak_lr, warmup      largest learning rate; part of all steps that climb to it (then a cosine down to 0)
    momentum, decay      of the gradient; of the weights (all of them: it also keeps ReLU inputs small)
    smoothing            label smoothing
    teacher              identity of the weights whose logits are learned beside the labels, "" for none
    distill, temperature part of the loss that is the teacher's (Hinton et al. 2015); softening of both logits
    average              decay per step of the moving average of weights that is evaluated and kept
    crop, flip           random shift in pixels either way; mirror half of the images
    bfloat16             autocast: weights and updates stay float32
    mean, std            normalisation of the input channels, on the scale 0..1
    """

    epochs: int = 40
    batch: int = 128
    peak_lr: float = 0.2
    warmup: float = 0.2
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.0
    teacher: str = ""
    distill: float = 0.7
    temperature: float = 3.0
    average: float = 0.998
    crop: int = 4
    flip: bool = True
    bfloat16: bool = True
    seed: int = 1
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)

    def __post_init__(self) -> None:
        rules = {
            "epochs": self.epochs >= 1, "batch": self.batch >= 2, "peak_lr": 0 < self.peak_lr < math.inf,
            "warmup": 0 <= self.warmup < 1, "momentum": 0 <= self.momentum < 1, "decay": 0 <= self.decay < 1,
            "smoothing": 0 <= self.smoothing < 1, "distill": 0 <= self.distill <= 1,
            "temperature": 0 < self.temperature < math.inf, "average": 0 <= self.average < 1, "crop": self.crop >= 0,
            "seed": self.seed >= 0, "std": min(self.std) > 0,
        }
        for name, holds in rules.items():
            if not holds:
                raise UsageError(f"recipe: {name} cannot be {getattr(self, name)}")

    def lr(self, step: int, steps: int) -> float:
        """Learning rate of step 0..steps-1."""
        climb = self.warmup * steps
        if step < climb:
            return self.peak_lr * (step + 1) / (climb + 1)
        return self.peak_lr * (1 + math.cos(math.pi * (step - climb) / (steps - climb))) / 2

    def describe(self) -> dict[str, str]:
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}
