"""Constants that a linear operation follows go into its weights and bias, through views on the way.

multiply_constant (v) ; conv (W)                        =>   conv (W v)
add_constant (c) ; conv (W, b), without padding         =>   conv (W, b + W c); with padding the border would lack c
multiply_constant (v) ; add_constant (c) ; conv (W)     =>   add_constant (c / v) ; conv (W v)
add_constant (c) ; sum_pool ; linear (W, b)             =>   sum_pool ; linear (W, b + W c H w)
multiply_constant (v) ; conv and others                 =>   the conv by itself as above, the others as they were

What stays is a sum with a constant, which takes no level, or a product before something that is not linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.linear_operations import scale_input, shift_input, takes_input_factor, takes_input_term
from fheinfer.compiler.passes.fold_backward import Changes, invertible
from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.compiler.view_arrays import VIEWS_OF_ONE, compressed, pushed
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, AddConstant, Concat, MultiplyConstant, SumPool

F64 = NDArray[np.float64]


def fold_forward(program: Program) -> Program:
    """Folds products and sums with constants into those of their users that take them."""
    r = Rewriter(program)
    r.until_stable(lambda node: _into_users(r, node))
    return r.finish()


def _into_users(r: Rewriter, node: Node) -> bool:
    op = node.op
    if not isinstance(op, MultiplyConstant | AddConstant):
        return False
    value, changed = compressed(r.constants[op.value]), False
    search = factor if isinstance(op, MultiplyConstant) else term
    for name in [user.name for user in r.users(node.name)]:
        changes = search(r, r.nodes[name], node.name, value)
        if changes is None:
            continue
        for change in changes:
            change()
        user = r.nodes[name]
        r.put(replace(user, inputs=tuple(node.inputs[0] if x == node.name else x for x in user.inputs)))
        changed = True
    r.drop(node.name)
    return changed


def factor(r: Rewriter, user: Node, x: str, value: F64) -> Changes | None:
    """How a user of a value multiplies it by a constant that it lacks; None where it cannot."""
    shape = r.shapes[x]
    if takes_input_factor(user.op, value):
        return [lambda: scale_input(r, user.name, value, shape)]
    match user.op:
        case MultiplyConstant():
            return [lambda: _change(r, user.name, lambda own: own * value)]
        case AddConstant() if invertible(value):
            after = _users(r, user, value, factor)
            return None if after is None else [lambda: _change(r, user.name, lambda own: own / value), *after]
    return _through(r, user, x, value, factor, 1.0)


def term(r: Rewriter, user: Node, x: str, value: F64) -> Changes | None:
    """How a user of a value adds a constant that it lacks."""
    shape = r.shapes[x]
    if not value.any():
        return []
    if takes_input_term(user.op, value):
        return [lambda: shift_input(r, user.name, value, shape)]
    match user.op:
        case AddConstant():
            return [lambda: _change(r, user.name, lambda own: own + value)]
        case MultiplyConstant():
            return _users(r, user, compressed(value * r.constants[user.op.value]), term)
        case Add() if user.inputs.count(x) == 1:
            return _users(r, user, value, term)
    return _through(r, user, x, value, term, 0.0)


Search = Callable[[Rewriter, Node, str, F64], Changes | None]


def _through(r: Rewriter, user: Node, x: str, value: F64, search: Search, fill: float) -> Changes | None:
    """Likewise of those that read a view of it, or the sum of its pixels."""
    shape = r.shapes[x]
    match user.op:
        case SumPool() if all(size == 1 for size in value.shape[1:]):
            pixels = 1 if search is factor else shape[1] * shape[2]
            return _users(r, user, value.reshape(-1) * pixels, search)
        case Concat(axis=axis) if user.inputs.count(x) == 1:
            pieces = [np.broadcast_to(value if n == x else fill, r.shapes[n]) for n in user.inputs]
            return _users(r, user, compressed(np.concatenate(pieces, axis)), search)
    return _users(r, user, pushed(user.op, value, shape), search) if isinstance(user.op, VIEWS_OF_ONE) else None


def _users(r: Rewriter, node: Node, value: F64, search: Search) -> Changes | None:
    """What all readers of a node have to do; None if one of them cannot, or if the node is an output."""
    if node.name in r.outputs:
        return None
    changes: Changes = []
    for user in r.users(node.name):
        own = search(r, user, node.name, value)
        if own is None:
            return None
        changes += own
    return changes


def _change(r: Rewriter, name: str, change: Callable[[F64], F64]) -> None:
    """Another constant in a node, made of the one that it has by now."""
    value = compressed(change(r.constants[r.nodes[name].op.tensors["value"]]))
    r.change(name, value=r.constant(f"{name}/value", value), shape=value.shape)
