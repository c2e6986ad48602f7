"""Examples with labels in memory, and how they become what a network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fheinfer.data.files import printable
from fheinfer.data.images import cut_out
from fheinfer.errors import DatasetError

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Shape = tuple[int, ...]

UNKNOWN = -1
"""The label of an example that has none."""
MAX_VALUES = 1 << 32
"""Values of a data set in memory: 4 GiB of pixels."""
HELD_OUT = 5_000
_SPLIT_SEED = 20  # fixed for good: numbers of two runs compare only on the same held-out examples
_TEST_SEED = 21


@dataclass(frozen=True)
class DataSet:
    """Examples in memory; treat arrays as read-only.

    inputs      pixels, uint8 (N, H, W, C), or real numbers, float32 (N, *shape)
    labels      int64 (N,), UNKNOWN where there is none
    classes     a name for each label; empty where the data has none
    notes       lines that a user should see: what was resized or skipped
    normalised  whether real numbers are what the network takes; otherwise vectors are still to be normalised
    """

    inputs: U8 | F32
    labels: npt.NDArray[Any]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    normalised: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels).astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def images(self) -> bool:
        """Whether the inputs are pixels."""
        return self.inputs.dtype == np.uint8

    @property
    def noun(self) -> str:
        """What the examples are called in messages."""
        return "images" if self.images else "examples"

    def take(self, indices: npt.NDArray[Any]) -> DataSet:
        """The examples at these indices."""
        return replace(self, inputs=self.inputs[indices], labels=self.labels[indices])

    def first(self, count: int) -> DataSet:
        """The first so many, or all where there are fewer."""
        return self.take(np.arange(min(count, len(self))))

    def spread(self, count: int) -> DataSet:
        """So many, evenly spread over all of them, in order; or all where there are fewer."""
        if count >= len(self):
            return self
        return self.take(np.arange(count) * len(self) // count)

    def joined(self, other: DataSet) -> DataSet:
        """These examples, then those of another part of the same data."""
        inputs: U8 | F32 = np.concatenate([self.inputs, other.inputs])
        labels = np.concatenate([self.labels, other.labels])
        return replace(self, inputs=inputs, labels=labels, notes=tuple(dict.fromkeys((*self.notes, *other.notes))))

    @property
    def labelled(self) -> bool:
        """Whether every example has a label."""
        return len(self) > 0 and bool(self.labels.min() >= 0)

    def require_labels(self) -> DataSet:
        """The same data set.

        Raises:
            DatasetError: examples without a label.
        """
        if not self.labelled:
            why = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DatasetError(
                f"the data has no labels{why}; give a folder for each class, or labels beside the inputs"
            )
        return self

    def labelled_as(self, classes: tuple[str, ...]) -> DataSet:
        """The same examples with labels that are the positions of their classes in `classes`, a model's.

        Where all names of the data are among them, names decide; where there are as many, positions do, which is noted.

        Raises:
            DatasetError: examples without a label, names that are not the model's, or labels beyond them.
        """
        self.require_labels()
        if self.classes and self.classes != classes and set(self.classes) <= set(classes):
            places = np.array([classes.index(name) for name in self.classes])
            return replace(self, labels=places[self.labels], classes=classes)
        notes = self.notes
        if self.classes and self.classes != classes:
            if len(self.classes) > len(classes):
                raise DatasetError(f"the data has {len(self.classes)} classes, and the model {len(classes)}")
            if classes != tuple(map(str, range(len(classes)))):
                theirs, ours = (", ".join(map(printable, names[:3])) for names in (self.classes, classes))
                notes = (*notes, f"classes of the data ({theirs}, ...) are those of the model ({ours}, ...) in order")
        if self.labels.max() >= len(classes):
            raise DatasetError(f"the data has labels up to {self.labels.max()}, and the model {len(classes)} classes")
        return replace(self, classes=classes, notes=notes)

    def resized(self, size: int) -> DataSet:
        """The same images at size x size by averaging squares; `size` must divide theirs.

        Raises:
            DatasetError: it does not.
        """
        height, width, channels = self.inputs.shape[1:]
        if (height, width) == (size, size):
            return self
        if size < 1 or height % size or width % size:
            raise DatasetError(f"images of {height}x{width} cannot be averaged down to {size}x{size}")
        squares = self.inputs.reshape(len(self), size, height // size, size, width // size, channels)
        return replace(self, inputs=np.rint(squares.mean(axis=(2, 4))).astype(np.uint8))

    def fitted(self, shape: Shape) -> DataSet:
        """The same examples as a network of that input shape takes them; what had to be changed is noted.

        Images become grey or RGB as needed, and of the right size: by averaging squares where that divides theirs, else
        the largest centred part of these proportions is cut out and resized. A network of vectors takes an image as its
        pixels on the scale 0 to 1 in the order (C, H, W).

        Raises:
            DatasetError: examples that do not fit.
        """
        if self.images and len(shape) == 3:
            return self._sized(shape)
        real = self
        if self.images:
            light = self.inputs.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            real = replace(self, inputs=light, notes=(*self.notes, "images are taken as vectors of pixels, 0 to 1"))
        own = real.inputs.shape[1:]
        if own == shape:
            return real
        same = [n for n in own if n > 1] == [n for n in shape if n > 1]
        if not (math.prod(own) == math.prod(shape) and (same or len(shape) == 1)):
            raise DatasetError(f"the data has inputs of the shape {own}, and the network takes {shape}")
        reshaped: U8 | F32 = real.inputs.reshape(len(self), *shape)
        return replace(real, inputs=reshaped)

    def _sized(self, shape: Shape) -> DataSet:
        channels, height, width = shape
        coloured = self._in_channels(channels)
        have = self.inputs.shape[1:3]
        if have == (height, width):
            return coloured
        note = f"images of {have[0]}x{have[1]} are resized to {height}x{width}"
        if height == width and have[0] == have[1] and have[0] % height == 0:
            return replace(coloured.resized(height), notes=(*coloured.notes, note))
        if math.prod((len(self), *shape)) > MAX_VALUES:
            raise DatasetError(
                f"{len(self):,} images of {height}x{width} are too many for memory; take fewer (--limit)"
            )
        small = np.empty((len(self), height, width, channels), np.uint8)
        for index, pixels in enumerate(coloured.inputs):
            image = Image.fromarray(pixels if channels > 1 else pixels[..., 0])
            small[index] = np.asarray(cut_out(image, height, width)).reshape(height, width, channels)
        return replace(coloured, inputs=small, notes=(*coloured.notes, note))

    def _in_channels(self, channels: int) -> DataSet:
        have = self.inputs.shape[3]
        if have == channels:
            return self
        if (have, channels) == (1, 3):
            rgb: U8 = np.repeat(self.inputs, 3, 3).astype(np.uint8, copy=False)
            return replace(self, inputs=rgb, notes=(*self.notes, "grey images are taken as RGB"))
        if (have, channels) == (3, 1):
            grey = self.inputs @ np.array([0.299, 0.587, 0.114], np.float32)
            return replace(
                self,
                inputs=np.asarray(np.rint(grey), np.uint8)[..., None],
                notes=(*self.notes, "RGB images are taken as grey ones"),
            )
        raise DatasetError(f"the data has images of {have} channels, and the network takes {channels}")


def split(data: DataSet, held_out: int | None = None) -> tuple[DataSet, DataSet]:
    """(for training, held out for selection): 5,000 held out, or a tenth of a smaller set; always the same ones.

    Raises:
        DatasetError: nothing would be left of one of them.
    """
    if held_out is None:
        held_out = min(HELD_OUT, len(data) // 10)
    if not 0 < held_out < len(data):
        raise DatasetError(f"{len(data)} training images are too few: a tenth of them is held out")
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(data))
    cut = len(data) - held_out
    return data.take(np.sort(order[:cut])), data.take(np.sort(order[cut:]))


def part_of_whole(count: int, part: str) -> npt.NDArray[np.intp]:
    """Indices of the train or test part of data that has no parts: a tenth is for testing, always the same; or all.

    Raises:
        DatasetError: too few to be split.
    """
    if part == "all":
        return np.arange(count)
    if count < 10:
        raise DatasetError(f"{count} examples without a part for testing are too few: a tenth of them would be")
    order = np.random.default_rng(_TEST_SEED).permutation(count)
    cut = count - count // 10
    return np.sort(order[:cut] if part == "train" else order[cut:])
