"""What goes into each activation: the range and a histogram, measured once and kept in a file of its own.

The file is JSON: `format`, `network`, `model` (the identity of the one it was measured on), `images`, `margin`, and
under `activations`, by node name, `bin_range`, `largest` and `counts` as in `Histogram`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fheinfer.data.files import printable, read_given
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, UsageError
from fheinfer.storage import parse_json, write_json

if TYPE_CHECKING:
    from fheinfer.model.model import Model

BINS = 512
MAX_BYTES = 16 * 2**20
LARGEST = 1e9
"""Beyond this no range is believed: trained networks stay below some thousands."""

SPREAD = 1e6
"""Nor is one that is so many times the median of its network."""

_FORMAT = "fheinfer-ranges-2"


@dataclass
class Histogram:
    """How often values fall into each of 512 equal bins over [-bin_range, bin_range], which doubles when it has to.

    largest  the largest |value| so far
    """

    bin_range: float = 1.0
    largest: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def stretch(self, largest: float) -> None:
        """Makes room for values up to `largest`: two bins become one, symmetrically about 0."""
        self.largest = max(self.largest, largest)
        while self.bin_range < largest:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(pairs, BINS // 4)
            self.bin_range *= 2

    def centres(self) -> npt.NDArray[np.float64]:
        """Returns the middle of each bin, (512,)."""
        unit: npt.NDArray[np.float64] = (np.arange(BINS, dtype=np.float64) + 0.5) * (2 / BINS) - 1
        return unit * self.bin_range


@dataclass(frozen=True)
class Ranges:
    """Histograms of the inputs of every activation of `network`, over `images` images.

    model   identity of the model that they were measured on
    margin  how much larger than anything seen an encrypted run has to allow for, a factor
    """

    network: str
    model: str
    images: int
    margin: float
    activations: Mapping[str, Histogram]

    def __post_init__(self) -> None:
        if not 1 <= self.margin < math.inf:
            raise UsageError(f"a margin is a factor of 1 or more, not {self.margin}")

    def largest(self) -> dict[str, float]:
        """Returns the largest |input| of every activation, without the margin, as `Model.ranges` has it."""
        return {name: histogram.largest for name, histogram in self.activations.items()}

    def bounds(self) -> dict[str, float]:
        """Returns the same times the margin: what polynomials have to be valid on."""
        return {name: self.margin * histogram.largest for name, histogram in self.activations.items()}

    def require(self, model: Model) -> None:
        """Checks that these are the ranges of `model`.

        Raises:
            MismatchError: they are not.
        """
        if self.model != model.identity:
            raise MismatchError(
                f"these ranges are of {self.network} with identity {self.model[:16]}, not of "
                f"{model.name} {model.identity[:16]}; measure them with `fheinfer calibrate`"
            )

    def save(self, path: Path) -> None:
        """Replaces `path` at once.

        Raises:
            StorageError: the file cannot be written.
        """
        activations = {
            name: {"bin_range": h.bin_range, "largest": h.largest, "counts": h.counts.tolist()}
            for name, h in self.activations.items()
        }
        write_json(
            path,
            {
                "format": _FORMAT,
                "network": self.network,
                "model": self.model,
                "images": self.images,
                "margin": self.margin,
                "activations": activations,
            },
        )


class _HistogramFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bin_range: Annotated[float, Field(allow_inf_nan=False)]
    largest: Annotated[float, Field(ge=0)]
    counts: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 63)]], Field(min_length=BINS, max_length=BINS)]

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not self.largest <= self.bin_range:
            raise ValueError("the largest input is outside the bins")
        return self


class _RangesFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["fheinfer-ranges-2"]
    network: str
    model: str
    images: Annotated[int, Field(ge=0)]
    margin: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    activations: dict[str, _HistogramFields]


def in_words(bound: float) -> str:
    """Writes a range for people; one that ran away would be a line of digits."""
    return f"{bound:.2f}" if bound < 1e6 else f"{bound:.1e}"


def plausible_ranges(ranges: Mapping[str, float]) -> None:
    """Refuses ranges (activation -> largest |input|) that no network has: one alone makes every answer noise.

    Raises:
        InputError: naming an activation whose range is no number, negative, beyond 1e9, or more than 1e6 times the
            median of those that are not 0.
    """
    for name, value in ranges.items():
        if not 0 <= value <= LARGEST:
            raise InputError(
                f"the range of {printable(name)} is {value:.3g}, which no activation has; measure the "
                "ranges again with `fheinfer calibrate`"
            )
    seen = sorted(value for value in ranges.values() if value > 0)
    if not seen:
        return
    median = seen[(len(seen) - 1) // 2]  # of two the smaller: the larger may be the wrong one
    name, largest = max(ranges.items(), key=lambda item: item[1])
    if largest > SPREAD * median:
        raise InputError(
            f"the range of {printable(name)} is {largest:.3g}, but most are about {median:.3g}; measure "
            "the ranges again with `fheinfer calibrate`"
        )


def load(path: Path, model: Model) -> Ranges:
    """Reads the ranges that `Ranges.save` wrote, of this model.

    Raises:
        InputError: no such file, no regular file, or too large to be one.
        CorruptArtifactError: not a whole file of ranges, or ranges that no network has.
        MismatchError: of another model.
    """
    name, content = printable(path), read_given(path, MAX_BYTES, InputError, "a file of ranges")
    fields = parse_json(content, path, _RangesFile, "make it again with `fheinfer calibrate`")
    histograms = {
        activation: Histogram(h.bin_range, h.largest, np.array(h.counts, np.int64))
        for activation, h in fields.activations.items()
    }
    found = Ranges(fields.network, fields.model, fields.images, fields.margin, histograms)
    try:
        plausible_ranges(found.largest())
    except InputError as error:
        raise CorruptArtifactError(f"{name}: {error}") from None
    found.require(model)
    known = {model.graph.input.name, *(node.name for node in model.graph.ranged)}
    if not {node.name for node in model.graph.activations} <= found.activations.keys() <= known:
        raise CorruptArtifactError(f"{name}: lacks activations of {model.name}; make it again")
    return found
