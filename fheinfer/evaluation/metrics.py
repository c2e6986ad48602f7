"""How close two vectors are, in bits, and what the logits say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fheinfer.crypto.client_tensors import OutputSpec, class_logits, names_of_classes

F64 = npt.NDArray[np.float64]

MAX_BITS = 52.0
"""More than a double carries: an exact result counts as this."""


@dataclass(frozen=True)
class Precision:
    """Bits of agreement: `minimum` at the worst entry, which is the gate, and `median` over the entries."""

    minimum: float
    median: float

    def __str__(self) -> str:
        return f"{self.minimum:.1f} bits at worst, {self.median:.1f} median"


def precision_bits(reference: npt.ArrayLike, value: npt.ArrayLike) -> Precision:
    """-log2(|value - reference| / max |reference|) for every entry, at most 52 bits.

    The error is relative to the largest reference entry, as fixed-point noise is the same for every slot. Fewer
    than 0 bits means an error larger than anything in the reference; a value that is not finite has minus infinity.

    Raises:
        ValueError: different shapes, nothing to compare, or a reference that is not finite.
    """
    expected, found = np.asarray(reference, np.float64), np.asarray(value, np.float64)
    if expected.shape != found.shape or expected.size == 0 or not np.isfinite(expected).all():
        raise ValueError(f"cannot compare {found.shape} with a reference of {expected.shape}")
    scale = float(np.abs(expected).max()) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -np.log2(np.abs(found - expected) / scale)
    bits = np.where(np.isfinite(found), np.minimum(bits, MAX_BITS), -np.inf)
    return Precision(float(bits.min()), float(np.median(bits)))


def together(parts: Sequence[Precision]) -> Precision | None:
    """The worst minimum and the median of medians of several outputs or batches; None of none."""
    return Precision(min(p.minimum for p in parts), float(np.median([p.median for p in parts]))) if parts else None


def softmax(logits: npt.ArrayLike) -> F64:
    """Probabilities along the last axis; large logits do not overflow."""
    x = np.asarray(logits, np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float64)


def top_class(logits: npt.ArrayLike) -> int:
    """Index of the largest logit, the first one of equals."""
    return int(np.argmax(np.asarray(logits)))


def class_names(spec: OutputSpec) -> Sequence[str]:
    """Names of the classes that an output tells: its own, or numbers; of a single probability two."""
    return names_of_classes(spec.classes or tuple(map(str, range(math.prod(spec.shape)))))


def probabilities(values: F64, spec: OutputSpec) -> F64:
    """Of each class: by the sigmoid where that is the last operation of several values, else by softmax."""
    several = spec.final == "sigmoid" and values.size > 1
    return spec.finish(values).ravel() if several else softmax(class_logits(values.ravel()))
