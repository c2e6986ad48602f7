"""A sum of two linear operations of one value is one; so is a convolution plus the value itself.

x ; a = conv (A) ; b = conv (B) ; add (a, b)       =>   x ; conv (A + B), under the sum's name
x ; a = conv (A) ; add (a, x)                      =>   x ; conv (A + I)
x ; a = linear (A) ; b = linear (B) ; add (a, b)   =>   x ; linear (A + B)

Kernels are laid over each other by their offsets; a sum that would have more of them than both together is left. It
saves an operation, and the residual blocks of networks with one convolution each become a plain chain.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.compiler.windows import grouped, placed, spread, united, windows
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, Conv2d, Linear

F64 = NDArray[np.float64]


def merge_shortcuts(program: Program) -> Program:
    """Makes one operation of a sum of two of one value, or of a convolution and what it reads."""
    r = Rewriter(program)
    for node in r:
        if isinstance(node.op, Add) and node.inputs[0] != node.inputs[1]:
            _ = _linears(r, node) or _convs(r, node)
    return r.finish()


def _linears(r: Rewriter, node: Node) -> bool:
    first, second = (r.nodes[name] for name in node.inputs)
    a, b = first.op, second.op
    if not (isinstance(a, Linear) and isinstance(b, Linear) and first.inputs == second.inputs):
        return False
    if not (r.is_private(first.name) and r.is_private(second.name)):
        return False
    weight = r.constant(f"{node.name}/weight", r.constants[a.weight] + r.constants[b.weight])
    r.turn(node, replace(a, weight=weight, bias=_bias(r, node, a.bias, b.bias)), first.inputs[0])
    return True


def _convs(r: Rewriter, node: Node) -> bool:
    names = {r.nodes[name].inputs[0] for name in node.inputs if _is_own_conv(r, name)}
    for x in sorted(names):
        first, second = (_reading(r, name, x) for name in node.inputs)
        if first is None or second is None:
            continue
        (a, w1), (b, w2) = first, second
        rows, columns = (united(*pair) for pair in zip(windows(a), windows(b), strict=True))
        if rows is None or columns is None or rows.count * columns.count > _offsets(a) + _offsets(b):
            continue
        image, out = r.shapes[x], r.shapes[node.name]
        op = placed(a if a.weight else b, rows, columns, image, out)
        if op is None:
            continue
        weight, groups = grouped(spread(a, w1, rows, columns) + spread(b, w2, rows, columns))
        if weight.size > w1.size + w2.size:
            continue
        name = r.constant(f"{node.name}/weight", weight)
        r.turn(node, replace(op, weight=name, bias=_bias(r, node, a.bias, b.bias), groups=groups), x)
        return True
    return False


def _is_own_conv(r: Rewriter, name: str) -> bool:
    return isinstance(r.nodes[name].op, Conv2d) and r.is_private(name)


def _reading(r: Rewriter, name: str, x: str) -> tuple[Conv2d, F64] | None:
    """An addend as a convolution of x, which is one of itself."""
    op = r.nodes[name].op
    if name == x:
        channels = r.shapes[x][0]
        return Conv2d(channels, 1, 1, 0, "", groups=channels), np.ones((channels, 1, 1, 1))
    if not isinstance(op, Conv2d) or not r.is_private(name) or r.nodes[name].inputs != (x,):
        return None
    return op, r.constants[op.weight]


def _offsets(op: Conv2d) -> int:
    return math.prod(op.kernel)


def _bias(r: Rewriter, node: Node, *names: str | None) -> str | None:
    arrays = [r.constants[name] for name in names if name]
    return r.constant(f"{node.name}/bias", np.sum(arrays, axis=0)) if arrays else None
