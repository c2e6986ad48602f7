"""Average pools become depthwise convolutions; so does resampling that is one.

x ; mean_pool k, stride s                            =>   x ; conv k, stride s, of each channel, all weights 1 / k^2
x ; mean_pool of all pixels                          =>   x ; sum_pool ; multiply_constant ; reshape
x ; mean_pool, padded, without counting the padding  =>   x ; resample (rows, columns)
x ; resample whose rows are moved copies of one      =>   x ; conv of each channel (an even adaptive pool)

A window that does not count its padding has another weight at the border than inside: no convolution does that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.passes.lower_reductions import global_mean
from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.compiler.windows import Window
from fheinfer.model.graph import Node
from fheinfer.model.ops import Conv2d, MeanPool, Resample

F64 = NDArray[np.float64]


def lower_pools(program: Program) -> Program:
    """Replaces every mean pool, and every resampling that a convolution or a sum does as well."""
    r = Rewriter(program)
    for node in r:
        if isinstance(node.op, MeanPool):
            _mean_pool(r, node, node.op)
        elif isinstance(node.op, Resample):
            _resample(r, node, node.op)
    return r.finish()


def _mean_pool(r: Rewriter, node: Node, pool: MeanPool) -> None:
    channels, *size = r.shapes[node.inputs[0]]
    if pool.kernel == tuple(size) and not any(pool.padding):
        global_mean(r, node, node.inputs[0], factor=1 / (size[0] * size[1]))
    elif pool.count_include_pad or not any(pool.padding):
        weight = np.full((channels, 1, *pool.kernel), 1 / (pool.kernel[0] * pool.kernel[1]))
        name = r.constant(f"{node.name}/weight", weight)
        conv = Conv2d(channels, pool.kernel, pool.stride, pool.padding, name, groups=channels)
        r.turn(node, conv, node.inputs[0])
    else:
        _, *out = r.shapes[node.name]
        pads = pool.padding[0], pool.padding[2]
        rows, columns = (_means(*axis) for axis in zip(size, out, pool.kernel, pool.stride, pads, strict=True))
        names = r.constant(f"{node.name}/rows", rows), r.constant(f"{node.name}/columns", columns)
        op = Resample((out[0], out[1]), *names)
        r.turn(node, op, node.inputs[0])
        _resample(r, node, op)  # windows may be alike after all


def _means(size: int, out: int, kernel: int, stride: int, padding: int) -> F64:
    """(out, size): the mean of the entries that each window has inside."""
    offset = np.arange(size) - stride * np.arange(out)[:, None] + padding
    inside = (offset >= 0) & (offset < kernel)
    return np.asarray(inside / inside.sum(axis=1, keepdims=True), np.float64)


def _resample(r: Rewriter, node: Node, op: Resample) -> None:
    channels, *size = r.shapes[node.inputs[0]]
    rows, columns = r.constants[op.rows], r.constants[op.columns]
    if op.size == (1, 1) and op.gain is None and np.ptp(rows) == np.ptp(columns) == 0:
        global_mean(r, node, node.inputs[0], factor=float(rows[0, 0] * columns[0, 0]))
        return
    vertical, horizontal = moved_copies(rows), moved_copies(columns)
    if vertical is None or horizontal is None:
        return
    (row, by_row), (column, by_column) = vertical, horizontal
    sides = row.padding(size[0], op.size[0]), column.padding(size[1], op.size[1])
    if sides[0] is None or sides[1] is None:
        return
    gain = r.constants[op.gain] if op.gain else np.ones(channels)
    weight = r.constant(f"{node.name}/weight", gain[:, None, None, None] * np.outer(by_row, by_column))
    kernel, stride, padding = (row.count, column.count), (row.stride, column.stride), (*sides[0], *sides[1])
    r.turn(node, Conv2d(channels, kernel, stride, padding, weight, groups=channels), node.inputs[0])


def moved_copies(matrix: F64) -> tuple[Window, F64] | None:
    """The window and its weights if every row of a matrix (out, size) is the one before, moved by as many entries as
    the stride; None if not, or if the window is larger than twice that."""
    out, size = matrix.shape
    for stride in sorted({1, size // out, -(-size // out)} - {0}, reverse=True):
        offsets = np.arange(size) - stride * np.arange(out)[:, None]
        base = int(offsets.min())
        used = np.unique(offsets[matrix != 0]) - base
        if not len(used) or used[-1] - used[0] + 1 > 2 * stride:
            continue
        weights = np.zeros(int(offsets.max()) - base + 1)
        weights[offsets - base] = matrix
        if np.allclose(weights[offsets - base], matrix, rtol=1e-12, atol=0):
            return Window(int(used[0]) + base, 1, int(used[-1] - used[0]) + 1, stride), weights[used[0] : used[-1] + 1]
    return None
