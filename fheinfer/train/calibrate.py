"""Measuring what goes into every activation, in one pass that keeps no tensor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fheinfer.data.datasets import LabelledImages
from fheinfer.errors import RangeError
from fheinfer.evaluation.inputs import inputs_of, sized_for
from fheinfer.evaluation.ranges import BINS, Histogram, Ranges
from fheinfer.model.model import Model
from fheinfer.progress import ProgressCallback, silent
from fheinfer.train.module import from_model

IMAGES = 10_000


@torch.inference_mode()
def calibrate(model: Model, images: LabelledImages, margin: float = 1.0, progress: ProgressCallback = silent) -> Ranges:
    """Measures range and histogram of the input of every activation, on images averaged down to the input's size.

    Args:
        images: at least one.
        progress: called with the images that are done.

    Raises:
        UsageError: a margin below 1.
        GraphError, DatasetError: the network takes no images, or none of that size.
        RangeError: a value that is not a number.
    """
    histograms = {node.name: Histogram() for node in model.graph.activations}
    ranges = Ranges(model.name, model.identity, len(images), margin, histograms)
    module = from_model(model)
    for x, _ in inputs_of(sized_for(model.graph, images), model.mean, model.std, torch.device("cpu"), progress):
        values = module.forward_all(x)
        for node in model.graph.activations:
            inputs, histogram = values[node.inputs[0]], histograms[node.name]
            largest = float(inputs.abs().max())
            if not largest < np.inf:
                raise RangeError(f"the input of {node.name!r} is not a number on one of the images")
            histogram.stretch(largest)
            histogram.counts += (
                torch.histc(inputs, BINS, -histogram.bin_range, histogram.bin_range).numpy().astype(np.int64)
            )
    return ranges


def with_ranges(model: Model, images: LabelledImages) -> Model:
    """Returns the same model with ranges measured on the first 10,000 of `images`."""
    return replace(model, ranges=calibrate(model, images.first(IMAGES)).largest())
