"""Ranges: how large the input of every activation gets, which bounds the interval of its polynomial."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fheinfer.train.data import Pictures
from fheinfer.train.evaluate import largest
from fheinfer.train.module import from_weights
from fheinfer.weights import Weights

IMAGES = 10_000


def calibrate(weights: Weights, images: Pictures) -> dict[str, float]:
    """Largest |input| of every activation over `images`, by node name; pictures are averaged down to the input size."""
    size = int(weights.graph.input.attrs["shape"][1])
    found = largest(from_weights(weights), images.resized(size), weights.mean, weights.std)
    return {name: inside for name, (inside, _) in found.items()}


def with_ranges(weights: Weights, images: Pictures) -> Weights:
    """The same weights with ranges measured on the first 10,000 of `images`."""
    first = images.take(np.arange(min(IMAGES, len(images))))
    return replace(weights, ranges=calibrate(weights, first))
