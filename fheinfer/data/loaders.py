"""Data as Python has it: a DataLoader, any iterable of batches or examples, an array, a tensor, or a path."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fheinfer.data import arrays, datasets
from fheinfer.data.labelled import MAX_VALUES, UNKNOWN, DataSet, Shape
from fheinfer.errors import DatasetError

Array = npt.NDArray[Any]

MOST = 1_000_000
"""Examples that are taken of an iterable at most, which may have no end."""


def from_python(data: Any, shape: Shape, limit: int | None = None, part: str = "train") -> DataSet:
    """`data` as a data set for a network with inputs of that shape.

    Real numbers are what the network takes, normalised already, as torch modules get them from a DataLoader. uint8
    arrays are pixels, (N, H, W, C) or (N, C, H, W), still to be normalised.

    Args:
        data: a `DataSet`; a path, as `datasets.load` takes it; an array or tensor of inputs, or of a single one; a
            tuple (inputs, labels) of two of them; or an iterable of batches or examples, each (inputs, labels, ...), a
            dict with such a pair, or inputs alone.
        limit: at most so many examples: evenly spread ones of what has an end, the first ones of an iterable.
        part: of a data set on disk.

    Raises:
        DatasetError: nothing there, not of that shape, or not numbers; or what `datasets.load` raises.
    """
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        found = datasets.load(path, part if datasets.has_parts(path) else "all", shape, limit)
        return found if limit is None else found.spread(limit)
    if isinstance(data, DataSet):
        found = data
    elif is_array(data):
        found = _data_set(_array(data), None, shape)
    elif isinstance(data, tuple) and len(data) == 2 and all(map(is_array, data)) and len(data[0]) == len(data[1]):
        found = _data_set(_array(data[0]), _array(data[1]), shape)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, list | tuple | dict):
        count = len(data)  # a Dataset of torch
        chosen = range(count) if limit is None else sorted({i * count // limit for i in range(limit)})
        found = _collected((data[i] for i in chosen), shape, MOST)
    elif isinstance(data, Iterable):
        found = _collected(data, shape, min(MOST, limit or MOST))
    else:
        raise DatasetError(
            f"data is a {type(data).__name__}; give a DataLoader, an array, a tensor, a path or (inputs, labels)"
        )
    return (found if limit is None else found.spread(limit)).fitted(shape)


def _collected(data: Iterable[Any], shape: Shape, limit: int) -> DataSet:
    inputs: list[Array] = []
    labels: list[Array] = []
    count = 0
    for item in data:
        x, y = _pair(item)
        single = x.ndim <= len(shape)
        batch = x[None] if single else x
        known = np.full(len(batch), UNKNOWN) if y is None else y[None] if single else np.atleast_1d(y)
        if len(batch) != len(known):
            raise DatasetError(f"a batch has {len(batch)} inputs and {len(known)} labels")
        for what, now, first in (("inputs", batch, inputs[:1]), ("labels", known, labels[:1])):
            if first and now.shape[1:] != first[0].shape[1:]:
                raise DatasetError(f"{what} of the shapes {first[0].shape[1:]} and {now.shape[1:]} in one data set")
        inputs.append(batch)
        labels.append(known)
        count += len(batch)
        if count * math.prod(batch.shape[1:]) > MAX_VALUES:
            raise DatasetError(f"more than {MAX_VALUES:,} values after {count:,} examples; say how many (limit=)")
        if count >= limit:
            break
    if not count:
        raise DatasetError("the data has no examples")
    return _data_set(np.concatenate(inputs)[:limit], np.concatenate(labels)[:limit], shape)


def _pair(item: Any) -> tuple[Array, Array | None]:
    if isinstance(item, dict):
        values = list(item.values())
    elif isinstance(item, tuple | list) and not all(isinstance(n, int | float) for n in item):
        values = list(item)
    else:
        values = [item]
    if not values:
        raise DatasetError("a batch of the data is empty")
    y = _array(values[1]) if len(values) > 1 else None
    return _array(values[0]), y


def is_array(value: Any) -> bool:
    """Whether that is an array of numpy, a tensor, or anything like them."""
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _array(value: Any) -> Array:
    """A tensor of any device, an image of Pillow or anything that numpy takes."""
    for method in ("detach", "cpu"):
        value = getattr(value, method)() if hasattr(value, method) else value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"a batch of the data is no array of numbers ({str(error)[:80]})") from None
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"the data holds {array.dtype}, not numbers; convert it to tensors first")
    return array


def _data_set(x: Array, y: Array | None, shape: Shape) -> DataSet:
    """uint8 arrays that could be images are pixels; all else is as the network takes it."""
    pixels = x.dtype == np.uint8 and len(shape) == 3
    if x.ndim == len(shape) and (x.shape == shape or (pixels and x.shape == (*shape[1:], shape[0]))):
        x, y = x[None], None if y is None else y[None]
    if pixels and x.ndim == 4 and x.shape[1:] == shape and x.shape[3] != shape[0]:
        x = x.transpose(0, 2, 3, 1)
    if x.dtype == np.uint8 and not pixels:
        x = x.astype(np.float32)
    labels = np.full(len(x), UNKNOWN) if y is None else y
    return arrays.data_set(x, labels, (), "the data", normalised=True)
