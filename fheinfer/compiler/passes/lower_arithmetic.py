"""Batch norms and differences become products with constants, and sums.

x ; bn (g, b, mean, var)   =>   x ; multiply_constant (g / sqrt(var + eps)) ; add_constant (b - mean * that)
x ; y ; subtract (x, y)    =>   x ; y ; multiply_constant (y, -1) ; add (x, that)

`fold_backward` and `fold_forward` then find a linear operation for the constants.
"""

from __future__ import annotations

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, AddConstant, BatchNorm, MultiplyConstant, Subtract


def lower_arithmetic(program: Program) -> Program:
    """Replaces batch norms and subtractions; their names go to the last operation of each."""
    r = Rewriter(program)
    for node in r:
        if isinstance(node.op, BatchNorm):
            _batch_norm(r, node, node.op)
        elif isinstance(node.op, Subtract):
            shape = (1,) * len(r.shapes[node.name])
            minus = r.constant(f"{node.name}/minus", np.full(shape, -1.0))
            negative = r.add(f"{node.name}/negative", MultiplyConstant(minus, shape), node.inputs[1], like=node)
            r.turn(node, Add(), node.inputs[0], negative)
    return r.finish()


def _batch_norm(r: Rewriter, node: Node, op: BatchNorm) -> None:
    weight, bias, mean, var = (r.constants[name] for name in (op.weight, op.bias, op.mean, op.var))
    shape = (len(weight),) + (1,) * (len(r.shapes[node.name]) - 1)
    factor = (weight / np.sqrt(var + op.eps)).reshape(shape)
    constant = bias.reshape(shape) - mean.reshape(shape) * factor
    times = MultiplyConstant(r.constant(f"{node.name}/factor", factor), shape)
    scaled = r.add(f"{node.name}/scaled", times, node.inputs[0], like=node)
    r.turn(node, AddConstant(r.constant(f"{node.name}/constant", constant), shape), scaled)
