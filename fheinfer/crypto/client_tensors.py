"""What a client knows of the tensors that it encrypts and decrypts: shape, place in the slots, scale and bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from fheinfer.crypto.ciphertexts import MAX_CIPHERTEXTS
from fheinfer.errors import InputError, RangeError
from fheinfer.packing import Packing, pack, unpack

F64 = NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0, lt=1 << 50)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=200)]
Final = Annotated[str, Field(pattern=r"^(softmax|log_softmax|sigmoid|)$")]
"""What the client computes of an output after decryption."""

MAX_SLOTS = 1 << 16
MAX_VALUES = 1 << 24
"""Values of a tensor."""
MAX_AXES = 5
"""Axes of a tensor, as many as a network's values may have."""
SLACK = 1e-6
"""Rounding that an input at the very edge of its range may have."""

PackingField = Annotated[
    Packing,
    BeforeValidator(lambda value: value if isinstance(value, Packing) else Packing.from_json(value, MAX_SLOTS)),
    PlainSerializer(lambda packing: packing.to_json()),
]


class Frozen(BaseModel):
    """A part of `client.json`: every field, none unknown, never changed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True)


class _Tensor(Frozen):
    shape: tuple[int, ...]
    packing: PackingField
    scale: Positive

    @field_validator("shape", "classes", mode="before", check_fields=False)
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _fits(self) -> _Tensor:
        if not 1 <= len(self.shape) <= MAX_AXES or min(self.shape) < 1 or math.prod(self.shape) > MAX_VALUES:
            raise ValueError(f"impossible shape {self.shape}")
        if math.prod(self.packing.shape) != math.prod(self.shape) or self.packing.ciphertexts > MAX_CIPHERTEXTS:
            raise ValueError(f"a packing of {self.packing.shape} for a tensor of shape {self.shape}")
        return self

    @property
    def ciphertexts(self) -> int:
        """How many the tensor is in."""
        return self.packing.ciphertexts


class InputSpec(_Tensor):
    """The tensor that is encrypted.

    shape    without the batch dimension
    packing  place of every element in the slots
    scale    a slot holds value / scale; no value may be larger than this
    level    level to encrypt at
    bytes    size of an encrypted input
    """

    level: Annotated[int, Field(ge=0)]
    bytes: Size

    @model_validator(mode="after")
    def _apart(self) -> InputSpec:
        """An output may have equal elements in one slot, of an axis that was expanded; an input may not."""
        if not self.packing.distinct:
            raise ValueError("two elements in one slot")
        return self

    def pack(self, values: F64) -> list[F64]:
        """A tensor of this shape, whose values are in range, as slot values in [-1, 1]: one vector per ciphertext."""
        return list(pack(values / self.scale, self.packing))


class OutputSpec(_Tensor):
    """A tensor that is decrypted.

    name     of the output
    shape    without the batch dimension
    packing  place of every element in the slots
    scale    value = slot * scale
    bound    |value| cannot be larger, if the inputs of all activations stay in their ranges
    final    what the client computes of it after decryption: "", softmax, log_softmax or sigmoid
    classes  a name for each value of a vector of scores; none of other tensors
    """

    name: Name
    bound: Positive
    final: Final = ""
    classes: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _named(self) -> OutputSpec:
        if self.classes and self.shape != (len(self.classes),):
            raise ValueError(f"{len(self.classes)} class names for an output of shape {self.shape}")
        return self

    @property
    def scores(self) -> bool:
        """Whether the values tell a class (`tells_class`)."""
        return tells_class(self.shape, self.final)

    def unpack(self, slots: Sequence[NDArray[np.floating]], model: str) -> F64:
        """The output from decrypted slots, one vector per ciphertext.

        Raises:
            RangeError: values larger than the plan allows, so they are no result of this plan: noise, or forged.
        """
        values = unpack(slots, self.packing).reshape(self.shape) * self.scale
        if not np.abs(values).max() <= self.bound:  # NaN, too
            raise RangeError(
                f"the decrypted outputs are larger than {self.bound:.4g}, which no result of {model} can be: the "
                "result is damaged, of another key, or forged; evaluate the input again"
            )
        return values

    def finish(self, values: F64) -> F64:
        """What the network returns of these values: with its last softmax or sigmoid, which is not encrypted."""
        return finished(values, self.final)


class ClientPart(Frozen):
    """The first layers of a network, which the client computes in clear: a split model.

    sha256  of the file that has them, `client.safetensors` beside `client.json`
    shape   of the network's input, without the batch dimension
    bound   no value of a normalised input may be larger than this
    until   the node or module that the layers end with
    """

    sha256: Hash
    shape: tuple[Annotated[int, Field(ge=1, le=MAX_VALUES)], ...]
    bound: Positive
    until: Name

    @field_validator("shape", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _possible(self) -> ClientPart:
        if not 1 <= len(self.shape) <= MAX_AXES or math.prod(self.shape) > MAX_VALUES:
            raise ValueError(f"impossible shape {self.shape}")
        return self


def tells_class(shape: tuple[int, ...], final: str) -> bool:
    """Whether an output tells a class: a vector of several values, or one probability; no image and no quantity."""
    return len(shape) == 1 and (shape[0] > 1 or final == "sigmoid")


def class_logits(values: NDArray[Any]) -> NDArray[Any]:
    """Logits of the classes, (..., classes), of the values of an output that tells one, before its last operation.

    Of a single value x they are (0, x): the softmax of these is (1 - sigmoid(x), sigmoid(x)).
    """
    return np.concatenate([np.zeros_like(values), values], -1) if values.shape[-1] == 1 else values


def names_of_classes(names: Sequence[str]) -> Sequence[str]:
    """The names of these logits, by those of the output's values: of a single one, that it is not so, and is."""
    if len(names) != 1:
        return names
    return ("0", "1") if names[0] == "0" else (f"not {names[0]}", names[0])


def finished(values: F64, final: str) -> F64:
    """Values after a last operation: "softmax" or "log_softmax" over the first axis, "sigmoid", or "" for none."""
    if final == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(values / 2)))
    if not final:
        return values
    shifted = values - values.max(axis=0)
    logs = shifted - np.log(np.exp(shifted).sum(axis=0))
    return np.asarray(np.exp(logs) if final == "softmax" else logs)


def checked_input(x: NDArray[np.floating], shape: tuple[int, ...], bound: float, model: str, advice: str) -> F64:
    """`x` as float64, where it is what a network takes.

    Args:
        bound: largest |value|, as calibrated.
        advice: what to do where values are larger.

    Raises:
        InputError: another shape, or values that are not finite.
        RangeError: values larger than any input that the network was calibrated on.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.shape != shape:
        raise InputError(f"{model} takes inputs of shape {shape}, not {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("the input holds NaN or infinite values; only finite ones can be encrypted")
    largest = float(np.abs(values).max())
    if largest > bound * (1 + SLACK):
        raise RangeError(
            f"the input reaches {largest:.4g} and {model} was calibrated on inputs up to {bound:.4g}; {advice}"
        )
    return values
