"""CIFAR-10: the binary version as its makers give it out, or a folder of lossless sheets (docs/formats.md).

    data_batch_1.bin ... data_batch_5.bin, test_batch.bin   records of 3,073 bytes: label, then red, green, blue planes

    train_00.webp ... train_49.webp, test_00.webp ...   1,000 images of 32x32 RGB each, 25 rows of 40
    train_labels.npy, test_labels.npy                   one uint8 in 0..9 for each image, in sheet order
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fheinfer.errors import DatasetError

U8 = npt.NDArray[np.uint8]

SIZE = 32
ROWS, COLUMNS = 25, 40
PER_SHEET = ROWS * COLUMNS
RECORD = 1 + 3 * SIZE * SIZE
MAX_RECORDS = 100_000
HELD_OUT = 5_000
_SPLIT_SEED = 20  # fixed for good: numbers of two runs compare only on the same held-out images


@dataclass(frozen=True)
class Pictures:
    """images: uint8 (N, H, W, 3); labels: uint8 (N,)."""

    images: U8
    labels: U8

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.intp]) -> Pictures:
        return Pictures(self.images[indices], self.labels[indices])

    def first(self, count: int) -> Pictures:
        """The first so many, or all where there are fewer."""
        return self.take(np.arange(min(count, len(self))))

    def resized(self, size: int) -> Pictures:
        """The same pictures at size x size by averaging squares; `size` must divide theirs.

        Raises:
            DatasetError: it does not.
        """
        have = self.images.shape[1]
        if have == size:
            return self
        if size < 1 or have % size:
            raise DatasetError(f"pictures of {have}x{have} cannot be averaged down to {size}x{size}")
        step = have // size
        squares = self.images.reshape(len(self), size, step, size, step, 3)
        return Pictures(np.rint(squares.mean(axis=(2, 4))).astype(np.uint8), self.labels)


def folder(given: Path | None = None) -> Path:
    """`given`, else $FHEINFER_DATA.

    Raises:
        DatasetError: neither names an existing folder.
    """
    path = given or (Path(env) if (env := os.environ.get("FHEINFER_DATA")) else None)
    if path is None:
        raise DatasetError("no data folder: give --data FOLDER or set FHEINFER_DATA to CIFAR-10's, unpacked")
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder of CIFAR-10 pictures")
    return path


@lru_cache(maxsize=4)
def load(path: Path, part: str) -> Pictures:
    """All images of `part` ("train" or "test") in `path`, decoded once per process; treat as read-only.

    Raises:
        DatasetError: the folder or a file in it is missing or not as described above.
    """
    if any(folder(path).glob("*_batch*.bin")):
        names = ["test_batch.bin"] if part == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
        return _batches([path / name for name in names])
    if not any(path.glob("*_labels.npy")):
        raise DatasetError(f"{path}: neither CIFAR-10's binary version nor sheets (docs/formats.md)")
    labels = _labels(path / f"{part}_labels.npy")
    count = len(labels) // PER_SHEET
    if (path / f"{part}_{count:02}.webp").exists():
        raise DatasetError(f"{path}: {part}_labels.npy is for {count} sheets, but there are more {part} sheets")
    images = np.concatenate([_sheet(path / f"{part}_{i:02}.webp") for i in range(count)])
    images.flags.writeable = labels.flags.writeable = False
    return Pictures(images, labels)


def split(pictures: Pictures, held_out: int | None = None) -> tuple[Pictures, Pictures]:
    """(for training, held out for selection): 5,000 held out, or a tenth of a smaller set; always the same ones.

    Raises:
        DatasetError: nothing would be left of one of them.
    """
    if held_out is None:
        held_out = min(HELD_OUT, len(pictures) // 10)
    if not 0 < held_out < len(pictures):
        raise DatasetError(f"{len(pictures)} training pictures are too few: a tenth of them is held out")
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pictures))
    cut = len(pictures) - held_out
    return pictures.take(np.sort(order[:cut])), pictures.take(np.sort(order[cut:]))


def _batches(paths: list[Path]) -> Pictures:
    """One file after the other, in the order that the batches have."""
    parts = []
    for path in paths:
        try:
            size = path.stat().st_size
            if size > MAX_RECORDS * RECORD:
                raise DatasetError(f"{path}: more than {MAX_RECORDS:,} records; CIFAR-10 has 10,000 in a file")
            if size == 0 or size % RECORD:
                raise DatasetError(f"{path}: {size} bytes are no whole number of records of {RECORD:,} bytes")
            parts.append(np.fromfile(path, np.uint8).reshape(-1, RECORD))
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); the data folder is incomplete") from None
        _require_classes(path, parts[-1][:, 0])
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1).copy()
    labels = records[:, 0].copy()
    images.flags.writeable = labels.flags.writeable = False
    return Pictures(images, labels)


def _labels(path: Path) -> U8:
    try:
        labels = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing; the data folder is incomplete") from None
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: not a numpy array of labels ({error})") from None
    if labels.ndim != 1 or labels.dtype != np.uint8:
        raise DatasetError(f"{path}: expected a list of uint8 labels, found {labels.dtype} {labels.shape}")
    if len(labels) == 0 or len(labels) % PER_SHEET:
        raise DatasetError(f"{path}: {len(labels)} labels do not fill sheets of {PER_SHEET:,}")
    _require_classes(path, labels)
    return np.array(labels)


def _require_classes(path: Path, labels: U8) -> None:
    if labels.max() > 9:
        raise DatasetError(f"{path}: label {labels.max()} is not one of the ten classes 0..9")


def _sheet(path: Path) -> U8:
    """uint8 (1000, 32, 32, 3)."""
    try:
        with Image.open(path) as picture:
            if picture.size != (COLUMNS * SIZE, ROWS * SIZE):
                raise DatasetError(f"{path}: expected a sheet of {COLUMNS * SIZE}x{ROWS * SIZE} pixels, "
                                   f"found {picture.size[0]}x{picture.size[1]}")
            sheet = np.asarray(picture.convert("RGB"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing; the data folder is incomplete") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: cannot be read as a picture ({error})") from None
    tiles = sheet.reshape(ROWS, SIZE, COLUMNS, SIZE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(PER_SHEET, SIZE, SIZE, 3)
