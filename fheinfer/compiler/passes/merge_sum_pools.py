"""A linear layer reads the pixels that a sum before it adds up.

x ; sum_pool ; linear (W)   =>   x ; linear (W, once per pixel)

As many diagonals as before, and no rotations for the sum. It is also more exact: sums are large, partial sums fill all
slots beside them, and the rounding of each diagonal is multiplied by what the input has in every slot.
"""

from __future__ import annotations

import math

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.model.graph import Node
from fheinfer.model.ops import Linear, SumPool

MOST_WEIGHTS = 1 << 22
"""Of a layer that is made so; larger ones keep the sum."""


def merge_sum_pools(program: Program) -> Program:
    """Gives every linear layer behind a sum of pixels those pixels to read."""
    r = Rewriter(program)
    for node in r:
        if isinstance(node.op, Linear) and isinstance(r.nodes[node.inputs[0]].op, SumPool):
            _merge(r, node, node.op, r.nodes[node.inputs[0]])
    return r.finish()


def _merge(r: Rewriter, node: Node, op: Linear, pool: Node) -> None:
    source = pool.inputs[0]
    weight, pixels = r.constants[op.weight], math.prod(r.shapes[source][1:])
    if weight.size * pixels > MOST_WEIGHTS:
        return
    name = r.constant(f"{node.name}/weight", np.repeat(weight, pixels, axis=1))
    r.turn(node, Linear(op.out_features, name, op.bias), source)
