"""What all operations have in common: fields, checks, shapes and their meaning in PyTorch.

A field named in `TENSORS` holds the name of a tensor of the model, or None. Shapes are without the batch dimension:
(C, H, W) of an image, (C, L) of a sequence, (F,) of a vector. `reference` takes and returns batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

MAX_RANK = 5
"""Axes that a value may have, the batch not counted."""


class Invalid(ValueError):
    """What is wrong with an operation; the verifier adds the name of its node."""


Pair = Any
"""A field of two whole numbers, (height, width); a single number given is both."""
Sides = Any
"""A field of four whole numbers, (top, bottom, left, right); (height, width) or a single number may be given."""


@dataclass(frozen=True)
class Op:
    """One operation. Subclasses say what it takes and what it means."""

    kind: ClassVar[str] = ""
    ARITY: ClassVar[int] = 1
    TENSORS: ClassVar[tuple[str, ...]] = ()
    activation: ClassVar[bool] = False
    """Whether it is a non-linear function between layers, which the compiler approximates by polynomials."""
    polynomial: ClassVar[bool] = False
    """Whether such an activation is a polynomial already: trained so, and valid only as far as its inputs went."""
    ranged: ClassVar[bool] = False
    """Whether the compiler has to know how large its inputs get."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type in _SIZES:
                value = _normalised(getattr(self, field.name), _SIZES[field.type])
                object.__setattr__(self, field.name, value)

    @property
    def arity(self) -> int:
        """How many values it reads."""
        return self.ARITY

    @property
    def tensors(self) -> dict[str, str]:
        """Role -> name of each tensor that the operation has."""
        return {role: name for role in self.TENSORS if (name := getattr(self, role)) is not None}

    def check(self, inputs: Sequence[Shape]) -> None:
        """Raises Invalid for fields or input shapes that cannot be."""

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        """The shape of the output. Only called after `check`."""
        return inputs[0]

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        """Role -> shape that each tensor has to have."""
        return {}

    def check_names(self) -> None:
        """Raises Invalid for tensors without a name, but for those that need not be there."""
        optional = {field.name for field in fields(self) if field.default is None}
        for role in self.TENSORS:
            name = getattr(self, role)
            if not (isinstance(name, str) and name) and not (name is None and role in optional):
                raise Invalid(f"{role} is {name!r}, not the name of a tensor")

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        """What PyTorch computes, in evaluation mode: inputs (B, *shape), tensors by role."""
        raise NotImplementedError(self.kind)


@dataclass(frozen=True)
class Input(Op):
    """The input of the network: an image (C, H, W), a sequence (C, L) or a vector (F,)."""

    kind = "input"
    ARITY = 0
    shape: Shape

    def check(self, inputs: Sequence[Shape]) -> None:
        check_shape(self.shape)

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0]


_SIZES: Mapping[object, int] = {"Pair": 2, "Sides": 4}
"""Fields that are normalised to so many numbers, by their annotation."""


def _normalised(value: object, count: int) -> object:
    """`count` numbers of what is given; what is neither a number nor a fitting tuple stays, and a check refuses it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,) * count
    if not isinstance(value, list | tuple):
        return value
    numbers = tuple(value)
    return (numbers[0], numbers[0], numbers[1], numbers[1]) if count == 4 and len(numbers) == 2 else numbers


def check_shape(shape: object) -> None:
    """Raises Invalid for what is no shape of a value."""
    if not isinstance(shape, tuple) or not 1 <= len(shape) <= MAX_RANK:
        raise Invalid(f"shape {shape!r} is none of a value, such as (C, H, W) or (F,)")
    for size in shape:
        whole("a size", size, 1)


def image(shape: Shape) -> None:
    """Raises Invalid for a value that is no image."""
    if len(shape) != 3:
        raise Invalid(f"takes an image (C, H, W), not a value of the shape {shape}")


def whole(what: str, value: object, least: int) -> int:
    """Raises Invalid for all but whole numbers of `least` or more."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 31:
        raise Invalid(f"{what} is {value!r}, not a whole number of {least} or more")
    return value


def wholes(what: str, value: object, count: int, least: int) -> None:
    """Raises Invalid for all but `count` such numbers."""
    if isinstance(value, tuple) and len(value) != count:
        raise Invalid(f"{what} is {value!r}, not {count} whole numbers")
    for number in value if isinstance(value, tuple) else (value,):
        whole(what, number, least)


def axis_of(axis: object, shape: Shape) -> int:
    """Raises Invalid for an axis that a value does not have; the batch is not counted."""
    if not isinstance(axis, int) or isinstance(axis, bool) or not 0 <= axis < len(shape):
        raise Invalid(f"axis {axis!r} is none of a value of the shape {shape}")
    return axis


def number(what: str, value: object) -> None:
    """Raises Invalid for all but finite numbers."""
    if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
        raise Invalid(f"{what} is {value!r}, not a number")


def positive(what: str, value: object) -> None:
    """Raises Invalid for all but positive finite numbers."""
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 < value < math.inf:
        raise Invalid(f"{what} is {value!r}, not a positive number")


def flag(what: str, value: object) -> None:
    """Raises Invalid for all but true and false."""
    if not isinstance(value, bool):
        raise Invalid(f"{what} is {value!r}, neither true nor false")


def in_words(numbers: Sequence[int]) -> str:
    """The numbers of a pair as people write them: one where they are equal."""
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One number per channel, to what multiplies a batch."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
