"""Data sets by what they are, one way in: files and folders are told apart by what is in them
(docs/reference/formats.md)."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from fheinfer.data import arrays, cifar, class_folders, idx
from fheinfer.data.files import printable
from fheinfer.data.labelled import DataSet, Shape, split
from fheinfer.errors import DatasetError

__all__ = ["PARTS", "DataSet", "has_parts", "load", "source", "split"]

PARTS = ("train", "test", "all")

_BELOW = ("cifar-10-batches-py", "cifar-100-python", "cifar-10-batches-bin", "cifar-100-binary", "MNIST/raw", "raw")
"""Folders that a data set may lie in, below the one that is named, as torchvision puts them."""


def source(given: Path | None = None) -> Path:
    """`given`, else $FHEINFER_DATA.

    Raises:
        DatasetError: neither names a file or folder that is there.
    """
    path = given or (Path(env) if (env := os.environ.get("FHEINFER_DATA")) else None)
    if path is None:
        raise DatasetError("no data: give --data PATH or set FHEINFER_DATA (docs/reference/formats.md)")
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise DatasetError(f"{printable(path)}: no such folder or file of data") from None
    except OSError as error:  # a name too long, a folder that may not be entered
        raise DatasetError(f"{printable(path)}: cannot be read ({error.strerror})") from None
    del found
    return path


def has_parts(path: Path) -> bool:
    """Whether the data says itself which examples are for testing.

    Raises:
        DatasetError: it cannot be read.
    """
    path = source(path)
    if not path.is_dir():
        return arrays.is_here(path) and arrays.has_parts(path)
    place = _inside(path)
    return bool(cifar.reader(place) or idx.is_here(place)) or class_folders.has_parts(place)


@lru_cache(maxsize=4)
def load(path: Path, part: str, shape: Shape | None = None, limit: int | None = None) -> DataSet:
    """The examples of a part, decoded once per process; treat as read-only.

    Args:
        path: CIFAR-10 or CIFAR-100 in any form, MNIST's idx files, a folder of class folders, a .npz or a .npy file.
        part: "train", "test", or "all" of both.
        shape: of the network's input; images become of its size. Without it they stay as they are, which a folder of
            class folders cannot.
        limit: of a folder of class folders read at most so many images, of all classes in turn; others are read whole.

    Raises:
        DatasetError: nothing there that is known, or a file that is missing or not as docs/reference/formats.md says.
    """
    if part not in PARTS:
        raise DatasetError(f"no part {part!r} of the data; there are {', '.join(PARTS)}")
    found = _load(source(path), part, shape, limit)
    if shape is not None:
        found = found.fitted(shape)
    found.inputs.flags.writeable = found.labels.flags.writeable = False
    return found


def _load(path: Path, part: str, shape: Shape | None, limit: int | None) -> DataSet:
    if not path.is_dir():
        if not arrays.is_here(path):
            raise DatasetError(
                f"{printable(path)}: no data set that is known; give a folder, or a .npz file "
                "(docs/reference/formats.md)"
            )
        return arrays.load(path, part)
    place = _inside(path)
    read = cifar.reader(place) or (idx.load if idx.is_here(place) else None)
    if read is not None:
        parts = [read(place, p) for p in (("train", "test") if part == "all" else (part,))]
        return parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
    if shape is None or len(shape) != 3:
        raise DatasetError(
            f"{printable(path)}: neither CIFAR nor MNIST's files nor mosaics (docs/reference/formats.md), and "
            f"{'without a network' if shape is None else 'for a network of vectors'} images have no size"
        )
    return class_folders.load(place, part, shape, limit)


def _inside(path: Path) -> Path:
    """The folder itself, or the one below it where torchvision would have put a data set.

    Raises:
        DatasetError: it cannot be listed, or there are several data sets in it.
    """
    try:
        if cifar.reader(path) or idx.is_here(path):
            return path
        below = [path / name for name in _BELOW if (path / name).is_dir()]
        known = [place for place in below if cifar.reader(place) or idx.is_here(place)]
    except OSError as error:
        raise DatasetError(f"{printable(path)}: cannot be read ({error.strerror})") from None
    if len(known) > 1:
        names = ", ".join(str(place.relative_to(path)) for place in known)
        raise DatasetError(f"{printable(path)}: several data sets ({names}); name one of them")
    return known[0] if known else path
