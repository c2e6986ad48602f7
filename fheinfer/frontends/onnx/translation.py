"""The graph in the making: values of an ONNX file as nodes of ours, and how axes of one are axes of the other.

An ONNX tensor has a batch axis somewhere, or none any more; a node of ours has none. A `Value` keeps the shape that
the ONNX tensor has for a batch of one, and which of its axes is the batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx

from fheinfer.data.files import printable
from fheinfer.errors import GraphError, WeightsError
from fheinfer.model.graph import MAX_VALUES, Node
from fheinfer.model.ops import Expand, Input, Invalid, Op, Permute, Reshape, Shape

Array = npt.NDArray[Any]

MAX_TENSOR_VALUES = 1 << 28
"""Numbers that all tensors of a network may have together with no more than a GiB."""


@dataclass(frozen=True)
class Value:
    """An encrypted value: the node of ours that has it, its ONNX shape for a batch of one, and its batch axis."""

    node: str
    shape: Shape
    batch: int | None

    @property
    def inner(self) -> Shape:
        """The shape that the node has: without the batch axis, and (1,) of a single number."""
        return tuple(size for axis, size in enumerate(self.shape) if axis != self.batch) or (1,)

    def axis(self, axis: int) -> int:
        """An axis of the ONNX tensor, other than the batch, as one of the node."""
        return axis - (self.batch is not None and axis > self.batch)


Operand = Value | Array


@dataclass
class Translation:
    """Nodes and tensors of ours, in the order of the file.

    opset    version of ONNX's operations that the file uses
    batch    items that the file's own batch has; values here have one
    current  the ONNX node that is being translated
    """

    opset: int
    batch: int = 1
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    current: onnx.NodeProto = field(default_factory=onnx.NodeProto)
    shapes: dict[str, Shape] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _digests: dict[bytes, str] = field(default_factory=dict)
    _size: int = 0

    def fail(self, why: str) -> NoReturn:
        """Refuses the current node.

        Raises:
            GraphError: naming the operation and its node.
        """
        raise GraphError(f"{label(self.current)}: {why}")

    def input(self, name: str, shape: Shape, batch: int | None) -> Value:
        """The input of the network, of its ONNX shape for a batch of one."""
        value = Value(self._name(name), shape, batch)
        self._append(value.node, Input(value.inner), ())
        return value

    def emit(self, op: Op, *inputs: Value, shape: Shape | None = None, batch: int | None = None) -> Value:
        """A node of ours on these values.

        Args:
            shape, batch: ONNX shape of the result and its batch axis. Without them the batch stays where the first
                input has it.

        Raises:
            GraphError: the operation does not take these inputs.
        """
        name = self._name(self.current.name or f"{self.current.op_type}_{''.join(self.current.output[:1])}")
        self._append(name, op, tuple(value.node for value in inputs))
        inner, first = self.shapes[name], inputs[0]
        if shape is None:
            batch = first.batch
            same = inner == first.inner
            shape = first.shape if same else inner if batch is None else (*inner[:batch], 1, *inner[batch:])
        return Value(name, shape, batch)

    def _append(self, name: str, op: Op, inputs: tuple[str, ...]) -> None:
        shapes = [self.shapes[value] for value in inputs]
        try:
            op.check(shapes)
            inner = op.infer(shapes)
        except Invalid as error:
            self.fail(str(error))
        if math.prod(inner) > MAX_VALUES:
            self.fail(f"its output {inner} has more than {MAX_VALUES} values")
        self.nodes.append(Node(name, op, inputs, module=printable(self.current.name or "")))
        self.shapes[name] = inner

    def tensor(self, role: str, array: Array) -> str:
        """The name of a tensor of the model with these numbers; equal ones are kept once.

        Raises:
            WeightsError: numbers that are not real or not finite, or too many.
        """
        if array.dtype.kind not in "fiu" and array.dtype.name not in ("bfloat16",):
            raise WeightsError(f"{label(self.current)}: {role} holds {array.dtype}, not real numbers")
        if self._size + array.size > MAX_TENSOR_VALUES:
            raise WeightsError(f"{label(self.current)}: {role} of {array.shape} is more than a model may hold")
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(numbers).all():
            raise WeightsError(f"{label(self.current)}: {role} holds NaN or infinite values; export the model again")
        hashed = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
        hashed.update(numbers.data)
        digest = hashed.digest()
        if digest not in self._digests:
            base = clean(self.current.name or "".join(self.current.output[:1]) or self.current.op_type)
            name = unique(f"{base}.{role}", self.tensors)
            self.tensors[name] = numbers
            self._digests[digest] = name
            self._size += array.size
        return self._digests[digest]

    def _name(self, wanted: str) -> str:
        name = unique(clean(wanted), self._names)
        self._names.add(name)
        return name

    def reshape(self, x: Value, shape: Sequence[int], batch: int | None) -> Value:
        """The same numbers in another ONNX shape, with the batch axis there."""
        target = Value(x.node, tuple(int(size) for size in shape), batch)
        if target.inner == self.shapes[x.node]:
            return target
        return self.emit(Reshape(target.inner), x, shape=target.shape, batch=batch)

    def with_batch(self, x: Value, batch: int | None) -> Value:
        """The value with another axis, of size 1, taken for the batch, or none."""
        return x if x.batch == batch else self.reshape(x, x.shape, batch)

    def leading(self, x: Value, what: str = "takes a batch of one item") -> Value:
        """The value with its first axis taken for the batch.

        Raises:
            GraphError: that axis has several entries.
        """
        if x.batch == 0:
            return x
        if not x.shape or x.shape[0] != 1:
            self.fail(f"{what}, not a value of the shape {x.shape}; one input is evaluated at a time")
        return self.with_batch(x, 0)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """Axes of the ONNX tensor in another order."""
        shape = tuple(x.shape[axis] for axis in order)
        batch = None if x.batch is None else list(order).index(x.batch)
        inner = [x.axis(axis) for axis in order if axis != x.batch]
        if not inner or inner == sorted(inner):
            return Value(x.node, shape, batch)
        moved = [axis for axis in inner if x.inner[axis] != 1]
        if moved == sorted(moved):  # only axes of size 1 move
            return self.reshape(x, shape, batch)
        return self.emit(Permute(tuple(inner)), x, shape=shape, batch=batch)

    def expand(self, x: Value, shape: Shape) -> Value:
        """The value broadcast to an ONNX shape of at least as many axes.

        Raises:
            GraphError: it does not broadcast.
        """
        try:
            shape = np.broadcast_shapes(x.shape, shape)
        except ValueError:
            self.fail(f"a value of the shape {x.shape} does not broadcast to {tuple(shape)}")
        extra = len(shape) - len(x.shape)
        batch = None if x.batch is None else x.batch + extra
        if batch is not None and shape[batch] != 1:
            batch = None
        x = self.reshape(x, (1,) * extra + x.shape, batch)
        if x.shape == shape:
            return x
        return self.emit(Expand(Value("", shape, batch).inner), x, shape=shape, batch=batch)

    def common(self, *values: Value) -> list[Value]:
        """Values broadcast to one shape, with one batch axis."""
        try:
            shape = np.broadcast_shapes(*(value.shape for value in values))
        except ValueError:
            self.fail(f"values of the shapes {', '.join(str(value.shape) for value in values)} do not broadcast")
        wide = [self.expand(value, shape) for value in values]
        batches = {value.batch for value in wide}
        if len(batches) > 1:
            batch = next((value.batch for value in wide if value.batch is not None), None)
            wide = [self.with_batch(value, batch) for value in wide]
        return wide

    def constant(self, x: Value, array: Array) -> tuple[Value, Array]:
        """A value broadcast with a constant, and the constant as our operations take it: without the batch axis."""
        try:
            shape = np.broadcast_shapes(x.shape, array.shape)
        except ValueError:
            self.fail(f"a value of the shape {x.shape} and a constant of {array.shape} do not broadcast")
        x = self.expand(x, shape)
        array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        if x.batch is not None:
            array = array.squeeze(x.batch)
        if array.size and (array == array.flat[0]).all():
            array = array.flat[0].reshape((1,) * len(x.inner))
        return x, array.reshape((1,) * (len(x.inner) - array.ndim) + array.shape)


def label(node: onnx.NodeProto) -> str:
    """An ONNX node in a message: its operation and its name, or that of its first output."""
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    name = node.name or "".join(node.output[:1])
    return printable(f"{domain}{node.op_type} {name!r}" if name else f"{domain}{node.op_type or 'the input'}")


def clean(name: str) -> str:
    """A name for a node or tensor of ours, which holds no slash and begins with no underscores."""
    return printable(name).replace("/", ".").lstrip("._") or "node"


def unique(name: str, taken: set[str] | dict[str, Any]) -> str:
    """The name, with a number behind it where it is taken."""
    count, result = 1, name
    while result in taken:
        count += 1
        result = f"{name}_{count}"
    return result
