"""Pruning by diagonals: which numbers of a weight are one product, which go, and what the plan makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.presets import set_for
from fheinfer.data import datasets as data
from fheinfer.errors import UsageError
from fheinfer.frontends import zoo
from fheinfer.model.model import load
from fheinfer.model.ops import Conv2d
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.loop import train
from fheinfer.train.module import GraphModule
from fheinfer.train.observer import unobserved
from fheinfer.train.prune import Diagonals, unpruned
from fheinfer.train.recipe import Recipe
from fheinfer.train.run import Run
from tests.conftest import random_model
from tests.train.conftest import QUICK

NETWORK = "resnet8-tiny-turbo"


@pytest.fixture(scope="module")
def diagonals() -> Diagonals:
    return Diagonals(zoo.network(NETWORK))


def products(network: str) -> int:
    """Of convolutions with no zeros."""
    return sum(s.multiplications for s in unpruned(zoo.network(network)).steps if isinstance(s.op, Conv2d))


@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.9])
def test_a_mask_takes_that_part_of_all_products_of_the_plan(diagonals: Diagonals, part: float) -> None:
    """But for the diagonal of identities in a block whose shortcut is nothing, which is part of the convolution, and
    for one diagonal in each sum of which nothing is left: keys are made before weights are known."""
    assert diagonals.count == products(NETWORK)
    model = random_model(NETWORK, 3)
    module = GraphModule(model.graph)
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in model.tensors.items()})
    masks = diagonals.masks(module, part)
    tensors = {n: a * masks[n].numpy() if n in masks else a for n, a in model.tensors.items()}
    before, after = (compile(m, set_for(NETWORK)) for m in (model, replace(model, tensors=tensors)))
    gone = before.multiplications - after.multiplications
    masked = round(part * diagonals.count)
    assert 0.9 * masked - 1 <= gone <= masked + 1
    assert (after.keys["fast"].seconds < before.keys["fast"].seconds) == (part > 0)
    # A client has its keys and its images before it knows what was pruned.
    assert all(after.keys[policy].rotations == needs.rotations for policy, needs in before.keys.items())
    assert after.client.input.level == before.client.input.level
    assert [(s.name, s.level, s.packing) for s in after.steps] == [(s.name, s.level, s.packing) for s in before.steps]


def test_the_smallest_go_and_growing_masks_hold_one_another(diagonals: Diagonals) -> None:
    module = GraphModule(zoo.network(NETWORK))
    name, of = next(iter(diagonals.of.items()))
    small = int(of.flatten()[0])
    with torch.no_grad():
        module.get_parameter(name)[of == small] *= 1e-3
    assert not diagonals.masks(module, 1 / diagonals.count)[name][of == small].any()
    fewer, more = (diagonals.masks(module, part) for part in (0.2, 0.4))
    for key in fewer:
        assert not (more[key] & ~fewer[key]).any()
        with torch.no_grad():
            module.get_parameter(key).mul_(more[key])
    again = diagonals.masks(module, 0.4)
    assert all(torch.equal(again[key], more[key]) for key in more)


def test_a_pruned_run_ends_pruned_and_says_what_it_brought(mosaics: Path, tmp_path: Path, diagonals: Diagonals) -> None:
    out = tmp_path / "pruned.safetensors"
    recipe = replace(QUICK, prune=0.3, epochs=4)
    train(NETWORK, out, mosaics, recipe)
    left, full = compile(load(out), set_for(NETWORK)), unpruned(zoo.network(NETWORK))
    assert full.multiplications - left.multiplications >= round(0.3 * diagonals.count) - 1
    card = out.with_suffix(".md").read_text()
    assert f"set insecure-tiny-turbo | {full.multiplications:,} -> {left.multiplications:,} |" in card
    assert "predicted seconds" in card


def test_masks_grow_by_epochs_and_stay(mosaics: Path, diagonals: Diagonals) -> None:
    recipe = replace(QUICK, prune=0.5, epochs=4)
    assert [recipe.pruned(e) for e in range(4)] == pytest.approx([0.4375, 0.5, 0.5, 0.5])
    assert [recipe.deployable(e) for e in range(4)] == [False, True, True, True]
    fitting, held_out = (part.resized(8) for part in data.split(data.load(mosaics, "train")))
    graph, few, fewer = zoo.network(NETWORK), fitting.take(np.arange(100)), held_out.take(np.arange(50))
    run = Run(Checkpoint(NETWORK, recipe), graph, few, fewer, unobserved)
    zeros = []
    for _ in range(4):
        run.epoch()
        for module in (run.module, run.average):
            gone = sum(int((~mask & (module.get_parameter(name) == 0)).sum()) for name, mask in run.masks.items())
            assert gone == sum(int((~mask).sum()) for mask in run.masks.values())
        zeros.append({name: ~mask for name, mask in run.masks.items()})
    assert run.state.best_epoch >= 2
    assert all(torch.equal(zeros[1][name], zeros[3][name]) for name in zeros[1])
    assert sum(int(z.sum()) for z in zeros[0].values()) < sum(int(z.sum()) for z in zeros[1].values())


def test_linear_layers_are_pruned_where_there_are_no_convolutions() -> None:
    graph = zoo.perceptron("small", (3, 12, 20, 2))
    found = Diagonals(graph)
    assert found.count == 14 + 31 + 21  # of inputs and outputs i - o modulo 16, 32 and 32
    torch.manual_seed(0)
    module = GraphModule(graph)
    masks = found.masks(module, 0.5)
    kept = set()
    for name, mask in masks.items():
        outputs, inputs = mask.shape
        period = 1 << (max(mask.shape) - 1).bit_length()
        for distance in range(period):
            on = [bool(mask[o, i]) for o in range(outputs) for i in range(inputs) if (i - o) % period == distance]
            assert len(set(on)) <= 1
            kept |= {(name, distance)} if on and on[0] else set()
    assert len(kept) == found.count - round(0.5 * found.count)


def test_what_cannot_be_pruned() -> None:
    with pytest.raises(UsageError, match="prune"):
        Recipe(prune=1.0)
