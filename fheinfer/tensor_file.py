"""Arrays and a JSON object in one safetensors file, whose bytes follow from the content alone.

safetensors writes several metadata entries in no particular order; one entry has only one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.storage import open_regular

_ENTRY = "fheinfer"
MAX_HEADER = 100 << 20
"""Bytes of the header of a safetensors file, as its own reader has it."""


def tensor_bytes(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> bytes:
    """The file; mappings inside `metadata` become JSON objects with sorted keys."""
    from safetensors.numpy import save

    text = json.dumps(metadata, sort_keys=True, default=dict, allow_nan=False)
    return bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}, {_ENTRY: text}))


def tensor_metadata(data: bytes) -> dict[str, Any]:
    """The JSON object of such a file, {} of any other safetensors file.

    Raises:
        ValueError: not a safetensors file, or no JSON object where one should be.
    """
    length = int.from_bytes(data[:8], "little")
    if length >= len(data):
        raise ValueError("not a whole safetensors file")
    entries = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    found = json.loads(entries.get(_ENTRY, "{}"))
    if not isinstance(found, dict):
        raise ValueError("its metadata is not a JSON object")
    return found


def read_metadata(path: Path) -> dict[str, Any]:
    """The JSON object of such a file, {} of anything else; reads no tensors.

    Raises:
        StorageError, CorruptArtifactError: see `storage.open_regular`.
    """
    try:
        fd, _ = open_regular(path)
    except FileNotFoundError:
        return {}
    with os.fdopen(fd, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > MAX_HEADER:
            return {}
        try:
            return tensor_metadata(head + file.read(length) + b"\0")
        except (ValueError, AttributeError, TypeError, RecursionError):
            return {}
