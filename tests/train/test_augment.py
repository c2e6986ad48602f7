from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fheinfer.data.images import normalise
from fheinfer.data.labelled import DataSet
from fheinfer.evaluation.inputs import to_input
from fheinfer.train.augment import batches
from fheinfer.train.recipe import Recipe

QUICK = Recipe(crop=2)
CPU = torch.device("cpu")
IMAGES = DataSet(
    np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8), np.arange(10, dtype=np.uint8)
)
STILL = replace(QUICK, batch=5, crop=0, flip=False)


def test_the_input_is_what_preprocess_makes() -> None:
    x = to_input(torch.from_numpy(IMAGES.inputs), QUICK.mean, QUICK.std)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x[3].numpy() == pytest.approx(normalise(IMAGES.inputs[3], QUICK.mean, QUICK.std), abs=1e-5)


def test_an_epoch_shows_every_image_once_with_its_label() -> None:
    seen = {}
    for x, labels in batches(IMAGES, STILL, 0, CPU):
        seen.update(dict(zip(labels.tolist(), x, strict=True)))
    expected = to_input(torch.from_numpy(IMAGES.inputs), STILL.mean, STILL.std)
    assert sorted(seen) == list(range(10))
    assert all(torch.equal(seen[label], expected[label]) for label in seen)


def test_epochs_differ_and_repeat_exactly() -> None:
    recipe = replace(QUICK, batch=5)
    first, same, other = (torch.cat([x for x, _ in batches(IMAGES, recipe, epoch, CPU)]) for epoch in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_shifts_and_mirrors_keep_a_plain_image_and_move_others() -> None:
    plain = DataSet(np.full((10, 8, 8, 3), 77, np.uint8), IMAGES.labels)
    recipe = replace(STILL, crop=2, flip=True)
    (x, _), *_ = batches(plain, recipe, 0, CPU)
    assert torch.equal(x, to_input(torch.full((5, 8, 8, 3), 77, dtype=torch.uint8), recipe.mean, recipe.std))
    mirrored = 0
    originals = to_input(torch.from_numpy(IMAGES.inputs), STILL.mean, STILL.std)
    for x, labels in batches(IMAGES, replace(STILL, flip=True), 0, CPU):
        for image, label in zip(x, labels.tolist(), strict=True):
            assert torch.equal(image, originals[label]) or torch.equal(image.flip(2), originals[label])
            mirrored += not torch.equal(image, originals[label])
    assert 0 < mirrored < 10


def test_contrast_multiplies_each_image_by_a_factor_of_its_own() -> None:
    originals = to_input(torch.from_numpy(IMAGES.inputs), STILL.mean, STILL.std)
    factors = []
    for x, labels in batches(IMAGES, replace(STILL, contrast=0.5), 0, CPU):
        for image, label in zip(x, labels.tolist(), strict=True):
            factor = float((image / originals[label]).median())
            assert torch.allclose(image, factor * originals[label], atol=1e-5)
            factors.append(factor)
    assert 1 <= min(factors) < 1.2 < max(factors) <= 1.5


def test_a_rest_smaller_than_a_batch_is_left_out() -> None:
    assert [len(labels) for _, labels in batches(IMAGES, replace(STILL, batch=4), 0, CPU)] == [4, 4]
    assert [len(labels) for _, labels in batches(IMAGES, replace(STILL, batch=40), 0, CPU)] == [10]
