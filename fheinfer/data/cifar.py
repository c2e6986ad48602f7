"""CIFAR-10 and CIFAR-100: the binary version, the pickles for Python, or a folder of lossless mosaics.

cifar-10-batches-bin    data_batch_1.bin ... data_batch_5.bin, test_batch.bin: records of a label, then the red, green
                        and blue planes
cifar-100-binary        train.bin, test.bin: records of a coarse and a fine label, then the planes
cifar-10-batches-py     data_batch_1 ... data_batch_5, test_batch: pickles, as torchvision downloads them
cifar-100-python        train, test: pickles
mosaics                 train_00.webp ... train_49.webp, test_00.webp ...: 1,000 images each, 25 rows of 40, and
                        train_labels.npy, test_labels.npy: one uint8 in 0..9 for each image, in mosaic order
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fheinfer.data import pickles
from fheinfer.data.files import one_line, open_given, printable, read_given
from fheinfer.data.images import CLASSES, check_header, image_errors
from fheinfer.data.labelled import I64, U8, DataSet
from fheinfer.errors import DatasetError, ImageError

SIZE = 32
VALUES = 3 * SIZE * SIZE
ROWS, COLUMNS = 25, 40
PER_MOSAIC = ROWS * COLUMNS
RECORD = 1 + VALUES
MAX_RECORDS = 100_000
MAX_MOSAIC_BYTES = 64 * 2**20  # twenty times its pixels
MAX_PICKLE_BYTES = 512 * 2**20

_TEN = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def reader(folder: Path) -> Callable[[Path, str], DataSet] | None:
    """What reads the form of CIFAR that a folder holds, by the files in it; None where it holds none."""
    names = {path.name for path in folder.iterdir()}
    if any(name.endswith(".bin") and "_batch" in name for name in names):
        return _binary_ten
    if {"train.bin", "test.bin"} & names and {"fine_label_names.txt", "coarse_label_names.txt"} & names:
        return _binary_hundred
    if {"batches.meta", "data_batch_1", "test_batch"} & names:
        return _pickled_ten
    if "meta" in names and {"train", "test"} & names:
        return _pickled_hundred
    if any(name in names for name in ("train_labels.npy", "test_labels.npy")):
        return _mosaics
    return None


def _binary_ten(folder: Path, part: str) -> DataSet:
    records = np.concatenate([_records(folder / f"{name}.bin", 1) for name in _TEN[part]])
    return _of_records(records[:, 1:], records[:, 0], CLASSES)


def _binary_hundred(folder: Path, part: str) -> DataSet:
    records = _records(folder / f"{part}.bin", 2)
    names = _lines(folder / "fine_label_names.txt") or tuple(map(str, range(100)))
    _require_classes(folder / f"{part}.bin", records[:, 1], len(names))
    return _of_records(records[:, 2:], records[:, 1], names)


def _records(path: Path, labels: int) -> U8:
    """uint8 (N, labels + 3072); ten classes are checked here, where there is one label."""
    size_of_one = labels + VALUES
    limit = MAX_RECORDS * size_of_one
    with open_given(path, limit, DatasetError, f"a file of CIFAR ({MAX_RECORDS:,} records)") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0 or size % size_of_one:
            raise DatasetError(
                f"{printable(path)}: {size} bytes are no whole number of records of {size_of_one:,} bytes"
            )
        try:
            records = np.fromfile(file, np.uint8, size).reshape(-1, size_of_one)
        except (OSError, ValueError) as error:  # shortened meanwhile
            raise DatasetError(f"{printable(path)}: cannot be read ({one_line(error)})") from None
    if labels == 1:
        _require_classes(path, records[:, 0], len(CLASSES))
    return records


def _of_records(planes: U8, labels: U8, classes: tuple[str, ...]) -> DataSet:
    images = planes.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1).copy()
    return DataSet(images, labels.astype(np.int64), classes)


def _pickled_ten(folder: Path, part: str) -> DataSet:
    names = _names(folder / "batches.meta", "label_names") or CLASSES
    return _concatenated([_batch(folder / name, "labels", names) for name in _TEN[part]])


def _pickled_hundred(folder: Path, part: str) -> DataSet:
    names = _names(folder / "meta", "fine_label_names") or tuple(map(str, range(100)))
    return _batch(folder / part, "fine_labels", names)


def _concatenated(parts: list[DataSet]) -> DataSet:
    images, labels = np.concatenate([p.inputs for p in parts]), np.concatenate([p.labels for p in parts])
    return DataSet(images, labels, parts[0].classes)


def _batch(path: Path, key: str, classes: tuple[str, ...]) -> DataSet:
    """One pickle of a dict with `data`, uint8 (N, 3072), and a list of labels under `key`."""
    found = _dict(path)
    data, labels = found.get("data"), found.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != VALUES:
        raise DatasetError(f"{printable(path)}: no batch of CIFAR: its data is no uint8 array of (N, {VALUES})")
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(n) is int for n in labels):
        raise DatasetError(f"{printable(path)}: no batch of CIFAR: {key} is no list of {len(data)} numbers")
    if not labels or not all(0 <= label < len(classes) for label in labels):
        raise DatasetError(f"{printable(path)}: a label is not one of the {len(classes)} classes")
    return _of_records(data, np.array(labels, np.int64), classes)


def _dict(path: Path) -> dict[Any, Any]:
    found = pickles.load(read_given(path, MAX_PICKLE_BYTES, DatasetError, "a batch of CIFAR"), printable(path))
    if not isinstance(found, dict):
        raise DatasetError(f"{printable(path)}: no batch of CIFAR: it holds a {type(found).__name__}")
    return found


def _names(path: Path, key: str) -> tuple[str, ...]:
    """Class names of a `meta` file; none where there is no such file."""
    if not path.exists():
        return ()
    names = _dict(path).get(key)
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{printable(path)}: no list of {key}")
    return tuple(n.decode("latin-1") if isinstance(n, bytes) else str(n) for n in names)


def _lines(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    text = read_given(path, 1 << 20, DatasetError, "a list of class names").decode("utf-8", "replace")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _mosaics(folder: Path, part: str) -> DataSet:
    labels = _mosaic_labels(folder / f"{part}_labels.npy")
    count = len(labels) // PER_MOSAIC
    if (folder / f"{part}_{count:02}.webp").exists():
        raise DatasetError(
            f"{printable(folder)}: {part}_labels.npy is for {count} mosaics, but there are more {part} mosaics"
        )
    images = np.concatenate([_mosaic(folder / f"{part}_{i:02}.webp") for i in range(count)])
    return DataSet(images, labels, CLASSES)


def _mosaic_labels(path: Path) -> I64:
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
    _require_classes(path, labels, len(CLASSES))
    return labels.astype(np.int64)


def _require_classes(path: Path, labels: U8, count: int) -> None:
    if labels.max() >= count:
        raise DatasetError(f"{printable(path)}: label {labels.max()} is not one of the {count} classes 0..{count - 1}")


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
