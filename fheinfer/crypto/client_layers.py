"""The first layers of a network in clear, where a client computes them before it encrypts (a split model).

They are in `client.safetensors`, a model file beside `client.json`, which names it by its hash. A client reads it by
this module alone: numpy, float64, and the operations of `LAYERS`; docs/formats.md has the file in prose.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.errors import CorruptArtifactError, InputError
from fheinfer.storage import read_small, shown
from fheinfer.tensor_file import tensor_metadata

F64 = NDArray[np.float64]
Tensors = Mapping[str, F64]
MAX_BYTES = 1 << 30
MAX_PADDED = 1 << 26
"""Values of an image with its padding: few bytes of a file could ask for any memory."""
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
            for node in self.nodes[1:]:
                inputs = [values[name] for name in node["inputs"]]
                values[str(node["name"])] = LAYERS[node["op"]](inputs, node, self.tensors)
            return values[str(self.nodes[-1]["name"])]
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
            tensors = {key: np.asarray(value, np.float64) for key, value in parse(data).items()}
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


Layer = Callable[[Sequence[F64], Mapping[str, Any], Tensors], F64]


def _conv2d(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    weight, groups = tensors[node["weight"]], node.get("groups", 1)
    windows = _windows(inputs[0], node, 0.0)  # (B, C, H, W, kh, kw)
    batch, channels, height, width, *_ = windows.shape
    parts = windows.reshape(batch, groups, channels // groups, height, width, *weight.shape[2:])
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.einsum("bgchwij,gocij->bgohw", parts, kernels, optimize=True).reshape(batch, -1, height, width)
    return y + tensors[node["bias"]][:, None, None] if node.get("bias") else np.asarray(y)


def _pair(value: int | Sequence[int], size: int = 2) -> Sequence[int]:
    """As files have it: one number where all are alike."""
    return (value,) * size if isinstance(value, int) else value


def _windows(x: F64, node: Mapping[str, Any], fill: float) -> F64:
    """(B, C, H', W', kernel height, kernel width)."""
    (kh, kw), (sy, sx), dilation = (_pair(node.get(name, 1)) for name in ("kernel", "stride", "dilation"))
    top, bottom, left, right = _pair(node.get("padding", 0), 4)
    height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
    if x.shape[1] * height * width > MAX_PADDED:
        raise ValueError(f"an image of {x.shape[1]} x {height} x {width} with its padding")
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    span = (dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1)
    seen = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))
    return np.asarray(seen[:, :, ::sy, ::sx, :: dilation[0], :: dilation[1]])


def _linear(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    y = inputs[0].reshape(len(inputs[0]), -1) @ tensors[node["weight"]].T
    return y + tensors[node["bias"]] if node.get("bias") else np.asarray(y)


def _batch_norm(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    x, shape = inputs[0], (-1, *[1] * (inputs[0].ndim - 2))
    weight, bias, mean, var = (tensors[node[role]].reshape(shape) for role in ("weight", "bias", "mean", "var"))
    return np.asarray((x - mean) / np.sqrt(var + node["eps"]) * weight + bias)


def _max_pool(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    return np.asarray(_windows(inputs[0], node, -math.inf).max((4, 5)))


def _mean_pool(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    y = _windows(inputs[0], node, 0.0).mean((4, 5))
    if node.get("count_include_pad", True):
        return np.asarray(y)
    return np.asarray(y / _windows(np.ones_like(inputs[0]), node, 0.0).mean((4, 5)))


def _prelu(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    x = inputs[0]
    slope = tensors[node["weight"]].reshape(-1, *[1] * (x.ndim - 2))
    return np.where(x > 0, x, slope * x)


def _sigmoid(x: F64) -> F64:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _softplus(x: F64, beta: float = 1.0) -> F64:
    return np.asarray(np.logaddexp(0, beta * x) / beta)


def _softplus_of(x: F64, beta: float, threshold: float) -> F64:
    return np.where(beta * x > threshold, x, _softplus(x, beta))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: F64, node: Mapping[str, Any]) -> F64:
    if node.get("approximate") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _of(function: Callable[[F64, Mapping[str, Any]], F64]) -> Layer:
    return lambda inputs, node, tensors: np.asarray(function(inputs[0], node), np.float64)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

LAYERS: Mapping[str, Layer] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "max_pool": _max_pool,
    "mean_pool": _mean_pool,
    "prelu": _prelu,
    "avg_pool": _of(lambda x, node: x.mean((2, 3))),
    "add": lambda inputs, node, tensors: inputs[0] + inputs[1],
    "subtract": lambda inputs, node, tensors: inputs[0] - inputs[1],
    "product": lambda inputs, node, tensors: inputs[0] * inputs[1],
    "multiply_constant": lambda inputs, node, tensors: inputs[0] * tensors[node["value"]],
    "add_constant": lambda inputs, node, tensors: inputs[0] + tensors[node["value"]],
    "reshape": _of(lambda x, node: x.reshape(len(x), *node["shape"])),
    "permute": _of(lambda x, node: x.transpose(0, *(axis + 1 for axis in node["order"]))),
    "relu": _of(lambda x, node: np.maximum(x, 0)),
    "clip": _of(lambda x, node: np.clip(x, node["low"], node["high"])),
    "leaky_relu": _of(lambda x, node: np.where(x > 0, x, node.get("slope", 0.01) * x)),
    "elu": _of(lambda x, node: np.where(x > 0, x, node.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)))),
    "selu": _of(lambda x, node: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))),
    "silu": _of(lambda x, node: x * _sigmoid(x)),
    "gelu": _of(_gelu),
    "hardswish": _of(lambda x, node: x * np.clip(x + 3, 0, 6) / 6),
    "hardsigmoid": _of(lambda x, node: np.clip(x + 3, 0, 6) / 6),
    "sigmoid": _of(lambda x, node: _sigmoid(x)),
    "tanh": _of(lambda x, node: np.tanh(x)),
    "softplus": _of(lambda x, node: _softplus_of(x, node.get("beta", 1.0), node.get("threshold", 20.0))),
    "mish": _of(lambda x, node: x * np.tanh(_softplus(x))),
    "abs": _of(lambda x, node: np.abs(x)),
    "power": _of(lambda x, node: x ** node["exponent"]),
}
"""What a client computes, by the name of the operation in a model file."""
