"""An imported graph against ONNX's own reference: the same outputs for a random input, or a typed error."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fheinfer.data.files import one_line
from fheinfer.errors import GraphError
from fheinfer.frontends.comparing import evaluate, finish
from fheinfer.frontends.onnx.importer import Translated
from fheinfer.frontends.translation import Array
from fheinfer.model.graph import Graph
from fheinfer.model.ops import Conv2d, ConvTranspose2d, Linear
from fheinfer.optional import have

MAX_WORK = 1 << 28
"""Products of larger networks are not compared: ONNX's reference takes minutes for them."""
TOLERANCE = 1e-3
"""Of the largest output."""


class BatchNormalization(OpRun):
    """By the running statistics, as a node of one output is in every opset.

    Before opset 14, where nothing says so in the node, the reference takes the statistics of the batch.
    """

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float = 1e-5, **_: Any
    ) -> tuple[Array]:
        by_channel = (-1, *[1] * (x.ndim - 2))
        factor = (scale / np.sqrt(var + epsilon)).reshape(by_channel)
        return (((x - mean.reshape(by_channel)) * factor + bias.reshape(by_channel)).astype(x.dtype),)


def check(model: onnx.ModelProto, translated: Translated) -> str:
    """Compares the outputs for one random input, or for as many as the file's own batch has.

    Returns:
        what was done, in words.

    Raises:
        GraphError: they differ by more than float32 explains.
    """
    if not have("torch"):
        return "not compared with ONNX's reference: PyTorch is not installed"
    if work(translated.graph) * translated.batch > MAX_WORK:
        return "not compared with ONNX's reference: too large"
    shape = (translated.batch, *translated.shape[1:]) if translated.batched else translated.shape
    x = np.random.default_rng(0).normal(0, 1, shape)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            kind = onnx.helper.tensor_dtype_to_np_dtype(_input_type(model, translated.input))
            expected: Any = ReferenceEvaluator(model, new_ops=[BatchNormalization]).run(
                None, {translated.input: x.astype(kind)}
            )
    except Exception as error:  # the reference raises whatever numpy does
        return f"not compared with ONNX's reference, which cannot evaluate it: {one_line(error)}"
    got = evaluate(translated.graph, translated.tensors, x if translated.batched else x[None])
    for output, name, want in zip(got, translated.graph.outputs, expected, strict=True):
        _compare(finish(output, translated.final), np.asarray(want, np.float64), name, translated.batch)
    return "compared with ONNX's reference"


def _input_type(model: onnx.ModelProto, name: str) -> int:
    return next(int(entry.type.tensor_type.elem_type) for entry in model.graph.input if entry.name == name)


def _compare(got: Array, want: Array, name: str, batch: int) -> None:
    if got.size != want.size:
        why = "; its file mixes the items of a batch" if batch > 1 else ""
        raise GraphError(
            f"output {name!r} has {got.size} numbers instead of {want.size}{why}; export with a batch of 1"
        )
    error = float(np.abs(got.ravel() - want.ravel()).max(initial=0))
    if not error <= TOLERANCE * max(1.0, float(np.abs(want).max(initial=0))):
        why = "its file mixes the items of a batch" if batch > 1 else "please report this network"
        raise GraphError(f"output {name!r} differs by {error:.2g} from what ONNX's reference computes; {why}")


def work(graph: Graph) -> int:
    """Products of numbers that a graph takes for one input."""
    total = 0
    for node in graph:
        shape = graph.shapes[node.name]
        inputs = graph.inputs_of(node)
        each = 1
        if isinstance(node.op, Conv2d):
            each = math.prod(node.op.kernel) * inputs[0][0] // node.op.groups
        elif isinstance(node.op, ConvTranspose2d):
            shape, each = inputs[0], math.prod(node.op.kernel) * node.op.out_channels // node.op.groups
        elif isinstance(node.op, Linear):
            each = math.prod(inputs[0])
        total += math.prod(shape) * each
    return total
