"""One ONNX node with its operands, as the functions that translate it see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx

from fheinfer.frontends.onnx.translation import Operand, Translation
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.ops import Op


@dataclass(frozen=True)
class Call:
    """An ONNX node: attributes as Python values, operands by position, None where an optional one is absent."""

    t: Translation
    node: onnx.NodeProto
    attributes: dict[str, Any]
    operands: tuple[Operand | None, ...]

    def fail(self, why: str) -> NoReturn:
        """Refuses the node with a GraphError that names it."""
        self.t.fail(why)

    def operand(self, index: int) -> Operand | None:
        """An operand, or None where it is absent."""
        return self.operands[index] if index < len(self.operands) else None

    def value(self, index: int = 0) -> Value:
        """An encrypted operand; a GraphError where it is a constant or absent."""
        operand = self.operand(index)
        if not isinstance(operand, Value):
            self.fail(f"operand {index} is a constant; only operations on the network's input are supported")
        return operand

    def constant(self, index: int, what: str) -> Array:
        """A constant operand; a GraphError where it depends on the input or is absent."""
        array = self.optional(index, what)
        if array is None:
            self.fail(f"has no {what}; export the model again")
        return array

    def optional(self, index: int, what: str) -> Array | None:
        """A constant operand, or None where it is absent."""
        operand = self.operand(index)
        if isinstance(operand, Value):
            self.fail(f"{what} depends on the network's input; only constant ones are supported")
        return operand

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, index: int, what: str) -> list[int] | None:
        """Whole numbers that older opsets have as an attribute and newer ones as a constant operand."""
        if name in self.attributes:
            return [int(number) for number in np.ravel(self.attributes[name])]
        array = self.optional(index, what)
        return None if array is None else [int(number) for number in array.ravel()]

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front; a GraphError where a value of that rank does not have it."""
        if not -rank <= axis < rank:
            self.fail(f"axis {axis} is none of a value of {rank} axes")
        return axis % rank

    def emit(self, op: Op, *inputs: Value, **shape: Any) -> Value:
        """See `Translation.emit`."""
        return self.t.emit(op, *inputs, **shape)

    def tensor(self, role: str, array: Array) -> str:
        """The name of a tensor of the node; see `Translation.tensor`."""
        return self.t.tensor(self.t.place(role), array)

    def times(self, x: Value, factor: Array | float) -> Value:
        """See `Translation.times`."""
        return self.t.times(x, factor)

    def plus(self, x: Value, summand: Array | float) -> Value:
        """See `Translation.plus`."""
        return self.t.plus(x, summand)


Handler = Callable[[Call], Operand | Sequence[Operand | None]]
"""What translates one kind of node: its outputs, None for one that is not supported and refused if it is read."""
