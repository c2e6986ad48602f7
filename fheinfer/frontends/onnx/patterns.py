"""Activations that exporters write as several operations, told by what they compute.

A chain of operations on one value with scalar constants is a function of one number. It is evaluated on a grid and
compared with the activations that are known, so that it does not matter how an exporter spells GELU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from fheinfer.frontends.translation import Array

MAX_CHAIN = 16
"""Operations that one activation may be spelt with."""
TOLERANCE = 5e-5
"""Of a value, or of 1 where that is larger; GELU and its form by tanh are 5e-4 apart."""
GRID = np.concatenate([[-1000.0, -100.0, -30.0], np.linspace(-12, 12, 193), [30.0, 100.0, 1000.0]])
_NEAR = np.abs(GRID) <= 12


def _erf(x: Array) -> Array:
    values: Array = np.array([math.erf(value) for value in x.ravel()], np.float64).reshape(x.shape)
    return values


def _sigmoid(x: Array) -> Array:
    return np.asarray((1 + np.tanh(x / 2)) / 2)


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0, x))


def _clip(node: onnx.NodeProto, x: Array, low: Any = None, high: Any = None) -> Array:
    low = _attribute(node, "min", -math.inf) if low is None else low
    high = _attribute(node, "max", math.inf) if high is None else high
    return np.asarray(np.minimum(np.maximum(x, low), high))


def _hard_sigmoid(node: onnx.NodeProto, x: Array) -> Array:
    return np.clip(_attribute(node, "alpha", 0.2) * x + _attribute(node, "beta", 0.5), 0, 1)


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "Abs": lambda node, a: np.abs(a),
    "Add": lambda node, a, b: a + b,
    "Cast": lambda node, a: a,
    "CastLike": lambda node, a, b: a,
    "Clip": _clip,
    "Div": lambda node, a, b: a / b,
    "Erf": lambda node, a: _erf(np.asarray(a)),
    "Elu": lambda node, a: np.where(a > 0, a, _attribute(node, "alpha", 1.0) * np.expm1(np.minimum(a, 0))),
    "Exp": lambda node, a: np.exp(a),
    "Greater": lambda node, a, b: a > b,
    "GreaterOrEqual": lambda node, a, b: a >= b,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda node, a: a,
    "Less": lambda node, a, b: a < b,
    "LessOrEqual": lambda node, a, b: a <= b,
    "Log": lambda node, a: np.log(a),
    "Max": lambda node, *a: np.maximum.reduce(np.broadcast_arrays(*a)),
    "Min": lambda node, *a: np.minimum.reduce(np.broadcast_arrays(*a)),
    "Mul": lambda node, a, b: a * b,
    "Neg": lambda node, a: -a,
    "Pow": lambda node, a, b: np.power(a, b),
    "Reciprocal": lambda node, a: 1 / a,
    "Relu": lambda node, a: np.maximum(a, 0),
    "Sigmoid": lambda node, a: _sigmoid(a),
    "Softplus": lambda node, a: _softplus(a),
    "Sub": lambda node, a, b: a - b,
    "Sum": lambda node, *a: sum(a[1:], start=a[0]),
    "Tanh": lambda node, a: np.tanh(a),
    "Where": lambda node, a, b, c: np.asarray(np.where(a, b, c)),
}
_CURVED = {
    *("Abs", "Clip", "Elu", "Erf", "Exp", "HardSigmoid", "Log", "Max", "Min", "Relu", "Sigmoid", "Softplus", "Tanh"),
    "Where",
}

_KNOWN: tuple[tuple[str, dict[str, Any], Array], ...] = (
    ("Swish", {}, GRID * _sigmoid(GRID)),
    ("Swish", {"alpha": 1.702}, GRID * _sigmoid(1.702 * GRID)),
    ("Gelu", {}, GRID * (1 + _erf(GRID / math.sqrt(2))) / 2),
    (
        "Gelu",
        {"approximate": "tanh"},
        GRID * (1 + np.tanh(math.sqrt(2 / math.pi) * (GRID + 0.044715 * GRID**3))) / 2,
    ),
    ("HardSwish", {}, GRID * np.clip(GRID / 6 + 0.5, 0, 1)),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, np.clip(GRID / 6 + 0.5, 0, 1)),
    ("Mish", {}, GRID * np.tanh(_softplus(GRID))),
    ("Softplus", {}, _softplus(GRID)),
    ("Sigmoid", {}, _sigmoid(GRID)),
)


def fuse(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, Array], outputs: Iterable[str]
) -> tuple[onnx.NodeProto, ...]:
    """The nodes with such chains replaced by one operation each, and without those that nothing needs any more.

    `constants` gets a scalar for each activation that is scaled.
    """
    producers = {name: node for node in nodes for name in node.output if name}
    sources = _sources(nodes, constants)
    wanted: set[str] = set(outputs)
    result: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if not wanted & set(node.output):
            continue
        fused = _fused(node, sources, producers, constants) or (node,)
        result += fused[::-1]
        wanted |= {name for part in fused for name in (*part.input, *_captured(part))}
    return tuple(reversed(result))


def _captured(node: onnx.NodeProto) -> set[str]:
    """Values of the outer graph that graphs in the attributes of a node read."""
    graphs = [graph for a in node.attribute for graph in (a.g, *a.graphs)]
    return {
        name
        for graph in graphs
        for name in (
            *(name for inner in graph.node for name in (*inner.input, *_captured(inner))),
            *(output.name for output in graph.output),
        )
    }


def _sources(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array]) -> dict[str, dict[str, frozenset[str]]]:
    """Value -> a value it is a function of -> the values between them."""
    found: dict[str, dict[str, frozenset[str]]] = {}
    for node in nodes:
        if node.op_type not in _FUNCTIONS or node.domain or len(node.output) != 1:
            continue
        read = [name for name in node.input if name]
        scalars = {name for name in read if name in constants and constants[name].size == 1}
        data = dict.fromkeys(name for name in read if name not in constants)
        if len(scalars) + sum(name in data for name in read) != len(read) or not data:
            continue
        options = [{name: frozenset[str]()} | found.get(name, {}) for name in data]
        shared = set.intersection(*(set(option) for option in options))
        chains = {s: frozenset.union(*(o[s] for o in options)) | {node.output[0]} for s in shared}
        found[node.output[0]] = {s: chain for s, chain in chains.items() if len(chain) <= MAX_CHAIN}
    return found


def _fused(
    node: onnx.NodeProto,
    sources: Mapping[str, Mapping[str, frozenset[str]]],
    producers: Mapping[str, onnx.NodeProto],
    constants: dict[str, Array],
) -> tuple[onnx.NodeProto, ...] | None:
    """One operation, and a product where it is scaled, in place of the chain that ends in a node."""
    for source, chain in sources.get(node.output[0], {}).items():
        if len(chain) < 2 or not any(producers[name].op_type in _CURVED for name in chain):
            continue
        with np.errstate(all="ignore"):
            values = _evaluate(node.output[0], {source: GRID}, producers, constants)
        if not np.isfinite(values[_NEAR]).all():
            continue
        for kind, attributes, known in (*_KNOWN, *_fitted(values)):
            factor = _factor(values, known)
            if factor is not None:
                return _written(node, source, kind, attributes, factor, constants)
    return None


def _fitted(values: Array) -> tuple[tuple[str, dict[str, Any], Array], ...]:
    """Activations with parameters, which two values of the function would be those of."""
    low, high = float(values[_NEAR][0]), float(values[_NEAR][-1])
    x, unit = GRID, high / 12 if high > 0 else 1.0  # what the function is times, where it is x far to the right
    slope, scale = -low / 12 / unit, low / math.expm1(-12) / unit
    fits: list[tuple[str, dict[str, Any], Array]] = [("Relu", {}, np.maximum(x, 0))]
    if 0 < slope < 1:
        fits.append(("LeakyRelu", {"alpha": slope}, np.where(x > 0, x, slope * x)))
    if 0 < scale < 12:
        fits.append(("Elu", {"alpha": scale}, np.where(x > 0, x, scale * np.expm1(np.minimum(x, 0)))))
    if -12 < low < high < 12:
        fits.append(("Clip", {"min": low, "max": high}, np.clip(x, low, high)))
    return tuple(fits)


def _evaluate(
    name: str, values: dict[str, Array], producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, Array]
) -> Array:
    if name in constants:
        return constants[name].astype(np.float64).reshape(())
    if name not in values:
        node = producers[name]
        inputs = [_evaluate(part, values, producers, constants) if part else None for part in node.input]
        values[name] = np.broadcast_to(_FUNCTIONS[node.op_type](node, *inputs), GRID.shape)
    return values[name]


def _factor(values: Array, known: Array) -> float | None:
    """c where the values are c times a known function; far out, where the spelling overflows, nothing is compared."""
    place = int(np.argmax(np.abs(known) * _NEAR))
    factor = float(values[place] / known[place])
    if not math.isfinite(factor) or abs(factor) < 1e-3:
        return None
    factor = 1.0 if abs(factor - 1) < 1e-5 else factor
    counted = _NEAR | np.isfinite(values)
    close = np.abs(values[counted] / factor - known[counted]) <= TOLERANCE * np.maximum(1, np.abs(known[counted]))
    return factor if close.all() else None


def _written(
    node: onnx.NodeProto,
    source: str,
    kind: str,
    attributes: Mapping[str, Any],
    factor: float,
    constants: dict[str, Array],
) -> tuple[onnx.NodeProto, ...]:
    out = node.output[0]
    if factor == 1:
        return (onnx.helper.make_node(kind, [source], [out], node.name, **attributes),)
    inner, scalar = f"{out}::{kind}", f"{out}::factor"
    constants[scalar] = np.asarray(factor)
    first = onnx.helper.make_node(kind, [source], [inner], f"{node.name or out}.{kind}", **attributes)
    return first, onnx.helper.make_node("Mul", [inner, scalar], [out], node.name)


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((float(a.f) for a in node.attribute if a.name == name), default)
