"""Measuring what goes into every activation, in one pass that keeps no tensor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fheinfer.data.datasets import Pictures
from fheinfer.errors import RangeError
from fheinfer.evaluation.ranges import BINS, Histogram, Ranges
from fheinfer.model.model import Weights
from fheinfer.train.evaluate import Tell, inputs_of, silent
from fheinfer.train.module import from_weights

IMAGES = 10_000


@torch.inference_mode()
def calibrate(weights: Weights, images: Pictures, margin: float = 1.0,
              observe: Tell = silent) -> Ranges:
    """Range and histogram of the input of every activation; pictures are averaged down to the network's input size.

    Args:
        images: at least one.
        observe: called with the pictures done and all of them.

    Raises:
        UsageError: a margin below 1.
        GraphError, DatasetError: the network takes no pictures, or none of that size.
        RangeError: a value that is not a number.
    """
    found = {node.name: Histogram() for node in weights.graph.activations}
    ranges = Ranges(weights.network, weights.identity, len(images), margin, found)
    module = from_weights(weights)
    pictures = images.resized(weights.graph.picture_side)
    for x, _ in inputs_of(pictures, weights.mean, weights.std, torch.device("cpu"), observe):
        values = module.forward_all(x)
        for node in weights.graph.activations:
            given, histogram = values[node.inputs[0]], found[node.name]
            largest = float(given.abs().max())
            if not largest < np.inf:
                raise RangeError(f"the input of {node.name!r} is not a number on one of the images")
            histogram.stretch(largest)
            histogram.counts += torch.histc(given, BINS, -histogram.reach, histogram.reach).numpy().astype(np.int64)
    return ranges


def with_ranges(weights: Weights, images: Pictures) -> Weights:
    """The same weights with ranges measured on the first 10,000 of `images`."""
    return replace(weights, ranges=calibrate(weights, images.first(IMAGES)).largest())
