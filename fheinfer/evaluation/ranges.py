"""What goes into each activation: the range and a histogram, measured once and kept in a file of its own.

The file is JSON: `format`, `network`, `weights` (the identity of those it was measured on), `images`, `margin`, and
under `activations`, by node name, `reach`, `largest` and `counts` as in `Histogram`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fheinfer.storage import write_json
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, UsageError
from fheinfer.model.model import Weights

BINS = 512
MAX_BYTES = 16 * 2**20
_FORMAT = "fheinfer-ranges-1"


@dataclass
class Histogram:
    """How often values fall into each of 512 equal bins over [-reach, reach]; the reach doubles when it has to.

    largest  the largest |value| so far
    """

    reach: float = 1.0
    largest: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def stretch(self, largest: float) -> None:
        """Makes room for values up to `largest`: two bins become one, symmetrically about 0."""
        self.largest = max(self.largest, largest)
        while self.reach < largest:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(pairs, BINS // 4)
            self.reach *= 2

    def centres(self) -> npt.NDArray[np.float64]:
        """The middle of each bin, (512,)."""
        unit: npt.NDArray[np.float64] = (np.arange(BINS, dtype=np.float64) + 0.5) * (2 / BINS) - 1
        return unit * self.reach


@dataclass(frozen=True)
class Ranges:
    """Histograms of the inputs of every activation of `network`, over `images` pictures.

    weights  identity of the weights
    margin   how much larger than anything seen an encrypted run has to allow for, a factor
    """

    network: str
    weights: str
    images: int
    margin: float
    activations: Mapping[str, Histogram]

    def __post_init__(self) -> None:
        if not 1 <= self.margin < math.inf:
            raise UsageError(f"a margin is a factor of 1 or more, not {self.margin}")

    def largest(self) -> dict[str, float]:
        """Largest |input| of every activation, without the margin, as `Weights.ranges` has it."""
        return {name: found.largest for name, found in self.activations.items()}

    def bounds(self) -> dict[str, float]:
        """The same times the margin: what polynomials have to be valid on."""
        return {name: self.margin * found.largest for name, found in self.activations.items()}

    def require(self, weights: Weights) -> None:
        """Raises MismatchError unless these are the ranges of `weights`."""
        if self.weights != weights.identity:
            raise MismatchError(f"these ranges are of {self.network} with identity {self.weights[:16]}, not of "
                                f"{weights.network} {weights.identity[:16]}; measure them with `fheinfer calibrate`")

    def save(self, path: Path) -> None:
        """Replaces `path` at once.

        Raises:
            StorageError: the file cannot be written.
        """
        activations = {name: {"reach": h.reach, "largest": h.largest, "counts": h.counts.tolist()}
                       for name, h in self.activations.items()}
        write_json(path, {"format": _FORMAT, "network": self.network, "weights": self.weights, "images": self.images,
                          "margin": self.margin, "activations": activations})


def in_words(bound: float) -> str:
    """A range for people; one that ran away would be a line of digits."""
    return f"{bound:.2f}" if bound < 1e6 else f"{bound:.1e}"


def load(path: Path, weights: Weights) -> Ranges:
    """The ranges that `Ranges.save` wrote, of these weights.

    Raises:
        InputError: no such file, or too large to be one.
        CorruptArtifactError: not a whole file of ranges.
        MismatchError: of other weights.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: too large for a file of ranges")
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CorruptArtifactError(f"{path}: not a file of ranges ({error})") from None
    try:
        if content["format"] != _FORMAT:
            raise ValueError("another format")
        found = Ranges(str(content["network"]), str(content["weights"]), int(content["images"]),
                       float(content["margin"]), {k: _histogram(v) for k, v in content["activations"].items()})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise CorruptArtifactError(f"{path}: not a whole file of ranges ({error}); make it again") from None
    found.require(weights)
    if found.activations.keys() != {node.name for node in weights.graph.activations}:
        raise CorruptArtifactError(f"{path}: lacks activations of {weights.network}; make it again")
    return found


def _histogram(content: Mapping[str, object]) -> Histogram:
    counts = np.array(content["counts"], np.int64)
    reach, largest = float(content["reach"]), float(content["largest"])  # type: ignore[arg-type]
    if counts.shape != (BINS,) or counts.min() < 0 or not 0 <= largest <= reach < math.inf:
        raise ValueError("a histogram that cannot be one")
    return Histogram(reach, largest, counts)
