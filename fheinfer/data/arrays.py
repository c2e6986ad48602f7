"""Data sets in numpy's files: a .npz with inputs and labels, in one piece or in parts, or a .npy of inputs alone."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from fheinfer.data.files import one_line, open_given, printable, read_given
from fheinfer.data.labelled import I64, UNKNOWN, DataSet, part_of_whole
from fheinfer.errors import DatasetError

Array = npt.NDArray[Any]

MAX_BYTES = 4 << 30
MAX_ARRAYS = 1_000

_PAIRS = (
    *(("images", "labels"), ("x", "y"), ("X", "y"), ("inputs", "labels"), ("features", "labels")),
    *(("features", "targets"), ("features", "target"), ("data", "labels"), ("data", "target"), ("x", "labels")),
)
_PARTS = (("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"))
_CLASSES = ("classes", "class_names", "label_names", "target_names")


def is_here(path: Path) -> bool:
    """Whether a file begins like one of numpy's."""
    with open_given(path, 1 << 60, DatasetError, "a data set") as file:
        return file.read(6) == npy.MAGIC_PREFIX or zipfile.is_zipfile(file)


def load(path: Path, part: str) -> DataSet:
    """The part ("train", "test" or "all") of a data set.

    Arrays of a .npz are called images and labels, x and y, features and targets, or data and target, in one piece; or
    x_train, y_train, x_test, y_test or train_images and so on in parts; `classes` has names. Of a data set in one piece
    a tenth, always the same, is its test part. Images are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W).

    Raises:
        DatasetError: not such a file, damaged, larger than 4 GiB unpacked, with objects, or with values that are no
            numbers.
    """
    name = printable(path)
    arrays = _read(path)
    classes = next((tuple(map(str, arrays.pop(key).ravel())) for key in _CLASSES if key in arrays), ())
    for inputs, labels in _PARTS:
        wanted = ("train", "test") if part == "all" else (part,)
        if all(inputs.format(p) in arrays for p in wanted):
            found = [_pair(arrays, inputs.format(p), labels.format(p), name) for p in wanted]
            x, y = (np.concatenate(values) for values in zip(*found, strict=True))
            return data_set(x, y, classes, name)
    pair = next((p for p in _PAIRS if p[0] in arrays and p[1] in arrays), None)
    if pair is None and len(arrays) != 1:
        raise DatasetError(
            f"{name}: no inputs and labels by known names among {', '.join(map(printable, list(arrays)[:6]))}; "
            "call them x and y, or x_train, y_train, x_test and y_test"
        )
    x, y = _pair(arrays, *(pair or (next(iter(arrays)), "")), name)
    chosen = part_of_whole(len(x), part)
    return data_set(x[chosen], y[chosen], classes, name)


def has_parts(path: Path) -> bool:
    """Whether a file has parts for training and testing."""
    return any(inputs.format("test") in _read(path, only_names=True) for inputs, _ in _PARTS)


def data_set(x: Array, y: Array, classes: tuple[str, ...], name: str, normalised: bool = False) -> DataSet:
    """Arrays of inputs and labels as a data set.

    Raises:
        DatasetError: values or labels that cannot be, with `name` in front. Targets that are no labels are noted.
    """
    labels, notes = _labels(y, len(x), name)
    if classes and labels.max(initial=0) >= len(classes):
        raise DatasetError(f"{name}: label {labels.max()} and {len(classes)} class names")
    if len(x) == 0 or x.ndim < 2 or x.dtype.kind not in "fiub" or 0 in x.shape:
        raise DatasetError(
            f"{name}: inputs are {x.dtype} {x.shape}; an array of numbers, one row per example, is expected"
        )
    if x.dtype == np.uint8 and x.ndim == 3:
        return DataSet(x[..., None], labels, classes, notes)
    if x.dtype == np.uint8 and x.ndim == 4:
        if x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
            x, notes = x.transpose(0, 2, 3, 1), (*notes, "images are in the order (channels, height, width)")
        return DataSet(x, labels, classes, notes)
    with np.errstate(over="ignore"):
        real = x.astype(np.float32)
    if not np.isfinite(real).all():
        raise DatasetError(f"{name}: inputs hold NaN or infinite values")
    return DataSet(real, labels, classes, notes, normalised)


def parse(data: bytes) -> Array:
    """The array of a .npy file, of plain numbers or strings, as a view of its bytes.

    Raises:
        ValueError: no such file; its size has to be what its header says, so nothing is allocated by what that claims.
    """
    stream = io.BytesIO(data)
    try:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
        shape, columns_first, dtype = read(stream)
    except (KeyError, TypeError, SyntaxError) as error:
        raise ValueError(one_line(error)) from None
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("its size is not what its header says")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if columns_first else "C")


def _read(path: Path, only_names: bool = False) -> dict[str, Array]:
    name = printable(path)
    with open_given(path, MAX_BYTES, DatasetError, "a data set") as file:
        if not zipfile.is_zipfile(file):
            data = read_given(path, MAX_BYTES, DatasetError, "a data set")
            try:
                return {"inputs": parse(data)}
            except ValueError as error:
                raise DatasetError(f"{name}: no array of numpy ({one_line(error)}); save it with numpy.savez") from None
        try:
            with zipfile.ZipFile(file) as packed:
                return _members(packed, only_names)
        except (
            ValueError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise DatasetError(f"{name}: a damaged .npz file ({one_line(error)}); save it with numpy.savez") from None


def _members(packed: zipfile.ZipFile, only_names: bool) -> dict[str, Array]:
    left, arrays = MAX_BYTES, {}
    members = packed.infolist()
    if len(members) > MAX_ARRAYS:
        raise ValueError(f"{len(members)} arrays")
    for member in members:
        key = member.filename.removesuffix(".npy")
        if only_names:
            arrays[key] = np.empty(0)
            continue
        with packed.open(member) as stream:
            data = stream.read(left + 1)
        left -= len(data)
        if left < 0:
            raise ValueError(f"more than {MAX_BYTES:,} bytes unpacked")
        arrays[key] = parse(data)
    return arrays


def _pair(arrays: dict[str, Array], inputs: str, labels: str, name: str) -> tuple[Array, Array]:
    x = arrays[inputs]
    if labels and labels not in arrays:
        raise DatasetError(f"{name}: {inputs} without {labels}")
    y = arrays[labels] if labels else np.full(len(x) if x.ndim else 0, UNKNOWN)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise DatasetError(f"{name}: {inputs} is {x.shape} and {labels} is {y.shape}; they need the same first size")
    return x, y


def _labels(y: Array, count: int, name: str) -> tuple[I64, tuple[str, ...]]:
    """Labels, and a note where the numbers are quantities or several per example: then there are no labels."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape[:1] != (count,) or y.dtype.kind not in "iuf":
        raise DatasetError(f"{name}: labels are {y.dtype} {y.shape}; {count} whole numbers are expected")
    if y.ndim == 1 and ((y == np.rint(y)) & (y >= UNKNOWN) & (y < 1 << 16)).all():
        return y.astype(np.int64), ()
    note = f"targets of {y.dtype} {y.shape} are no labels of classes, 0 to 65,535, and are not used"
    return np.full(count, UNKNOWN), (note,)
