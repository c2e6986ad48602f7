"""The operations of a network in numpy, for the layers that a client computes in clear.

One function for each kind of operation of a model file: float64, batches (B, ...), fields by their names in the file
and those at their default omitted. They mean what `model.ops` says, which is what tests compare them with; a client
loads no model. What a function takes beyond a few copies of its inputs, and how often it goes through them, it bounds
first: few bytes of a file could ask for any memory, and for any time. Errors are those of Python and numpy;
`ClientLayers` reports them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Tensors = Mapping[str, F64]
Layer = Callable[[Sequence[F64], Mapping[str, Any], Tensors], F64]
MAX_VALUES = 1 << 26
"""Values that may be there at once, of one input."""
MAX_WINDOWS = 1 << 34
"""Values in all windows of a layer, of one input: those of 7 x 7 over 512 channels of 224 x 224 are 2^30."""
MAX_PRODUCTS = 1 << 40
"""Products of a convolution, of one input: those of 7 x 7 from 512 channels of 224 x 224 to as many are 2^39."""
MAX_COPIED = 1 << 22
"""Values of windows that a convolution copies at once, where a row has no more."""

SIZES = frozenset(
    ("kernel", "stride", "padding", "dilation", "output_padding", "size", "shape", "order", "axes", "sides", "degrees")
)
"""Fields of one whole number or several."""


def require_room(*shape: int) -> None:
    """Raises ValueError for more values than there may be."""
    _require_at_most(MAX_VALUES, "values", shape)


def _require_at_most(most: int, what: str, factors: Sequence[int]) -> None:
    if math.prod(factors) > most:
        raise ValueError(f"{' x '.join(map(str, factors))} {what}, more than the {most} that there may be")


def _pair(value: int | Sequence[int], size: int = 2) -> Sequence[int]:
    """As files have it: one number where all are alike."""
    return (value,) * size if isinstance(value, int) else value


def _per_channel(values: F64, x: F64) -> F64:
    if values.size not in (1, x.shape[1]):
        raise ValueError(f"{values.size} numbers for {x.shape[1]} channels")
    return values.reshape(-1, *[1] * (x.ndim - 2))


def _biased(y: F64, node: Mapping[str, Any], tensors: Tensors) -> F64:
    return np.asarray(y + _per_channel(tensors[node["bias"]], y) if node.get("bias") else y)


def _windows(x: F64, node: Mapping[str, Any], fill: float) -> F64:
    """(B, C, H', W', kernel height, kernel width): a view of the padded images."""
    (kh, kw), (sy, sx), dilation = (_pair(node.get(name, 1)) for name in ("kernel", "stride", "dilation"))
    top, bottom, left, right = _pair(node.get("padding", 0), 4)
    require_room(x.shape[1], x.shape[2] + top + bottom, x.shape[3] + left + right)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    span = (dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1)
    seen = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))
    windows = seen[:, :, ::sy, ::sx, :: dilation[0], :: dilation[1]]
    _require_at_most(MAX_WINDOWS, "values in windows", windows.shape[1:])
    return np.asarray(windows)


def _conv2d(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    """Some rows at a time: a product of matrices copies their windows, which overlap."""
    weight, groups = tensors[node["weight"]], node.get("groups", 1)
    windows = _windows(inputs[0], node, 0.0)
    batch, channels, height, width, *kernel = windows.shape
    require_room(len(weight), height, width)
    _require_at_most(MAX_PRODUCTS, "products", (len(weight), height, width, channels // groups, *kernel))
    row = math.prod((channels, width, *kernel))
    require_room(row)
    parts = windows.reshape(batch, groups, channels // groups, height, width, *kernel)
    kernels = weight.reshape(groups, len(weight) // groups, channels // groups, *kernel)
    y = np.empty((batch, groups, len(weight) // groups, height, width))
    step = max(1, MAX_COPIED // row)
    for at in range(0, height, step):
        rows = slice(at, at + step)
        y[:, :, :, rows] = np.einsum("bgchwij,gocij->bgohw", parts[:, :, :, rows], kernels, optimize=True)
    return _biased(y.reshape(batch, -1, height, width), node, tensors)


def _conv_transpose2d(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    """Every entry of the kernel adds to every stride-th pixel of the output."""
    x, weight, groups = inputs[0], tensors[node["weight"]], node.get("groups", 1)
    (sy, sx), (dy, dx), added = (
        _pair(node.get(name, least)) for name, least in (("stride", 1), ("dilation", 1), ("output_padding", 0))
    )
    batch, channels, height, width = x.shape
    _, outputs, kh, kw = weight.shape
    rows, columns = (height - 1) * sy + 1, (width - 1) * sx + 1
    full = (groups * outputs, rows + dy * (kh - 1) + added[0], columns + dx * (kw - 1) + added[1])
    require_room(*full)
    _require_at_most(MAX_PRODUCTS, "products", (channels, height, width, outputs, kh, kw))
    y = np.zeros((batch, *full))
    kernels = weight.reshape(groups, channels // groups, outputs, kh, kw).swapaxes(1, 2)
    parts = x.reshape(batch, groups, channels // groups, height * width)
    for i, j in np.ndindex(kh, kw):
        part = (kernels[..., i, j] @ parts).reshape(batch, -1, height, width)
        y[:, :, i * dy : i * dy + rows : sy, j * dx : j * dx + columns : sx] += part
    top, bottom, left, right = _pair(node.get("padding", 0), 4)
    return _biased(y[:, :, top : full[1] - bottom, left : full[2] - right], node, tensors)


def _linear(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    weight = tensors[node["weight"]]
    if weight.ndim != 2:
        raise ValueError(f"a linear layer's weights of shape {weight.shape}")
    return _biased(inputs[0].reshape(len(inputs[0]), -1) @ weight.T, node, tensors)


def _resample(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    x, rows, columns = inputs[0], tensors[node["rows"]], tensors[node["columns"]]
    (_, channels, _, before), (height, _), (width, _) = x.shape, rows.shape, columns.shape
    require_room(channels, height, max(before, width))
    y = np.asarray(rows @ x @ columns.T)
    return y * _per_channel(tensors[node["gain"]], y) if node.get("gain") else y


def _batch_norm(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    x = inputs[0]
    weight, bias, mean, var = (_per_channel(tensors[node[role]], x) for role in ("weight", "bias", "mean", "var"))
    return np.asarray((x - mean) / np.sqrt(var + node["eps"]) * weight + bias)


def _max_pool(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    return np.asarray(_windows(inputs[0], node, -math.inf).max((4, 5)))


def _mean_pool(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    y = _windows(inputs[0], node, 0.0).mean((4, 5))
    if node.get("count_include_pad", True):
        return np.asarray(y)
    return np.asarray(y / _windows(np.ones_like(inputs[0]), node, 0.0).mean((4, 5)))


def _reduce(x: F64, node: Mapping[str, Any]) -> F64:
    axes, keepdims = tuple(axis + 1 for axis in node["axes"]), node.get("keepdims", False)
    y = x.mean(axes, keepdims=keepdims) if node["mean"] else x.sum(axes, keepdims=keepdims)
    return np.asarray(y if y.ndim > 1 else y[:, None])


def _pad(x: F64, node: Mapping[str, Any]) -> F64:
    sides = [tuple(node["sides"][2 * axis : 2 * axis + 2]) for axis in range(x.ndim - 1)]
    require_room(*(size + sum(pair) for size, pair in zip(x.shape[1:], sides, strict=True)))
    return np.pad(x, [(0, 0), *sides])


def _slice(x: F64, node: Mapping[str, Any]) -> F64:
    axis, entries = node["axis"], slice(node["start"], node["stop"], node.get("step", 1))
    if not 0 <= axis < x.ndim - 1:
        raise ValueError(f"axis {axis} of values of shape {x.shape[1:]}")
    return np.asarray(x[(slice(None),) * (axis + 1) + (entries,)])


def _expand(x: F64, node: Mapping[str, Any]) -> F64:
    require_room(*node["shape"])
    return np.broadcast_to(x, (len(x), *node["shape"]))


def _concat(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    require_room(sum(math.prod(x.shape[1:]) for x in inputs))
    return np.concatenate(inputs, node["axis"] + 1)


def _two(operation: Callable[[F64, F64], F64]) -> Layer:
    """Of two values of one shape, or of a value and a constant that repeats along its axes."""

    def layer(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
        x, y = inputs if len(inputs) == 2 else (inputs[0], tensors[node["value"]])
        if np.broadcast_shapes(x.shape, y.shape) != x.shape:
            raise ValueError(f"values of the shapes {x.shape} and {y.shape}")
        return operation(x, y)

    return layer


def _prelu(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    return np.where(inputs[0] > 0, inputs[0], _per_channel(tensors[node["weight"]], inputs[0]) * inputs[0])


def _herpn(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    x = inputs[0]
    mean, var = tensors[node["mean"]], tensors[node["var"]]
    y = np.zeros_like(x)
    for i, (factor, h) in enumerate(((0.5, x), (1 / math.sqrt(4 * math.pi), (x * x - 1) / math.sqrt(2)))):
        y += factor * (h - _per_channel(mean[i], x)) / np.sqrt(_per_channel(var[i], x) + node["eps"])
    return y * _per_channel(tensors[node["weight"]], x) + _per_channel(tensors[node["bias"]], x)


def _paf(inputs: Sequence[F64], node: Mapping[str, Any], tensors: Tensors) -> F64:
    x, at, all_of_them = inputs[0], 0, tensors[node["coefficients"]]
    lengths = [(degree + 1) // 2 for degree in node["degrees"]]
    if min(lengths) < 1 or all_of_them.shape != (sum(lengths),):
        raise ValueError(f"coefficients of shape {all_of_them.shape} for degrees {str(node['degrees'])[:40]}")
    s = x / tensors[node["scale"]].item()
    for length in lengths:
        s, at = s * np.polynomial.polynomial.polyval(s * s, all_of_them[at : at + length]), at + length
    return np.asarray(0.5 * (x + x * s))


def _sigmoid(x: F64) -> F64:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _softplus(x: F64, beta: float = 1.0) -> F64:
    return np.asarray(np.logaddexp(0, beta * x) / beta)


def _softplus_of(x: F64, beta: float, threshold: float) -> F64:
    return np.where(beta * x > threshold, x, _softplus(x, beta))


def _gelu(x: F64, node: Mapping[str, Any]) -> F64:
    if node.get("approximate") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).flat), np.float64, x.size).reshape(x.shape)
    return np.asarray(0.5 * x * (1 + erf))


def _of(function: Callable[[F64, Mapping[str, Any]], F64]) -> Layer:
    return lambda inputs, node, tensors: np.asarray(function(inputs[0], node), np.float64)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

LAYERS: Mapping[str, Layer] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "resample": _resample,
    "batch_norm": _batch_norm,
    "max_pool": _max_pool,
    "mean_pool": _mean_pool,
    "prelu": _prelu,
    "herpn": _herpn,
    "paf": _paf,
    "avg_pool": _of(lambda x, node: x.mean((2, 3))),
    "reduce": _of(_reduce),
    "add": _two(np.add),
    "subtract": _two(np.subtract),
    "product": _two(np.multiply),
    "multiply_constant": _two(np.multiply),
    "add_constant": _two(np.add),
    "reshape": _of(lambda x, node: x.reshape(len(x), *node["shape"])),
    "permute": _of(lambda x, node: x.transpose(0, *(axis + 1 for axis in node["order"]))),
    "slice": _of(_slice),
    "concat": _concat,
    "expand": _of(_expand),
    "pad": _of(_pad),
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
"""What a client computes, by the name of the operation in a model file: all operations of networks."""
