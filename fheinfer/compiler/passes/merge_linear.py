"""Two linear operations in a row become one, where that has no more multiplications.

linear (A, a) ; linear (B, b)   =>   linear (B A, B a + b)
conv (A, a) ; conv (B, b)       =>   conv whose offsets are the sums of theirs (`compiler.windows`)
conv ; linear                   =>   linear
resample ; resample             =>   resample
slice of every s-th row ; conv, without padding   =>   conv of s times the stride

A convolution of one pixel of each channel by itself (a pad, a choice of pixels) becomes part of all convolutions that
read it. `merge_pools` merges average pools, which costs multiplications and saves a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.compiler.windows import dense, joined, placed, product, windows
from fheinfer.model.graph import Node
from fheinfer.model.ops import Conv2d, Linear, Resample, Shape, Slice

F64 = NDArray[np.float64]
Weighted = tuple[Conv2d, F64]
Wanted = Callable[[Weighted, Weighted, bool], bool]
"""Whether two convolutions with their weights are to become one; the flag: has that no more multiplications?"""


def merge_linear(program: Program) -> Program:
    """Merges neighbours until none is left that is cheaper as one."""
    return merged(program, lambda first, second, cheap: cheap)


def merged(program: Program, wanted: Wanted) -> Program:
    """Merges linear operations with those that read them, convolutions where they are `wanted`."""
    r = Rewriter(program)
    r.until_stable(lambda node: _into_users(r, node, wanted))
    return r.finish()


def _into_users(r: Rewriter, node: Node, wanted: Wanted) -> bool:
    """Makes a node part of all of its users, if each of them can be one operation with it."""
    if node.name in r.outputs or not isinstance(node.op, Conv2d | Linear | Resample | Slice):
        return False
    users = r.users(node.name)
    single = isinstance(node.op, Slice) or (isinstance(node.op, Conv2d) and _is_one_pixel(node.op))
    if not users or (len(users) > 1 and not single):
        return False
    made = [op for user in users if (op := _merged(r, node, user, wanted))]
    if len(made) < len(users):
        return False
    for user, op in zip(users, made, strict=True):
        r.turn(user, op(), node.inputs[0])
    return True


def _is_one_pixel(op: Conv2d) -> bool:
    return op.kernel == (1, 1) and op.groups == op.out_channels and op.bias is None


def _merged(r: Rewriter, node: Node, user: Node, wanted: Wanted) -> Callable[[], Conv2d | Linear | Resample] | None:
    match node.op, user.op:
        case Linear(), Linear():
            return _linear(r, node.op, user, user.op)
        case Resample(), Resample():
            return _resample(r, node.op, user, user.op)
        case Conv2d() | Slice(), Conv2d():
            return _conv(r, node, user, user.op, wanted)
        case Conv2d(), Linear():
            return _conv(r, node, user, user.op, wanted)
    return None


def _linear(r: Rewriter, first: Linear, user: Node, second: Linear) -> Callable[[], Conv2d | Linear] | None:
    a, b = r.constants[first.weight], r.constants[second.weight]
    if b.shape[0] * a.shape[1] > a.size + b.size:
        return None
    return lambda: _named(r, user, second, b @ a, _bias(r, b, first.bias, second.bias))


def _resample(r: Rewriter, first: Resample, user: Node, second: Resample) -> Callable[[], Resample]:
    def made() -> Resample:
        rows = r.constant(f"{user.name}/rows", r.constants[second.rows] @ r.constants[first.rows])
        columns = r.constant(f"{user.name}/columns", r.constants[second.columns] @ r.constants[first.columns])
        gains = [r.constants[op.gain] for op in (first, second) if op.gain]
        gain = r.constant(f"{user.name}/gain", np.prod(gains, axis=0)) if gains else None
        return replace(second, rows=rows, columns=columns, gain=gain)

    return made


def _conv(
    r: Rewriter, node: Node, user: Node, then: Conv2d | Linear, wanted: Wanted
) -> Callable[[], Conv2d | Linear] | None:
    """A convolution, or a slice that is one, with the convolution or linear layer after it."""
    image, middle = r.shapes[node.inputs[0]], r.shapes[node.name]
    first = _as_conv(r, node, image)
    if first is None or len(middle) != 3:
        return None
    op, w1 = first
    second, w2, out = _second(r, user.name, then, middle)
    if op.bias and any(second.padding):
        return None
    axes = zip(windows(op), windows(second), image[1:], middle[1:], out[1:], strict=True)
    rows, columns = (joined(*axis) for axis in axes)
    if rows is None or columns is None or (made := placed(second, rows, columns, image, out)) is None:
        return None
    before = w1.size * math.prod(middle[1:]) * (not isinstance(node.op, Slice)) + w2.size * math.prod(out[1:])
    least = len(w2) * image[0] * rows.count * columns.count // math.gcd(op.groups, second.groups)
    cheap = least * math.prod(out[1:]) <= before
    if not wanted((op, w1), (second, w2), cheap) or (weight := product(op, w1, second, w2, rows, columns)) is None:
        return None
    if not wanted((op, w1), (second, w2), weight[0].size * math.prod(out[1:]) <= before):
        return None
    bias = _bias(r, _row_sums(w2, second.groups), op.bias, second.bias)
    if isinstance(then, Linear):
        return lambda: _named(r, user, then, _inside(made, weight[0], image), bias)
    return lambda: _named(r, user, replace(made, groups=weight[1]), weight[0], bias)


def _as_conv(r: Rewriter, node: Node, image: Shape) -> Weighted | None:
    if isinstance(node.op, Conv2d):
        return node.op, r.constants[node.op.weight]
    op = node.op
    if not isinstance(op, Slice) or op.axis == 0 or op.start or op.step == 1 or len(image) != 3:
        return None
    stride = (op.step, 1) if op.axis == 1 else (1, op.step)
    return Conv2d(image[0], 1, stride, 0, "", groups=image[0]), np.ones((image[0], 1, 1, 1))


def _second(r: Rewriter, name: str, op: Conv2d | Linear, middle: Shape) -> tuple[Conv2d, F64, Shape]:
    """The operation that follows as a convolution, with its weight and the shape of its output."""
    if isinstance(op, Conv2d):
        return op, r.constants[op.weight], r.shapes[name]
    out = op.out_features
    conv = Conv2d(out, (middle[1], middle[2]), 1, 0, "", op.bias)
    return conv, r.constants[op.weight].reshape(out, *middle), (out, 1, 1)


def _inside(op: Conv2d, weight: F64, image: Shape) -> F64:
    """The weight of a linear layer that is a convolution with one output pixel."""
    result = np.zeros((len(weight), *image))
    places = []
    for window, size in zip(windows(op), image[1:], strict=True):
        inside = (window.offsets >= 0) & (window.offsets < size)
        places.append((np.flatnonzero(inside), window.offsets[inside]))
    (from_rows, rows), (from_columns, columns) = places
    result[:, :, rows[:, None], columns] = weight[:, :, from_rows[:, None], from_columns]
    return result.reshape(len(weight), -1)


def _row_sums(weight: F64, groups: int) -> F64:
    """(out, in): what a constant per channel becomes, away from padding."""
    return dense(weight.sum(axis=(2, 3), keepdims=True), groups)[:, :, 0, 0]


def _bias(r: Rewriter, matrix: F64, first: str | None, second: str | None) -> F64 | None:
    parts = [matrix @ r.constants[first]] if first else []
    parts += [r.constants[second]] if second else []
    return np.sum(parts, axis=0) if parts else None


def _named(r: Rewriter, user: Node, op: Conv2d | Linear, weight: F64, bias: F64 | None) -> Conv2d | Linear:
    name = r.constant(f"{user.name}/weight", weight)
    return replace(op, weight=name, bias=None if bias is None else r.constant(f"{user.name}/bias", bias))
