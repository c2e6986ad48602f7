"""Activations replaced by polynomials that can be trained, and begin as close to them as their inputs allow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fheinfer.approx.functions import function_of, leaky_relu
from fheinfer.approx.tuning import FLOOR, initial, tuned
from fheinfer.evaluation.ranges import Histogram, Ranges
from fheinfer.frontends.replacing import QUADRATIC, replace_activations
from fheinfer.model.graph import Node
from fheinfer.model.model import F32, Model
from fheinfer.model.ops import HERMITE, HerPN, Paf, Prelu

F64 = NDArray[np.float64]
Function = Callable[[F64], F64]


def replaced(model: Model, to: str, ranges: Ranges, tune: bool = True, floor: float = FLOOR) -> Model:
    """Makes every activation that looks like a ReLU a polynomial; nothing is trained.

    A PAF has a static scale, its range with the margin. A quadratic is normalised by what it sees.

    Args:
        to: as of `replace_activations`: "paf:f1", or "f1" for short, or "quadratic".
        ranges: of this model.
        tune: fit the coefficients of each PAF to its histogram; else they are the published ones everywhere.

    Raises:
        UsageError: the network has no such activations, or no PAF has that name.
        MismatchError: the ranges are of another model.
    """
    ranges.require(model)
    graph = replace_activations(model.graph, to)
    name, _, order = to.removeprefix("paf:").partition(":")
    tensors: dict[str, F32] = {n: model.tensors[n] for n in graph.tensor_shapes() if n in model.tensors}
    for node in graph:
        before = model.graph[node.name]
        if node.op == before.op:
            continue
        seen, function = ranges.activations[node.name], _function(model, before)
        if isinstance(node.op, Paf):
            scale = ranges.bounds()[node.name] or 1.0  # a layer that is all zero fits any scale
            coefficients = initial(name, order)
            if tune and seen.counts.any():
                coefficients = _fitted(coefficients, seen, scale, floor, function)
            tensors[node.op.coefficients] = np.concatenate(coefficients).astype(np.float32)
            tensors[node.op.scale] = np.array([scale], np.float32)
        elif isinstance(node.op, HerPN):
            tensors |= _quadratic(node.op, graph.shapes[node.name][0], seen, function)
    provenance = {**model.provenance, "quadratic" if to == QUADRATIC else "paf": to, "made from": model.identity}
    return Model(graph, tensors, model.mean, model.std, model.classes, ranges.largest(), provenance, model.final)


def _function(model: Model, node: Node) -> Function:
    """What an activation computes; of one with a slope for each channel, at their mean."""
    if isinstance(node.op, Prelu):
        return leaky_relu(float(model.tensors[node.op.weight].mean())).value
    found = function_of(node.op)
    return found.value if found else (lambda x: np.maximum(x, 0))


def _fitted(coefficients: list[F64], seen: Histogram, scale: float, floor: float, function: Function) -> list[F64]:
    def in_scales(x: F64) -> F64:
        return function(scale * x) / scale

    return tuned(coefficients, seen.centres() / scale, seen.counts.astype(np.float64), floor, in_scales)


def _quadratic(op: HerPN, channels: int, seen: Histogram, function: Function) -> dict[str, F32]:
    """Statistics of both Hermite terms over the histogram, the same for all channels, and the best weight and bias."""
    x, share = seen.centres(), seen.counts / max(1, seen.counts.sum())
    if not seen.counts.any():
        x, share = np.zeros(1), np.ones(1)
    terms = np.stack([x, (x * x - 1) / np.sqrt(2)])
    mean = terms @ share
    var = (terms - mean[:, None]) ** 2 @ share
    shape = np.asarray(HERMITE[1:]) @ ((terms - mean[:, None]) / np.sqrt(var + op.eps)[:, None])
    wanted = function(x)
    bias = wanted @ share
    weight = (shape * wanted) @ share / max(shape**2 @ share, 1e-12)  # the shape has mean zero
    made = {op.weight: np.full(channels, weight), op.bias: np.full(channels, bias)}
    made |= {op.mean: np.repeat(mean[:, None], channels, 1), op.var: np.repeat(var[:, None], channels, 1)}
    return {name: array.astype(np.float32) for name, array in made.items()}
