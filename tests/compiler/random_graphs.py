"""Random small graphs of all operations, for tests of passes and of packing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Invalid, Op, Shape

Draw = Any
"""`st.DrawFn`, or the method of the same kind that `st.data` gives."""
Maker = Callable[[Draw, str, Shape], Op]
"""Makes an operation of a name on a value of a shape."""


def pair(draw: Draw, low: int, high: int) -> tuple[int, int]:
    return draw(st.integers(low, high)), draw(st.integers(low, high))


def conv(draw: Draw, name: str, shape: Shape) -> Op:
    groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
    out = groups * draw(st.integers(1, 3))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    bias = draw(st.sampled_from([None, f"{name}.bias"]))
    kernel, stride, dilation = pair(draw, 1, 3), pair(draw, 1, 2), pair(draw, 1, 2)
    return ops.Conv2d(out, kernel, stride, padding, f"{name}.weight", bias, dilation, groups)


def transposed(draw: Draw, name: str, shape: Shape) -> Op:
    groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
    out = groups * draw(st.integers(1, 2))
    padding = tuple(draw(st.integers(0, 1)) for _ in range(4))
    bias = draw(st.sampled_from([None, f"{name}.bias"]))
    return ops.ConvTranspose2d(out, pair(draw, 1, 3), pair(draw, 1, 2), padding, f"{name}.weight", bias, 1, groups)


def mean_pool(draw: Draw, name: str, shape: Shape) -> Op:
    kernel = pair(draw, 1, 3)
    padding = tuple(draw(st.integers(0, size - 1)) for size in kernel for _ in range(2))
    return ops.MeanPool(kernel, pair(draw, 1, 3), padding, draw(st.booleans()))


def linear(draw: Draw, name: str, shape: Shape) -> Op:
    return ops.Linear(draw(st.integers(1, 6)), f"{name}.weight", draw(st.sampled_from([None, f"{name}.bias"])))


def batch_norm(draw: Draw, name: str, shape: Shape) -> Op:
    return ops.BatchNorm(1e-5, *(f"{name}.{role}" for role in ("weight", "bias", "mean", "var")))


def constant(draw: Draw, name: str, shape: Shape) -> Op:
    forms = [(1,) * len(shape), (shape[0],) + (1,) * (len(shape) - 1), shape]
    shape = draw(st.sampled_from(forms))
    value = f"{name}.value"
    return ops.MultiplyConstant(value, shape) if draw(st.booleans()) else ops.AddConstant(value, shape)


def reduce(draw: Draw, name: str, shape: Shape) -> Op:
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return ops.Reduce(tuple(sorted(axes)), draw(st.booleans()), draw(st.booleans()))


def resample(draw: Draw, name: str, shape: Shape) -> Op:
    gain = draw(st.sampled_from([None, f"{name}.gain"]))
    return ops.Resample(pair(draw, 1, 6), f"{name}.rows", f"{name}.columns", gain)


def reshape(draw: Draw, name: str, shape: Shape) -> Op:
    size = 1
    for length in shape:
        size *= length
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    first = draw(st.sampled_from(divisors))
    second = draw(st.sampled_from([d for d in divisors if (size // first) % d == 0]))
    return ops.Reshape(
        draw(st.sampled_from([(size,), (first, size // first), (first, second, size // first // second)]))
    )


def permute(draw: Draw, name: str, shape: Shape) -> Op:
    return ops.Permute(tuple(draw(st.permutations(range(len(shape))))))


def slice_(draw: Draw, name: str, shape: Shape) -> Op:
    axis = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, shape[axis] - 1))
    return ops.Slice(axis, start, draw(st.integers(start + 1, shape[axis])), draw(st.integers(1, 2)))


def expand(draw: Draw, name: str, shape: Shape) -> Op:
    return ops.Expand(tuple(draw(st.integers(1, 3)) if size == 1 else size for size in shape))


def pad(draw: Draw, name: str, shape: Shape) -> Op:
    return ops.Pad(tuple(draw(st.sampled_from([0, 0, 1, 2])) for _ in range(2 * len(shape))))


def herpn(draw: Draw, name: str, shape: Shape) -> Op:
    return ops.HerPN(1e-5, *(f"{name}.{role}" for role in ("weight", "bias", "mean", "var")))


def plain(op: Op) -> Maker:
    return lambda draw, name, shape: op


ONE: Sequence[Maker] = (
    *(conv, conv, transposed, linear, batch_norm, batch_norm, constant, constant, mean_pool, reduce, resample),
    *(reshape, permute, slice_, expand, pad, plain(ops.GlobalAvgPool()), plain(ops.Relu()), plain(ops.Tanh())),
)
"""Makers of operations on one value; those that do not fit a shape are refused by their own check."""
TWO: Sequence[Op] = (ops.Add(), ops.Subtract(), ops.Product())
EXACT: Sequence[Maker] = (*ONE[:-2], herpn, plain(ops.Power(2)), plain(ops.Power(3)))
"""The same with activations that are polynomials: what a plan computes on slots but for rounding."""
MOST = 400
"""Numbers of a value."""


@st.composite
def graphs(draw: st.DrawFn, longest: int = 8, makers: Sequence[Maker] = ONE) -> Graph:
    """A graph of up to that many operations, some of which read values that others read, too; one or two outputs."""
    channels, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    entry = draw(st.sampled_from([(channels, height, width)] * 3 + [(channels, height), (channels * 2,)]))
    nodes, shapes = [Node("input", ops.Input(entry))], {"input": entry}
    for i in range(draw(st.integers(1, longest))):
        name, x = f"n{i}", draw(st.sampled_from([*shapes, *[nodes[-1].name] * (2 * len(shapes))]))
        alike = [other for other in shapes if shapes[other] == shapes[x] and other != x]
        op: Op
        if alike and draw(st.integers(0, 2)) == 0:
            op, inputs = draw(st.sampled_from(TWO)), tuple(draw(st.permutations([x, draw(st.sampled_from(alike))])))
        elif len(alike) > 1 and draw(st.integers(0, 3)) == 0:
            inputs = (x, *alike[:2])
            op = ops.Concat(draw(st.integers(0, len(shapes[x]) - 1)), len(inputs))
        else:
            op, inputs = draw(st.sampled_from(makers))(draw, name, shapes[x]), (x,)
        try:
            op.check([shapes[n] for n in inputs])
        except Invalid:
            continue
        shape = op.infer([shapes[n] for n in inputs])
        size = 1
        for length in shape:
            size *= length
        if size <= MOST and min(shape) > 0:
            nodes.append(Node(name, op, inputs))
            shapes[name] = shape
    outputs: tuple[str, ...] = (nodes[-1].name,)
    if len(nodes) > 2 and draw(st.integers(0, 4)) == 0:
        outputs = (nodes[draw(st.integers(1, len(nodes) - 2))].name, *outputs)
    return Graph("random", tuple(_needed(nodes, outputs)), outputs)


def _needed(nodes: list[Node], outputs: tuple[str, ...]) -> list[Node]:
    needed = {nodes[0].name, *outputs}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return [node for node in nodes if node.name in needed]
