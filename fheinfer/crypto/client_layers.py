"""The first layers of a network in clear, where a client computes them before it encrypts (a split model).

They are in `client.safetensors`, a model file beside `client.json`, which names it by its hash. A client reads it
without the model's code: numpy, float64, and the operations of `client_operations.LAYERS`; docs/reference/formats.md
has the file in prose. It comes from outside, so the memory and the work that layers take are bounded before they are
taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fheinfer.crypto.client_operations import F64, LAYERS, SIZES, Tensors, require_room
from fheinfer.errors import CorruptArtifactError, InputError
from fheinfer.storage import read_small, shown
from fheinfer.tensor_file import tensor_metadata

MAX_BYTES = 1 << 30
SUFFIX = ".safetensors"


def companion(path: Path) -> Path:
    """Where the layers are of a client.json: beside it, under its name."""
    return path.with_suffix(SUFFIX)


@dataclass(frozen=True, eq=False)
class ClientLayers:
    """The layers of a client and the bytes of their file.

    nodes    as a model file holds them, in order, without fields that have their default; the first is the input
    tensors  by name, float64
    """

    data: bytes
    nodes: tuple[Mapping[str, Any], ...]
    tensors: Tensors

    @property
    def sha256(self) -> str:
        """Of the file's bytes, hexadecimal: by it `client.json` names them."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def numbers(self) -> int:
        """How many numbers a client learns of the network."""
        return sum(array.size for array in self.tensors.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClientLayers) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __call__(self, x: F64) -> F64:
        """The output of the last layer for a batch of normalised inputs, (B, ...).

        Raises:
            CorruptArtifactError: layers that do not fit each other.
        """
        values: dict[str, F64] = {str(self.nodes[0]["name"]): x}
        try:
            last = {name: node["name"] for node in self.nodes[1:] for name in node["inputs"]}
            for node in self.nodes[1:]:
                inputs = [values[name] for name in node["inputs"]]
                values[node["name"]] = _per_input(LAYERS[node["op"]](inputs, node, self.tensors), len(x))
                values = {name: value for name, value in values.items() if last.get(name) != node["name"]}
                require_room(sum(value.size for value in values.values()) // len(x))
            return values[self.nodes[-1]["name"]]
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
            raise CorruptArtifactError(
                f"the layers of the client do not fit each other ({str(error)[:100]}); get its files again"
            ) from None

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> ClientLayers:
        """The layers in these bytes; `name` is how errors call them.

        Raises:
            CorruptArtifactError: no model file, or operations that clients do not compute.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load as parse

        try:
            nodes = tensor_metadata(data)["graph"]["nodes"]
            unknown = [node["op"] for node in nodes[1:] if node["op"] not in LAYERS]
            if nodes[0]["op"] != "input" or unknown:
                raise ValueError(f"no layers for clients: {unknown[:1]}")
            for key, value in (field for node in nodes for field in node.items()):
                _check_field(key, value)
            stored = parse(data)
            if any(array.dtype != np.float32 or not array.size for array in stored.values()):
                raise ValueError("a tensor that is empty, or not of float32")
            tensors = {key: np.asarray(array, np.float64) for key, array in stored.items()}
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            reason = str(error).strip().partition("\n")[0][:100]
            raise CorruptArtifactError(f"{name}: no layers for a client ({reason}); get it again") from None
        return cls(data, tuple(nodes), tensors)

    @classmethod
    def load(cls, path: Path) -> ClientLayers:
        """The layers in a file.

        Raises:
            InputError: there is none.
            CorruptArtifactError: see `from_bytes`.
        """
        try:
            data = read_small(path, MAX_BYTES, "the layers of a client")
        except FileNotFoundError:
            raise InputError(
                f"{shown(path)}: no such file; it has the first layers, which the client computes, and goes where "
                "its client.json goes"
            ) from None
        return cls.from_bytes(data, shown(path))


def _check_field(key: str, value: Any) -> None:
    """Raises ValueError where a number is expected and something else would be repeated or broadcast by it."""
    if key in SIZES:
        fits = all(isinstance(number, int) for number in (value if isinstance(value, list) else [value]))
    else:
        fits = key == "inputs" or not isinstance(value, list | dict)
    if not fits:
        raise ValueError(f"{key} is {str(value)[:40]}")


def _per_input(values: F64, count: int) -> F64:
    """A layer's result, where it has something of every input. Raises ValueError."""
    if values.ndim < 2 or len(values) != count:
        raise ValueError(f"values of shape {values.shape} for {count} inputs")
    return values
