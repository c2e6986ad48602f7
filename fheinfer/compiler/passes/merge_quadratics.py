"""Products, sums and constants of one value become one quadratic, as users write polynomial activations.

x ; a = product (0.25 * x, x) ; b = 0.5 * x ; add (a, b) ; + 0.1   =>   x ; quadratic (0.1, 0.5, 0.25)

A quadratic is one square at a scale of its own: one level, where products and sums as written take two or three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, AddConstant, MultiplyConstant, Power, Product, Quadratic, Shape

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class _Polynomial:
    """c0 + c1 x + c2 x^2 of a value x, by channel; `square` is the node whose range is that of x, if there is one."""

    x: str
    c0: F64
    c1: F64
    c2: F64
    square: str = ""

    @property
    def is_x(self) -> bool:
        return not self.c0.any() and not self.c2.any() and bool((self.c1 == 1).all())


def merge_quadratics(program: Program) -> Program:
    """Replaces what computes a polynomial of degree 2 of one value by a quadratic of it."""
    r = Rewriter(program)
    found: dict[str, _Polynomial] = {}
    for node in program.graph:
        found[node.name] = _polynomial(r, node, found) or _itself(r, node.name)
    for node in program.graph:
        made = found[node.name]
        if node.name not in r.nodes or not _whole(made) or isinstance(node.op, Power):
            continue
        part = all(found[user.name].x == made.x and _whole(found[user.name]) for user in r.users(node.name))
        if part and node.name not in r.outputs:
            continue  # of a larger one
        names = [r.constant(f"{node.name}/c{i}", c) for i, c in enumerate((made.c0, made.c1, made.c2))]
        bound = program.ranges.get(made.square, 0.0) or 1.0
        r.turn(node, Quadratic(names[0], names[1], names[2], bound), made.x)
    return r.finish()


def _whole(p: _Polynomial) -> bool:
    """Whether a square computes it in every channel, and its range is known."""
    return bool(p.square) and bool((p.c2 != 0).all())


def _itself(r: Rewriter, name: str) -> _Polynomial:
    zero = np.zeros(r.shapes[name][0])
    return _Polynomial(name, zero, zero + 1, zero)


def _polynomial(r: Rewriter, node: Node, found: dict[str, _Polynomial]) -> _Polynomial | None:
    op = node.op
    if isinstance(op, MultiplyConstant | AddConstant):
        p, value = found[node.inputs[0]], _by_channel(r.constants[op.value], r.shapes[node.name])
        if value is None:
            return None
        if isinstance(op, AddConstant):
            return _Polynomial(p.x, p.c0 + value, p.c1, p.c2, p.square)
        return _Polynomial(p.x, p.c0 * value, p.c1 * value, p.c2 * value, p.square)
    if not isinstance(op, Add | Product) and not (isinstance(op, Power) and op.exponent == 2):
        return None
    a, b = (found[name] for name in (node.inputs * 2)[:2])
    if a.x != b.x:
        return None
    if isinstance(op, Add):
        return _Polynomial(a.x, a.c0 + b.c0, a.c1 + b.c1, a.c2 + b.c2, a.square or b.square)
    if a.c2.any() or b.c2.any():
        return None
    square = node.name if a.is_x or b.is_x else a.square or b.square  # its range is that of the larger input
    return _Polynomial(a.x, a.c0 * b.c0, a.c0 * b.c1 + a.c1 * b.c0, a.c1 * b.c1, square)


def _by_channel(value: F64, shape: Shape) -> F64 | None:
    """One number per channel of a constant; None of one that differs between pixels."""
    return np.broadcast_to(value.reshape(-1), shape[0]).copy() if value.size in (1, value.shape[0]) else None
