"""Views in a row become one, and those that change nothing go.

reshape ; reshape   =>   reshape            permute ; permute   =>   permute
slice ; slice       =>   slice              concat (slice 0:n, slice n:m) of one value   =>   slice
permute that moves only axes of size 1   =>   reshape
reshape to the same shape, permute to the same order, slice of all, expand to the same shape, concat of one   =>   none
slice of a concat, within one of its values   =>   slice of that value
reshape, permute or expand ; linear   =>   linear, its columns moved

What views no longer tell apart are one value, too: product (x, x) is power 2, and add (x, x) is x times 2.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.compiler.view_arrays import viewed
from fheinfer.model.graph import Node
from fheinfer.model.ops import (
    Add,
    Concat,
    Expand,
    Linear,
    MultiplyConstant,
    Op,
    Permute,
    Power,
    Product,
    Reshape,
    Shape,
    Slice,
)


def simplify_views(program: Program) -> Program:
    """Merges and removes views until nothing changes."""
    r = Rewriter(program)
    r.until_stable(lambda node: _simplified(r, node))
    return r.finish()


def _simplified(r: Rewriter, node: Node) -> bool:
    if isinstance(node.op, Linear):
        return _linear(r, node, node.op)
    if isinstance(node.op, Product | Add):
        return _of_one_value(r, node)
    if not isinstance(node.op, Reshape | Permute | Slice | Expand | Concat):
        return False
    before = r.shapes[node.inputs[0]]
    if len(node.inputs) == 1 and r.shapes[node.name] == before and not _moves(node.op, before):
        read = bool(r.users(node.name))
        r.rewire(node.name, node.inputs[0])
        r.drop(node.name)
        return read
    better = _merged(r, node)
    if better is None:
        return False
    op, *inputs = better
    r.turn(node, op, *inputs)
    return True


def _of_one_value(r: Rewriter, node: Node) -> bool:
    x, y = node.inputs
    if x != y:
        return False
    if isinstance(node.op, Product):
        r.turn(node, Power(2), x)
    else:
        shape = (1,) * len(r.shapes[x])
        r.turn(node, MultiplyConstant(r.constant(f"{node.name}/two", np.full(shape, 2.0)), shape), x)
    return True


def _moves(op: Op, shape: Shape) -> bool:
    """Whether a view of the same shape as its input has another order."""
    if not isinstance(op, Permute):
        return False
    return [axis for axis in op.order if shape[axis] > 1] != [axis for axis, size in enumerate(shape) if size > 1]


def _merged(r: Rewriter, node: Node) -> tuple[Op, *tuple[str, ...]] | None:
    """What a view and those that it reads are together, and its inputs; None if that is not one view."""
    op, source = node.op, r.nodes[node.inputs[0]]
    inner = source.op
    match op, inner:
        case Reshape(), Reshape():
            return op, source.inputs[0]
        case Permute(), Permute():
            return Permute(tuple(inner.order[axis] for axis in op.order)), source.inputs[0]
        case Slice(), Slice() if op.axis == inner.axis:
            start = inner.start + op.start * inner.step
            last = inner.start + (r.shapes[node.name][op.axis] - 1) * op.step * inner.step + op.start * inner.step
            return replace(inner, start=start, stop=last + 1, step=op.step * inner.step), source.inputs[0]
        case Slice(), Concat() if op.axis == inner.axis:
            return _part(r, op, source)
        case Concat(), Slice():
            return _whole(r, node, op)
        case Permute(), _ if not _moves(op, r.shapes[source.name]):
            return Reshape(r.shapes[node.name]), source.name
    return None


def _part(r: Rewriter, op: Slice, concat: Node) -> tuple[Op, str] | None:
    """A slice of a concat as one of the value that it lies in."""
    start = 0
    for name in concat.inputs:
        size = r.shapes[name][op.axis]
        if start <= op.start and op.stop <= start + size:
            return replace(op, start=op.start - start, stop=op.stop - start), name
        start += size
    return None


def _whole(r: Rewriter, node: Node, op: Concat) -> tuple[Op, str] | None:
    """A concat of slices that are neighbours in one value as one slice of it."""
    parts = [r.nodes[name] for name in node.inputs]
    slices = [part.op for part in parts if isinstance(part.op, Slice)]
    if len(slices) < len(parts) or len({part.inputs for part in parts}) > 1:
        return None
    if any(s.axis != op.axis or s.step != 1 for s in slices):
        return None
    if any(a.stop != b.start for a, b in pairwise(slices)):
        return None
    return replace(slices[0], stop=slices[-1].stop), parts[0].inputs[0]


def _linear(r: Rewriter, node: Node, op: Linear) -> bool:
    """A linear layer reads all features of its input, in whatever shape and order."""
    source = r.nodes[node.inputs[0]]
    if not isinstance(source.op, Reshape | Permute | Expand):
        return False
    weight = op.weight
    if not isinstance(source.op, Reshape):
        shape = r.shapes[source.inputs[0]]
        places = viewed(source.op, np.arange(int(np.prod(shape))).reshape(shape)).ravel()
        moved = np.zeros((op.out_features, int(np.prod(shape))))
        np.add.at(moved.T, places, r.constants[op.weight].T)
        weight = r.constant(f"{node.name}/weight", moved)
    r.turn(node, replace(op, weight=weight), source.inputs[0])
    return True
