"""What a file computes from constants alone is computed once, by ONNX's own reference, within bounds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from fheinfer.data.files import one_line
from fheinfer.errors import GraphError
from fheinfer.frontends.onnx.translation import label
from fheinfer.frontends.translation import MAX_TENSOR_VALUES, Array

_ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Not", "Where"),
    *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Neg", "Abs", "Sqrt", "Exp", "Log", "Erf", "Sign"),
    *("Reciprocal", "Floor", "Ceil", "Round", "Sigmoid", "Tanh", "Relu", "Clip", "IsNaN", "IsInf", "BitShift"),
)
"""Operations whose result has the shape that their inputs broadcast to."""
_SMALLER = (
    *("Cast", "CastLike", "Identity", "Dropout", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice"),
    *("Concat", "Split", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceL1"),
    *("ReduceSumSquare", "ArgMax", "ArgMin", "Shape", "Size", "CumSum", "Trilu", "DepthToSpace"),
    *("SpaceToDepth", "DequantizeLinear", "QuantizeLinear", "ScatterElements", "ScatterND"),
)
"""Operations whose result has no more numbers than their inputs."""


def constant_of(node: onnx.NodeProto) -> Array | None:
    """What a Constant node holds, or None of another operation.

    Raises:
        GraphError: text or a sparse tensor.
    """
    if node.op_type != "Constant":
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            return to_array(attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(onnx.helper.get_attribute_value(attribute), np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(onnx.helper.get_attribute_value(attribute), np.int64)
    raise GraphError(f"{label(node)}: a constant of text or a sparse tensor is not supported; use a dense one")


def to_array(tensor: onnx.TensorProto) -> Array:
    """The numbers of a tensor.

    Raises:
        GraphError: its data do not have its shape, or are of a type that is unknown.
    """
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError) as error:
        raise GraphError(f"tensor {tensor.name!r} cannot be read ({one_line(error)}); export the model again") from None


def fold(node: onnx.NodeProto, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """The outputs of an operation on constants.

    Args:
        inputs: None where an optional input is absent.

    Raises:
        GraphError: an operation that is not computed ahead, that fails, or has too large a result.
    """
    if node.op_type == "ConstantOfShape":
        return [_filled(node, inputs[0])]
    size = _result_size(node, inputs)
    if size is None:
        raise GraphError(f"{label(node)}: is not computed ahead of constants; simplify the model before it is imported")
    if size > MAX_TENSOR_VALUES:
        raise GraphError(f"{label(node)}: makes a constant of {size:,} numbers, more than a model may hold")
    names = [name if value is not None else "" for name, value in zip(node.input, inputs, strict=True)]
    feeds = {name: value for name, value in zip(names, inputs, strict=True) if name}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            results: Any = ReferenceEvaluator(_alone(node, names, opset)).run(None, feeds)
        except Exception as error:  # the reference raises whatever numpy does
            raise GraphError(f"{label(node)}: cannot be computed of its constants ({one_line(error)})") from None
    return [np.asarray(result) for result in results]


def _alone(node: onnx.NodeProto, names: Sequence[str], opset: int) -> onnx.ModelProto:
    """A model of one node; types are what the arrays have."""
    inputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "constant", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _filled(node: onnx.NodeProto, shape: Array | None) -> Array:
    value = next((to_array(a.t) for a in node.attribute if a.name == "value"), np.zeros(1, np.float32))
    sizes = [] if shape is None else [int(size) for size in np.ravel(shape)]
    if any(size < 0 for size in sizes) or math.prod(sizes) > MAX_TENSOR_VALUES or value.size != 1:
        raise GraphError(f"{label(node)}: a constant of the shape {tuple(sizes)[:8]} is more than a model may hold")
    return np.broadcast_to(value.reshape(()), sizes)


def _result_size(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> int | None:
    """A bound of the numbers of the result, or None of an operation that is unknown here."""
    given = [value for value in inputs if value is not None]
    total = sum(value.size for value in given)
    if node.op_type in _SMALLER:
        return total
    if node.op_type in _ELEMENTWISE:
        try:
            return math.prod(np.broadcast_shapes(*(value.shape for value in given)))
        except ValueError:
            return total
    rule = _SIZES.get(node.op_type)
    try:
        return None if rule is None else int(rule(given))
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, TypeError):
        raise GraphError(f"{label(node)}: cannot be computed of its constants; export the model again") from None


def _range(given: Sequence[Array]) -> float:
    start, stop, step = (float(np.ravel(value)[0]) for value in given)
    return max(0.0, math.ceil((stop - start) / step))


_SIZES: dict[str, Callable[[Sequence[Array]], float]] = {
    "Expand": lambda given: math.prod(np.broadcast_shapes(given[0].shape, tuple(int(s) for s in given[1]))),
    "Tile": lambda given: given[0].size * math.prod(int(count) for count in np.ravel(given[1])),
    "Range": _range,
    "Gather": lambda given: given[0].size * given[1].size,
    "GatherElements": lambda given: given[1].size,
    "GatherND": lambda given: given[0].size * given[1].size,
    "MatMul": lambda given: given[0].size * given[1].size,
    "Gemm": lambda given: given[0].size * given[1].size,
    "OneHot": lambda given: given[0].size * int(np.ravel(given[1])[0]),
    "Pad": lambda given: math.prod(n + 2 * int(np.abs(given[1]).max(initial=0)) for n in given[0].shape),
    "NonZero": lambda given: given[0].ndim * given[0].size,
    "EyeLike": lambda given: given[0].size,
}
