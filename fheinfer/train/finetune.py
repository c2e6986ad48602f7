"""From ReLUs to polynomials: replace all activations that look like one, then train everything together.

Tuned PAFs are right on the whole static range from the start, so all layers can be replaced at once, and the network
itself is the teacher; SmartPAF goes layer by layer: settings of the recipe (`smartpaf`). Quadratics begin with the best
fit to what each activation sees, and are normalised by batches until the last epochs.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from fheinfer.data.labelled import split
from fheinfer.frontends.replacing import QUADRATIC
from fheinfer.model.model import Model
from fheinfer.optional import needs_torch
from fheinfer.train.calibrate import IMAGES, measure_ranges
from fheinfer.train.observer import TrainingObserver, measuring, unobserved
from fheinfer.train.recipe import Recipe
from fheinfer.train.replace import replaced

PAF = "f1"
"""The PAF where none is named: that of the shipped model."""
RECIPE = Recipe(epochs=12, peak_lr=0.03, warmup=0.1, average=0.995, settle=3, contrast=0.1)
QUADRATIC_RECIPE = replace(RECIPE, epochs=20, peak_lr=0.05, settle=8, contrast=0.3, penalty=0.2)


def recipe_for(to: str) -> Recipe:
    """Returns the recipe that `finetune` follows by default."""
    return QUADRATIC_RECIPE if to == QUADRATIC else RECIPE


def finetune(
    model: Model,
    to: str,
    out: str | os.PathLike[str],
    data: Any,
    recipe: Recipe | None = None,
    resume: bool = False,
    observer: TrainingObserver = unobserved,
    fused: bool = False,
) -> Model:
    """Trains the network of a model with polynomials in place of its activations: `fheinfer.finetune`.

    Writes the new model and a model card as `train` does, and returns that model.

    The scale of a PAF is the largest input over 10,000 training examples times 1.2, and stays unless the recipe says
    `dynamic`. The input is normalised as the model's is, whatever the recipe says.

    Args:
        to: "paf", "paf:NAME" or a NAME of `fheinfer.approx.paf.PAFS`; or "quadratic".
        data: examples with labels, as of `train`: a DataLoader, a tuple (inputs, labels) of arrays or tensors, the path
            of a data set or a folder of class folders, a `DataSet`; or two of these, (for training, for the test).
        recipe: that of `recipe_for` by default.

    Raises:
        UsageError: torch is not installed, no such polynomials, or no activations to replace; otherwise what `train`
            raises.
    """
    with needs_torch("training"):
        from fheinfer.train.loop import parts, train
        from fheinfer.train.smartpaf import MARGIN

    to = PAF if to == "paf" else to
    recipe = replace(recipe or recipe_for(to), mean=model.mean, std=model.std)
    pair = parts(model.graph, data)  # once: an iterator has its examples once
    fitting = split(pair[0])[0]
    progress = measuring(observer, 0, recipe.epochs)("ranges")
    start = replaced(model, to, measure_ranges(model, fitting.first(IMAGES), MARGIN, progress))
    return train(start.graph, out, pair, recipe, resume, observer, teacher=model, fused=fused, start=start)
