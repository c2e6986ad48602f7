"""ReLUs replaced by PAFs: the same network with `paf` nodes, coefficients tuned to what each of them sees."""

from __future__ import annotations

import numpy as np

from fheinfer.approx.tuning import FLOOR, initial, tuned
from fheinfer.errors import UsageError
from fheinfer.evaluation.ranges import Histogram, Ranges
from fheinfer.frontends import zoo
from fheinfer.model.model import F32, Model
from fheinfer.model.ops import Paf, Relu


def replaced(model: Model, paf: str, ranges: Ranges, tune: bool = True, floor: float = FLOOR) -> Model:
    """Makes every ReLU a PAF at a static scale, its range with the margin; nothing is trained.

    Args:
        paf: a name of `fheinfer.approx.paf.PAFS`, "NAME:f-first" for the other order.
        ranges: of this model.
        tune: fit the coefficients of each to its histogram; else they are the published ones everywhere.

    Raises:
        UsageError: the network has no ReLUs, or no PAF has that name.
        MismatchError: the ranges are of another model.
    """
    ranges.require(model)
    if not any(isinstance(node.op, Relu) for node in model.graph):
        raise UsageError(f"{model.name} has no ReLU to replace; give the model of a ReLU network")
    graph = zoo.with_paf(model.graph, paf)
    name, _, order = paf.partition(":")
    tensors: dict[str, F32] = dict(model.tensors)
    for node in graph:
        if isinstance(node.op, Paf) and node.op.scale not in tensors:
            scale = ranges.bounds()[node.name] or 1.0  # a layer that is all zero fits any scale
            coefficients = initial(name, order)
            if tune:
                coefficients = _fitted(coefficients, ranges.activations[node.name], scale, floor)
            tensors[node.op.coefficients] = np.concatenate(coefficients).astype(np.float32)
            tensors[node.op.scale] = np.array([scale], np.float32)
    provenance = {**model.provenance, "paf": paf, "made from": model.identity}
    return Model(graph, tensors, model.mean, model.std, model.classes, ranges.largest(), provenance)


def _fitted(coefficients: list[np.ndarray], seen: Histogram, scale: float, floor: float) -> list[np.ndarray]:
    if not seen.counts.any():
        return coefficients
    return tuned(coefficients, seen.centres() / scale, seen.counts.astype(np.float64), floor)
