"""From ReLUs to PAFs: replace all of them by tuned ones at a static scale, then train everything together.

Tuned coefficients are right on the whole range from the start, so all layers can be replaced at once, and the ReLU
network itself is the teacher. SmartPAF goes layer by layer: settings of the recipe (`smartpaf`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fheinfer.data import datasets as dataset
from fheinfer.model.model import Weights
from fheinfer.train.calibrate import IMAGES, calibrate
from fheinfer.train.loop import Observer, measuring, train
from fheinfer.train.recipe import Recipe
from fheinfer.train.replace import replaced
from fheinfer.train.smartpaf import MARGIN

RECIPE = Recipe(epochs=12, peak_lr=0.03, warmup=0.1, average=0.995, settle=3, contrast=0.1)


def finetune(weights: Weights, paf: str, out: Path, data: Path | None, recipe: Recipe = RECIPE, resume: bool = False,
             observe: Observer = lambda progress: None, fused: bool = False) -> None:
    """Makes `weights`, of a ReLU network, those of the network with `paf`; writes them and their card as `train` does.

    The scale of each activation is its largest input over 10,000 training images times 1.2, and stays unless the recipe
    says `dynamic`. The input is normalised as `weights` were, whatever the recipe says.

    Raises:
        UsageError: no such PAF, or no ReLUs; otherwise what `train` raises.
    """
    recipe = replace(recipe, mean=weights.mean, std=weights.std)
    fitting = dataset.split(dataset.load(dataset.folder(data), "train"))[0]
    tell = measuring(observe, 0, recipe.epochs)("ranges")
    ranges = calibrate(weights, fitting.first(IMAGES), MARGIN, tell)
    start = replaced(weights, paf, ranges)
    train(start.network, out, data, recipe, resume, observe, teacher=weights, fused=fused, start=start)
