"""How SmartPAF (Tong et al., arXiv 2404.03216) trains PAFs: one after the other in inference order, coefficients and
weights by turns, at a scale that follows every batch until it has to be static."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fheinfer.errors import UsageError
from fheinfer.train.evaluate import Sizes
from fheinfer.train.module import GraphModule
from fheinfer.train.recipe import Recipe

MARGIN = 1.2
"""Static scale by largest input over training images."""


def check(module: GraphModule, recipe: Recipe) -> None:
    """Checks that a recipe and a network fit together.

    Raises:
        UsageError: the recipe asks for what only PAFs have, and there are none.
    """
    asked = [name for name in ("progressive", "alternate", "dynamic") if getattr(recipe, name)]
    if asked and not module.pafs():
        raise UsageError(f"recipe: {asked[0]} is for PAFs, and {module.graph.name} has none; see `fheinfer finetune`")


def replace_first(module: GraphModule, part: float) -> None:
    """Makes that part of all activations PAFs, rounded up, the first in inference order, and the rest ReLUs."""
    pafs = module.pafs()
    for index, paf in enumerate(pafs.values()):
        if paf.waiting is None:
            paf.waiting = torch.zeros((), dtype=torch.bool, device=paf.scale.device)
        paf.waiting.fill_(index >= math.ceil(part * len(pafs)))


def take_turns(module: GraphModule, epoch: int) -> None:
    """Lets even epochs train the coefficients of PAFs and nothing else, odd ones everything else."""
    own = {id(paf.coefficients) for paf in module.pafs().values()}
    for parameter in module.parameters():
        parameter.requires_grad_((id(parameter) in own) == (epoch % 2 == 0))


def follow_batches(module: GraphModule, follows: bool) -> None:
    """Says whether the scales of PAFs follow every batch."""
    for paf in module.pafs().values():
        paf.dynamic = follows


@torch.no_grad()
def settle_scales(module: GraphModule, sizes: Sequence[Sizes]) -> None:
    """Makes every scale the largest input in these results of `evaluate.measure`, with the margin, for good.

    Raises:
        UsageError: an input is no number.
    """
    for name, paf in module.pafs().items():
        largest = max(found[name][0] for found in sizes)
        if not largest < math.inf:
            raise UsageError(
                f"the input of {name!r} is not a number on one of the images, so it has no scale; try a "
                "lower learning rate or a larger penalty (the checkpoint before is kept)"
            )
        paf.scale.fill_(MARGIN * largest or 1.0)
        paf.dynamic = False
