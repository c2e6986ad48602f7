"""The graph in the making: values of a network of another program as nodes of ours, and how their axes correspond.

A tensor of theirs has a batch axis somewhere, or none any more; a node of ours has none. A `Value` keeps the shape that
their tensor has for a batch of one, and which of its axes is the batch.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fheinfer.errors import GraphError, WeightsError
from fheinfer.model.graph import MAX_VALUES, Graph, Node
from fheinfer.model.ops import AddConstant, Expand, Input, Invalid, MultiplyConstant, Op, Permute, Reshape, Shape

Array = npt.NDArray[Any]

MAX_TENSOR_VALUES = 1 << 28
"""Numbers that all tensors of a network may have together with no more than a GiB."""
_VIEWS = ("reshape", "permute", "slice", "expand", "pad")


@dataclass(frozen=True)
class Value:
    """An encrypted value: the node of ours that has it, its shape for a batch of one, and its batch axis."""

    node: str
    shape: Shape
    batch: int | None

    @property
    def inner(self) -> Shape:
        """The shape that the node has: without the batch axis, and (1,) of a single number."""
        return tuple(size for axis, size in enumerate(self.shape) if axis != self.batch) or (1,)

    def axis(self, axis: int) -> int:
        """An axis of their tensor, other than the batch, as one of the node."""
        return axis - (self.batch is not None and axis > self.batch)


@dataclass(frozen=True)
class Origin:
    """Where what is translated comes from.

    label   the operation and its place, for messages
    module  path of the module, for names
    leaf    whether the module is a single layer, whose name its node takes
    """

    label: str = ""
    module: str = ""
    leaf: bool = False


@dataclass
class Translation:
    """Nodes and tensors of ours, in the order of theirs; `current` is what is being translated."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    current: Origin = field(default_factory=Origin)
    shapes: dict[str, Shape] = field(default_factory=dict)
    _reshaped: dict[str, str] = field(default_factory=dict)
    _size: int = 0

    def fail(self, why: str) -> NoReturn:
        """Refuses what is being translated.

        Raises:
            GraphError: naming the operation and its place.
        """
        raise GraphError(f"{self.current.label}: {why}")

    def input(self, name: str, shape: Shape, batch: int | None) -> Value:
        """The input of the network, of their shape for a batch of one."""
        value = Value(name, shape, batch)
        self._append(name, Input(value.inner), ())
        return value

    def emit(self, op: Op, *inputs: Value, shape: Shape | None = None, batch: int | None = None) -> Value:
        """A node of ours on these values.

        Args:
            shape, batch: their shape of the result and its batch axis. Without them the batch stays where the first
                input has it.

        Raises:
            GraphError: the operation does not take these inputs.
        """
        name = self._name(op)
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
        self.nodes.append(Node(name, op, inputs, module=self.current.module))
        self.shapes[name] = inner

    def _name(self, op: Op) -> str:
        module = self.current.module
        named = module if self.current.leaf and op.kind not in _VIEWS else ""
        return unique(named or (f"{module}.{op.kind}" if module else op.kind), self.shapes)

    def tensor(self, name: str, array: Array) -> str:
        """The name of a tensor of the model with these numbers: the one given, or with a number where others have it.

        Raises:
            WeightsError: numbers that are not real or not finite, or too many.
        """
        if array.dtype.kind not in "fiub":
            raise WeightsError(f"{self.current.label}: {name} holds {array.dtype}, not real numbers")
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(numbers).all():
            raise WeightsError(f"{self.current.label}: {name} holds NaN or infinite values; train or export it again")
        known = self.tensors.get(name)
        if known is not None and known.shape == numbers.shape and np.array_equal(known, numbers):
            return name
        if self._size + array.size > MAX_TENSOR_VALUES:
            raise WeightsError(f"{self.current.label}: {name} of {array.shape} is more than a model may hold")
        name = unique(name, self.tensors)
        self.tensors[name] = numbers
        self._size += array.size
        return name

    def place(self, role: str) -> str:
        """A name for a tensor that has none of its own."""
        return f"{self.current.module}.{role}" if self.current.module else role

    def reshape(self, x: Value, shape: Sequence[int], batch: int | None) -> Value:
        """The same numbers in another shape of theirs, with the batch axis there."""
        source = self.unshaped(x)
        target = Value(x.node, tuple(int(size) for size in shape), batch)
        if target.inner == self.shapes[x.node]:
            return target
        if target.inner == self.shapes[source.node]:
            return replace(target, node=source.node)
        y = self.emit(Reshape(target.inner), source, shape=target.shape, batch=batch)
        self._reshaped[y.node] = source.node
        return y

    def unshaped(self, x: Value) -> Value:
        """The value that this one has the numbers of, in the same order, before it was reshaped."""
        source = self._reshaped.get(x.node, x.node)
        return Value(source, (1, *self.shapes[source]), 0)

    def with_batch(self, x: Value, batch: int | None) -> Value:
        """The value with another axis, of size 1, taken for the batch, or none."""
        return x if x.batch == batch else self.reshape(x, x.shape, batch)

    def leading(self, x: Value) -> Value:
        """The value with its first axis taken for the batch.

        Raises:
            GraphError: that axis has several entries.
        """
        if x.batch == 0:
            return x
        if not x.shape or x.shape[0] != 1:
            self.fail(
                f"takes a batch of one item, not a value of the shape {x.shape}; one input is evaluated at a time"
            )
        return self.with_batch(x, 0)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """Axes of their tensor in another order."""
        shape = tuple(x.shape[axis] for axis in order)
        batch = None if x.batch is None else list(order).index(x.batch)
        inner = [x.axis(axis) for axis in order if axis != x.batch]
        if inner == sorted(inner):
            return Value(x.node, shape, batch)
        moved = [axis for axis in inner if x.inner[axis] != 1]
        if moved == sorted(moved):  # only axes of size 1 move
            return self.reshape(x, shape, batch)
        return self.emit(Permute(tuple(inner)), x, shape=shape, batch=batch)

    def expand(self, x: Value, shape: Shape) -> Value:
        """The value broadcast to a shape of at least as many axes.

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

    def times(self, x: Value, factor: Array | float, name: str = "") -> Value:
        """The value times a constant, which it is broadcast with."""
        x, array = self.constant(x, np.asarray(factor))
        if (array == 1).all():
            return x
        return self.emit(MultiplyConstant(self.tensor(name or self.place("factor"), array), array.shape), x)

    def plus(self, x: Value, summand: Array | float, name: str = "") -> Value:
        """The value plus a constant, which it is broadcast with."""
        x, array = self.constant(x, np.asarray(summand))
        if not array.any():
            return x
        return self.emit(AddConstant(self.tensor(name or self.place("summand"), array), array.shape), x)


@dataclass(frozen=True)
class Translated:
    """A graph with its tensors.

    final  what the client does to the outputs
    """

    graph: Graph
    tensors: dict[str, Array]
    final: str


def unique(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it where it is taken."""
    count, result = 1, name
    while result in taken:
        count += 1
        result = f"{name}_{count}"
    return result
