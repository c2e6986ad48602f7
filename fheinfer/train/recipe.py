"""What a training run does, as numbers: frozen, checked once, written into the model card."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from fheinfer.errors import UsageError

_SHOWN = 8


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum under a one-cycle learning rate.

    epochs, batch        passes over the training data; examples per step
    peak_lr, warmup      largest learning rate; part of all steps that climb to it (then a cosine down to 0)
    momentum, decay      of the gradient; of the weights (all of them: it also keeps ReLU inputs small)
    smoothing            label smoothing
    teacher              identity of the weights whose logits are learned beside the labels, "" for none
    start                identity of the weights that a run begins with, "" for random ones
    distill, temperature part of the loss that is the teacher's (Hinton et al. 2015); softening of both logits
    bound, penalty       values of polynomial activations beyond +-bound are punished: factor of `penalty.excess`
    clip                 largest norm of the gradient of all weights together
    settle               last epochs in which normalisations keep the statistics they have
    average              decay per step of the moving average of weights that is evaluated and kept
    swa                  last epochs in which that average is the equal one over their steps instead (SWA)
    bits                 of the weights of convolutions and linear layers, on a grid per channel; 0 for float32
    prune                part of the diagonals of convolutions that are made zero, the smallest, by half of the run
    progressive          PAFs replace ReLUs one after the other, the last by half of the run
    alternate            even epochs train coefficients of PAFs, odd ones everything else
    dynamic              the scale of PAFs is the largest input of each batch, and static in the `settle` epochs
    crop, flip           of images: random shift in pixels either way; mirror half of them
    contrast             inputs are multiplied by a random factor from 1 to 1 + contrast, one per example
    noise                deviation of Gaussian noise on values of polynomials, as part of a batch's largest
    bfloat16             autocast: weights and updates stay float32
    mean, std            normalisation of the input: per channel, on the scale 0..1, or per feature of a vector
    """

    epochs: int = 40
    batch: int = 128
    peak_lr: float = 0.2
    warmup: float = 0.2
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.0
    teacher: str = ""
    start: str = ""
    distill: float = 0.7
    temperature: float = 3.0
    bound: float = 4.0
    penalty: float = 0.1
    clip: float = 2.0
    settle: int = 0
    average: float = 0.998
    swa: int = 0
    bits: int = 0
    prune: float = 0.0
    progressive: bool = False
    alternate: bool = False
    dynamic: bool = False
    crop: int = 4
    flip: bool = True
    contrast: float = 0.0
    noise: float = 0.0
    bfloat16: bool = True
    seed: int = 1
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, ...] = (0.2470, 0.2435, 0.2616)

    def __post_init__(self) -> None:
        rules = {
            "epochs": self.epochs >= 1,
            "batch": self.batch >= 2,
            "peak_lr": 0 < self.peak_lr < math.inf,
            "warmup": 0 <= self.warmup < 1,
            "momentum": 0 <= self.momentum < 1,
            "decay": 0 <= self.decay < 1,
            "smoothing": 0 <= self.smoothing < 1,
            "distill": 0 <= self.distill <= 1,
            "temperature": 0 < self.temperature < math.inf,
            "average": 0 <= self.average < 1,
            "crop": self.crop >= 0,
            "contrast": 0 <= self.contrast < math.inf,
            "noise": 0 <= self.noise < 1,
            "bound": 0 < self.bound < math.inf,
            "penalty": 0 <= self.penalty < math.inf,
            "clip": self.clip > 0,
            "settle": self.dynamic <= self.settle <= self.epochs,
            "swa": 0 <= self.swa <= self.epochs,
            "bits": self.bits == 0 or 2 <= self.bits <= 16,
            "prune": 0 <= self.prune < 1,
            "seed": self.seed >= 0,
            "std": min(self.std) > 0,
        }
        for name, holds in rules.items():
            if not holds:
                raise UsageError(f"recipe: {name} cannot be {getattr(self, name)}")

    def changed(self, settings: Sequence[str]) -> Recipe:
        """Returns this recipe with other settings, such as "epochs=20"; of fewer epochs than are to settle, all do.

        Raises:
            UsageError: a setting that is no NAME=VALUE, has no such name or no value of its kind, or breaks a rule.
        """
        usual = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            try:
                value = ast.literal_eval(text if name not in ("teacher", "start") else repr(text))
                kind = type(usual[name])
                chosen[name] = kind(value) if kind is float or (kind is bool and value in (0, 1)) else value
                if type(chosen[name]) is not kind:
                    raise ValueError
            except (KeyError, ValueError, SyntaxError, TypeError):
                raise UsageError(f"recipe: {setting!r} is no NAME=VALUE of {', '.join(usual)}") from None
        return replace(self, **{"settle": min(self.settle, chosen.get("epochs", self.epochs)), **chosen})

    def lr(self, step: int, steps: int) -> float:
        """Returns the learning rate of step 0..steps-1."""
        climb = self.warmup * steps
        if step < climb:
            return self.peak_lr * (step + 1) / (climb + 1)
        return self.peak_lr * (1 + math.cos(math.pi * (step - climb) / (steps - climb))) / 2

    def grown(self, done: float) -> float:
        """Says how far that which comes gradually has come when this part of the run is done: 1 from the half on."""
        return min(1.0, 2 * done)

    def pruned(self, epoch: int) -> float:
        """Returns the part of the diagonals that is zero in an epoch: most go early (Zhu, Gupta, arXiv 1710.01878)."""
        return self.prune * (1 - (1 - self.grown((epoch + 1) / self.epochs)) ** 3)

    def deployable(self, epoch: int) -> bool:
        """Says whether the network is at the end of the epoch what it will be: pruned, all PAFs, at static scales."""
        gradual = self.progressive or self.prune > 0
        settled = epoch >= self.epochs - self.settle
        return (not gradual or self.grown((epoch + 1) / self.epochs) == 1) and (not self.dynamic or settled)

    def describe(self) -> dict[str, str]:
        """Returns every setting as text, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _short(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}


def _short(values: tuple[float, ...]) -> str:
    """Of vectors with many features the model has them all."""
    return str(values) if len(values) <= _SHOWN else f"{len(values):,} numbers"
