"""One operation of an exported graph with its arguments, as the functions that translate it see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from fheinfer.frontends.translation import Array, Translation, Value
from fheinfer.model.ops import Op, Shape


@dataclass(frozen=True)
class Call:
    """An operation of PyTorch.

    arguments  by the names of its schema: values, constant tensors, numbers, lists of these
    target     what computes it, for constants
    shapes     of its results
    names      the network's own name of each parameter, by the identity of the tensor
    """

    t: Translation
    arguments: Mapping[str, Any]
    target: Callable[..., Any]
    shapes: tuple[Shape, ...]
    names: Mapping[int, str]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or the default where the operation has none of that name."""
        return self.arguments.get(name, default)

    @property
    def shape(self) -> Shape:
        """That of its only result."""
        return self.shapes[0]

    def fail(self, why: str) -> NoReturn:
        """Refuses the operation with a GraphError that names it."""
        self.t.fail(why)

    def value(self, name: str = "self") -> Value:
        """An encrypted argument; a GraphError where it is a constant."""
        value = self.arguments[name]
        if not isinstance(value, Value):
            self.fail(f"its {name!r} is a constant; only operations on the network's input are supported")
        return value

    def constant(self, name: str) -> Tensor | None:
        """A constant argument, or None where it is absent; a GraphError where it depends on the input."""
        value = self.arguments.get(name)
        if isinstance(value, Value):
            self.fail(f"its {name!r} depends on the network's input; only constant ones are supported")
        return None if value is None else value

    def needed(self, name: str) -> Tensor:
        """A constant argument that has to be there."""
        value = self.constant(name)
        if value is None:
            self.fail(f"has no {name!r}")
        return value

    def tensor(self, role: str, given: Tensor, array: Array | None = None) -> str:
        """The name of a tensor of the model: the network's own, or one of the role; `array` is another form of it."""
        name = self.names.get(id(given)) or self.t.place(role)
        return self.t.tensor(name, numbers(given) if array is None else array)

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -max(rank, 1) <= axis < max(rank, 1):
            self.fail(f"axis {axis} is none of a value of {rank} axes")
        return axis % rank if rank else 0

    def axes(self, given: int | Sequence[int] | None, rank: int) -> list[int]:
        """Axes counted from the front, all where none are given."""
        if given is None or (not isinstance(given, int) and not len(given)):
            return list(range(rank))
        return sorted({self.axis(int(axis), rank) for axis in ([given] if isinstance(given, int) else given)})

    def emit(self, op: Op, *inputs: Value, **shape: Any) -> Value:
        """See `Translation.emit`."""
        return self.t.emit(op, *inputs, **shape)


Handler = Callable[[Call], Any]
"""What translates one kind of operation: a value, a constant, or a list of these."""


def numbers(given: Tensor | float) -> Array:
    """A constant as float64."""
    if isinstance(given, Tensor):
        return np.asarray(given.detach().cpu().double().numpy())
    return np.asarray(given, np.float64)


def pair(given: int | Sequence[int], count: int) -> tuple[int, ...]:
    """`count` numbers of what PyTorch takes as one number, a list of one, or a list."""
    sizes = (given,) if isinstance(given, int) else tuple(int(size) for size in given)
    return sizes * count if len(sizes) == 1 else sizes


def as_image(c: Call, x: Value, axes: int) -> Value:
    """A value with one or two axes in space as an image (1, C, H, W); a batch axis that is missing is added."""
    if len(x.shape) == axes + 1:
        x = c.t.reshape(x, (1, *x.shape), 0)
    if len(x.shape) != axes + 2:
        c.fail(f"takes a value of the shape {x.shape}, which has not {axes} axes in space")
    x = c.t.leading(x)
    return x if axes == 2 else c.t.reshape(x, (*x.shape[:2], 1, x.shape[2]), 0)


def from_image(c: Call, y: Value) -> Value:
    """An image as the result of the operation."""
    return c.t.reshape(y, c.shape, 0 if c.shape and c.shape[0] == 1 else None)
