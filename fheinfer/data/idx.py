"""MNIST's idx files, and those of data sets made like it: zeros, a type, sizes, then the values; plain or gzip.

train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, with or without .gz
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from fheinfer.data.files import one_line, open_given, printable
from fheinfer.data.labelled import U8, DataSet
from fheinfer.errors import DatasetError

MAX_BYTES = 1 << 30
_PARTS = {"train": "train", "test": "(?:t10k|test)"}
_UNSIGNED_BYTE = 8


def find(folder: Path, part: str, what: str, dimensions: int) -> Path | None:
    """The file of a part ("train" or "test") with its images or labels, the unpacked one first."""
    pattern = re.compile(rf"{_PARTS[part]}-{what}[-.]idx{dimensions}-ubyte(\.gz)?")
    found = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
    return found[0] if found else None


def is_here(folder: Path) -> bool:
    """Whether a folder has such images."""
    return any(find(folder, part, "images", 3) for part in _PARTS)


def load(folder: Path, part: str) -> DataSet:
    """All images of a part.

    Raises:
        DatasetError: a file that is missing, truncated, not of that format, or larger than 1 GiB.
    """
    files = [find(folder, part, what, dimensions) for what, dimensions in (("images", 3), ("labels", 1))]
    for file, what in zip(files, ("images", "labels"), strict=True):
        if file is None:
            raise DatasetError(f"{printable(folder)}: no idx file of the {part} {what}; see docs/reference/formats.md")
    images, labels = (read(file, n) for file, n in zip(files, (3, 1), strict=True) if file is not None)
    if len(images) != len(labels):
        raise DatasetError(f"{printable(folder)}: {len(images)} {part} images and {len(labels)} labels")
    return DataSet(images[..., None], labels.astype(np.int64))


def read(path: Path, dimensions: int) -> U8:
    """The bytes of an idx file with that many sizes, uint8, none of them zero.

    Raises:
        DatasetError: see `load`.
    """
    name, data = printable(path), _content(path)
    if len(data) < 4 + 4 * dimensions or data[:2] != b"\0\0":
        raise DatasetError(f"{name}: not an idx file")
    if data[2] != _UNSIGNED_BYTE or data[3] != dimensions:
        raise DatasetError(
            f"{name}: type {data[2]} in {data[3]} dimensions; unsigned bytes (8) in {dimensions} are expected"
        )
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, 4 + 4 * dimensions, 4))
    values = data[4 + 4 * dimensions :]
    if math.prod(shape) != len(values) or not values:
        raise DatasetError(f"{name}: {len(values):,} bytes of values, and its header says {shape}; get the file again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _content(path: Path) -> bytes:
    name = printable(path)
    with open_given(path, MAX_BYTES, DatasetError, "an idx file") as file:
        try:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                return file.read(MAX_BYTES + 1)
            with gzip.GzipFile(fileobj=file) as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{name}: damaged ({one_line(error, 80)}); get the file again") from None
    if len(data) > MAX_BYTES:
        raise DatasetError(f"{name}: unpacks to more than {MAX_BYTES:,} bytes")
    return data
