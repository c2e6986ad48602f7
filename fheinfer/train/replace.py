"""ReLUs replaced by PAFs: the same network with `paf` nodes, coefficients tuned to what each of them sees."""

from __future__ import annotations

import numpy as np

from fheinfer.approx.tuning import FLOOR, initial, tuned
from fheinfer.errors import UsageError
from fheinfer.evaluation.ranges import Histogram, Ranges
from fheinfer.frontends import zoo
from fheinfer.model.model import F32, Weights


def replaced(weights: Weights, paf: str, ranges: Ranges, tune: bool = True, floor: float = FLOOR) -> Weights:
    """The network with every ReLU a PAF at a static scale, its range with the margin; nothing is trained.

    Args:
        paf: a name of `fheinfer.approx.paf.PAFS`, "NAME:f-first" for the other order.
        ranges: of these weights.
        tune: fit the coefficients of each to its histogram; else they are the published ones everywhere.

    Raises:
        UsageError: the network has no ReLUs, or no PAF has that name.
        MismatchError: the ranges are of other weights.
    """
    ranges.require(weights)
    if not any(node.op == "relu" for node in weights.graph):
        raise UsageError(f"{weights.network} has no ReLU to replace; give weights of a ReLU network")
    graph = zoo.network(f"{weights.network}{zoo.PAF_MARK}{paf}")
    name, _, order = paf.partition(":")
    arrays: dict[str, F32] = dict(weights.arrays)
    for node in graph:
        if node.op == "paf":
            scale = ranges.bounds()[node.name] or 1.0  # a layer that is all zero fits any scale
            coefficients = initial(name, order)
            if tune:
                coefficients = _fitted(coefficients, ranges.activations[node.name], scale, floor)
            arrays[node.weights["coefficients"]] = np.concatenate(coefficients).astype(np.float32)
            arrays[node.weights["scale"]] = np.array([scale], np.float32)
    origin = {"paf": paf, "made from": weights.identity}
    return Weights(graph, arrays, weights.mean, weights.std, ranges.largest(), {**weights.provenance, **origin})


def _fitted(coefficients: list[np.ndarray], seen: Histogram, scale: float, floor: float) -> list[np.ndarray]:
    if not seen.counts.any():
        return coefficients
    return tuned(coefficients, seen.centres() / scale, seen.counts.astype(np.float64), floor)
