"""Constants that follow a linear operation go into its weights and bias, through views and sums on the way.

conv (W, b) ; multiply_constant (v)           =>   conv (v W, v b), under the name of the product
conv (W, b) ; add_constant (c)                =>   conv (W, b + c)
conv (A) ; conv (B) ; add ; multiply (v)      =>   conv (v A) ; conv (v B) ; add
conv ; reshape ; multiply (v)                 =>   conv (v W) ; reshape, v in the order that it has before the view
conv (A) ; conv (B) ; concat ; multiply (v)   =>   conv (v' A) ; conv (v'' B) ; concat, each with its part of v

Only values that nobody else reads are changed. A batch norm after a convolution is both, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.linear_operations import scale_output, shift_output, takes_output_factor, takes_output_term
from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.compiler.view_arrays import VIEWS_OF_ONE, compressed, pulled
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, AddConstant, Concat, MultiplyConstant, SumPool

F64 = NDArray[np.float64]
Changes = list[Callable[[], None]]
"""What is to be done, once it is known that all of it can be."""


def fold_backward(program: Program) -> Program:
    """Folds every product and sum with a constant for which there is a linear operation before it."""
    r = Rewriter(program)
    for node in r:
        if not isinstance(node.op, MultiplyConstant | AddConstant):
            continue
        x, value = node.inputs[0], compressed(r.constants[node.op.value])
        if np.array_equal(np.unique(value), [isinstance(node.op, MultiplyConstant)]):  # times 1, plus 0
            r.rewire(node.name, x)
            r.drop(node.name)
            continue
        search = factor if isinstance(node.op, MultiplyConstant) else term
        changes = search(r, x, value)
        if changes is not None:
            for change in changes:
                change()
            r.take_over(x, node.name)
    return r.finish()


def factor(r: Rewriter, name: str, value: F64) -> Changes | None:
    """How to multiply a value that is read once by a constant; None where no linear operation takes it."""
    node = r.nodes[name]
    if not r.is_private(name):
        return None
    if takes_output_factor(node.op, value):
        return [lambda: scale_output(r, name, value)]
    match node.op:
        case MultiplyConstant():
            return [lambda: _constant(r, node, r.constants[node.op.tensors["value"]] * value)]
        case AddConstant():
            before = factor(r, node.inputs[0], value)
            own = r.constants[node.op.value] * value
            return None if before is None else [*before, lambda: _constant(r, node, own)]
        case Add():
            return _all(factor(r, source, value) for source in node.inputs)
        case Concat():
            return _all(factor(r, x, part) for x, part in _parts(r, node, node.op, value))
        case SumPool():
            return factor(r, node.inputs[0], value[:, None, None])
    return _before_view(r, node, value, factor, 1.0)


def term(r: Rewriter, name: str, value: F64) -> Changes | None:
    """How to add a constant to a value that is read once."""
    node = r.nodes[name]
    if not value.any():
        return []
    if not r.is_private(name):
        return None
    if takes_output_term(node.op, value):
        return [lambda: shift_output(r, name, value)]
    match node.op:
        case AddConstant():
            return [lambda: _constant(r, node, r.constants[node.op.tensors["value"]] + value)]
        case MultiplyConstant():
            divisor = r.constants[node.op.value]
            return term(r, node.inputs[0], compressed(value / divisor)) if invertible(divisor) else None
        case Add():
            either = (term(r, source, value) for source in node.inputs)
            return next((changes for changes in either if changes is not None), None)
        case Concat():
            return _all(term(r, x, part) for x, part in _parts(r, node, node.op, value))
        case SumPool():
            _, height, width = r.shapes[node.inputs[0]]
            return term(r, node.inputs[0], value[:, None, None] / (height * width))
    return _before_view(r, node, value, term, 0.0)


def invertible(value: F64) -> bool:
    """Whether dividing by a constant loses nothing: no zeros in it, nor numbers that are as good as none."""
    sizes = np.abs(value)
    return bool(sizes.min() > 1e-6 * sizes.max())


def _constant(r: Rewriter, node: Node, value: F64) -> None:
    value = compressed(value)
    r.change(node.name, value=r.constant(f"{node.name}/value", value), shape=value.shape)


def _all(parts: Iterable[Changes | None]) -> Changes | None:
    changes: Changes = []
    for part in parts:
        if part is None:
            return None
        changes += part
    return changes


def _parts(r: Rewriter, node: Node, op: Concat, value: F64) -> list[tuple[str, F64]]:
    """The part of a constant that belongs to each input of a concat."""
    sizes = [r.shapes[name][op.axis] for name in node.inputs]
    if value.shape[op.axis] == 1:
        return [(name, value) for name in node.inputs]
    pieces = np.split(value, np.cumsum(sizes)[:-1], axis=op.axis)
    return [(name, compressed(piece)) for name, piece in zip(node.inputs, pieces, strict=True)]


def _before_view(
    r: Rewriter, node: Node, value: F64, search: Callable[[Rewriter, str, F64], Changes | None], fill: float
) -> Changes | None:
    if not isinstance(node.op, VIEWS_OF_ONE):
        return None
    moved = pulled(node.op, value, r.shapes[node.inputs[0]], fill)
    return None if moved is None else search(r, node.inputs[0], moved)
