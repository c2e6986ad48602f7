"""From ReLUs to PAFs: replace all of them by tuned ones at a static scale, then train everything together.

Tuned coefficients are right on the whole range from the start, so all layers can be replaced at once, and the ReLU
network itself is the teacher. SmartPAF goes layer by layer: settings of the recipe (`smartpaf`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fheinfer.data.labelled import split
from fheinfer.model.model import Model
from fheinfer.train.calibrate import IMAGES, measure_ranges
from fheinfer.train.loop import Data, parts, train
from fheinfer.train.observer import TrainingObserver, measuring, unobserved
from fheinfer.train.recipe import Recipe
from fheinfer.train.replace import replaced
from fheinfer.train.smartpaf import MARGIN

RECIPE = Recipe(epochs=12, peak_lr=0.03, warmup=0.1, average=0.995, settle=3, contrast=0.1)


def finetune(
    model: Model,
    paf: str,
    out: Path,
    data: Data,
    recipe: Recipe = RECIPE,
    resume: bool = False,
    observer: TrainingObserver = unobserved,
    fused: bool = False,
) -> None:
    """Trains the network of a model with `paf` in place of every ReLU; writes the new model as `train` does.

    The scale of each activation is its largest input over 10,000 training images times 1.2, and stays unless the recipe
    says `dynamic`. The input is normalised as the model's is, whatever the recipe says.

    Raises:
        UsageError: no such PAF, or no ReLUs; otherwise what `train` raises.
    """
    recipe = replace(recipe, mean=model.mean, std=model.std)
    fitting = split(parts(model.graph, data)[0])[0]
    progress = measuring(observer, 0, recipe.epochs)("ranges")
    start = replaced(model, paf, measure_ranges(model, fitting.first(IMAGES), MARGIN, progress))
    train(start.graph, out, data, recipe, resume, observer, teacher=model, fused=fused, start=start)
