"""CIFAR-10: the binary version as its makers give it out, or a folder of lossless mosaics (docs/formats.md).

data_batch_1.bin ... data_batch_5.bin, test_batch.bin   records of 3,073 bytes: label, then red, green, blue planes

train_00.webp ... train_49.webp, test_00.webp ...   1,000 images of 32x32 RGB each, 25 rows of 40
train_labels.npy, test_labels.npy                   one uint8 in 0..9 for each image, in mosaic order
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fheinfer.data.files import one_line, open_given, printable, read_given
from fheinfer.data.images import check_header, image_errors
from fheinfer.errors import DatasetError, ImageError

U8 = npt.NDArray[np.uint8]

SIZE = 32
ROWS, COLUMNS = 25, 40
PER_MOSAIC = ROWS * COLUMNS
RECORD = 1 + 3 * SIZE * SIZE
MAX_RECORDS = 100_000
MAX_MOSAIC_BYTES = 64 * 2**20  # twenty times its pixels
HELD_OUT = 5_000
_SPLIT_SEED = 20  # fixed for good: numbers of two runs compare only on the same held-out images


@dataclass(frozen=True)
class LabelledImages:
    """images: uint8 (N, H, W, 3); labels: uint8 (N,)."""

    images: U8
    labels: U8

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.intp]) -> LabelledImages:
        return LabelledImages(self.images[indices], self.labels[indices])

    def first(self, count: int) -> LabelledImages:
        """The first so many, or all where there are fewer."""
        return self.take(np.arange(min(count, len(self))))

    def resized(self, size: int) -> LabelledImages:
        """The same images at size x size by averaging squares; `size` must divide theirs.

        Raises:
            DatasetError: it does not.
        """
        have = self.images.shape[1]
        if have == size:
            return self
        if size < 1 or have % size:
            raise DatasetError(f"images of {have}x{have} cannot be averaged down to {size}x{size}")
        step = have // size
        squares = self.images.reshape(len(self), size, step, size, step, 3)
        return LabelledImages(np.rint(squares.mean(axis=(2, 4))).astype(np.uint8), self.labels)


def folder(given: Path | None = None) -> Path:
    """`given`, else $FHEINFER_DATA.

    Raises:
        DatasetError: neither names an existing folder.
    """
    path = given or (Path(env) if (env := os.environ.get("FHEINFER_DATA")) else None)
    if path is None:
        raise DatasetError("no data folder: give --data FOLDER or set FHEINFER_DATA to CIFAR-10's, unpacked")
    try:
        found = path.is_dir()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise DatasetError(f"{printable(path)}: cannot be read ({error.strerror})") from None
    if not found:
        raise DatasetError(f"{printable(path)}: no such folder of CIFAR-10 images")
    return path


@lru_cache(maxsize=4)
def load(path: Path, part: str) -> LabelledImages:
    """All images of `part` ("train" or "test") in `path`, decoded once per process; treat as read-only.

    Raises:
        DatasetError: the folder or a file in it is missing or not as described above.
    """
    if any(folder(path).glob("*_batch*.bin")):
        names = ["test_batch.bin"] if part == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
        return _batches([path / name for name in names])
    if not any(path.glob("*_labels.npy")):
        raise DatasetError(f"{printable(path)}: neither CIFAR-10's binary version nor mosaics (docs/formats.md)")
    labels = _labels(path / f"{part}_labels.npy")
    count = len(labels) // PER_MOSAIC
    if (path / f"{part}_{count:02}.webp").exists():
        raise DatasetError(
            f"{printable(path)}: {part}_labels.npy is for {count} mosaics, but there are more {part} mosaics"
        )
    images = np.concatenate([_mosaic(path / f"{part}_{i:02}.webp") for i in range(count)])
    images.flags.writeable = labels.flags.writeable = False
    return LabelledImages(images, labels)


def split(images: LabelledImages, held_out: int | None = None) -> tuple[LabelledImages, LabelledImages]:
    """(for training, held out for selection): 5,000 held out, or a tenth of a smaller set; always the same ones.

    Raises:
        DatasetError: nothing would be left of one of them.
    """
    if held_out is None:
        held_out = min(HELD_OUT, len(images) // 10)
    if not 0 < held_out < len(images):
        raise DatasetError(f"{len(images)} training images are too few: a tenth of them is held out")
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    cut = len(images) - held_out
    return images.take(np.sort(order[:cut])), images.take(np.sort(order[cut:]))


def _batches(paths: list[Path]) -> LabelledImages:
    """One file after the other, in the order that the batches have."""
    parts = []
    for path in paths:
        limit = MAX_RECORDS * RECORD
        with open_given(path, limit, DatasetError, f"a file of CIFAR-10 ({MAX_RECORDS:,} records)") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0 or size % RECORD:
                raise DatasetError(
                    f"{printable(path)}: {size} bytes are no whole number of records of {RECORD:,} bytes"
                )
            try:
                parts.append(np.fromfile(file, np.uint8, size).reshape(-1, RECORD))
            except (OSError, ValueError) as error:  # shortened meanwhile
                raise DatasetError(f"{printable(path)}: cannot be read ({one_line(error)})") from None
        _require_classes(path, parts[-1][:, 0])
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1).copy()
    labels = records[:, 0].copy()
    images.flags.writeable = labels.flags.writeable = False
    return LabelledImages(images, labels)


def _labels(path: Path) -> U8:
    name = printable(path)
    data = read_given(path, 2 * MAX_RECORDS, DatasetError, f"a list of at most {MAX_RECORDS:,} labels")
    try:
        labels = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise DatasetError(f"{name}: not a numpy array of labels ({one_line(error)})") from None
    if labels.ndim != 1 or labels.dtype != np.uint8:
        raise DatasetError(f"{name}: expected a list of uint8 labels, found {labels.dtype} {labels.shape}")
    if len(labels) == 0 or len(labels) % PER_MOSAIC:
        raise DatasetError(f"{name}: {len(labels)} labels do not fill mosaics of {PER_MOSAIC:,}")
    _require_classes(path, labels)
    return np.array(labels)


def _require_classes(path: Path, labels: U8) -> None:
    if labels.max() > 9:
        raise DatasetError(f"{printable(path)}: label {labels.max()} is not one of the ten classes 0..9")


def _mosaic(path: Path) -> U8:
    """uint8 (1000, 32, 32, 3)."""
    name = printable(path)
    try:
        with (
            open_given(path, MAX_MOSAIC_BYTES, DatasetError, "an image") as file,
            image_errors(name),
            Image.open(file) as image,
        ):
            check_header(image)
            if image.size != (COLUMNS * SIZE, ROWS * SIZE):
                raise ImageError(
                    f"expected a mosaic of {COLUMNS * SIZE}x{ROWS * SIZE} pixels, found {image.width}x{image.height}"
                )
            pixels = np.asarray(image.convert("RGB"))
    except ImageError as error:
        raise DatasetError(str(error)) from None
    tiles = pixels.reshape(ROWS, SIZE, COLUMNS, SIZE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(PER_MOSAIC, SIZE, SIZE, 3)
