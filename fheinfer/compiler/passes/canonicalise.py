"""A network in the few operations that the rest of the compiler knows: the passes that do it, in order.

What is left are the linear operations (convolutions, transposed convolutions, linear layers, resampling), views, sums,
products, activations and max pools, sums of all pixels, and constants that no linear operation could take.
"""

from __future__ import annotations

from collections.abc import Callable

from fheinfer.compiler.passes.fold_backward import fold_backward
from fheinfer.compiler.passes.fold_forward import fold_forward
from fheinfer.compiler.passes.lower_arithmetic import lower_arithmetic
from fheinfer.compiler.passes.lower_pads import lower_pads
from fheinfer.compiler.passes.lower_pools import lower_pools
from fheinfer.compiler.passes.lower_reductions import lower_reductions
from fheinfer.compiler.passes.merge_linear import merge_linear
from fheinfer.compiler.passes.merge_pools import merge_pools
from fheinfer.compiler.passes.merge_shortcuts import merge_shortcuts
from fheinfer.compiler.passes.merge_sum_pools import merge_sum_pools
from fheinfer.compiler.passes.simplify_views import simplify_views
from fheinfer.compiler.program import Program
from fheinfer.model import ops

Pass = Callable[[Program], Program]
LOWERING: tuple[Pass, ...] = (lower_arithmetic, lower_reductions, lower_pools, lower_pads)
FOLDING: tuple[Pass, ...] = (
    simplify_views,
    fold_backward,
    fold_forward,
    merge_sum_pools,
    merge_linear,
    merge_shortcuts,
)
ROUNDS = 20
"""Rounds of folding at most; three are usual: what one pass makes, another may fold further."""

CANONICAL: tuple[type[ops.Op], ...] = (
    *(ops.Input, ops.Conv2d, ops.ConvTranspose2d, ops.Linear, ops.Resample),
    *(ops.Reshape, ops.Permute, ops.Slice, ops.Concat, ops.Expand),
    *(ops.Add, ops.Product, ops.AddConstant, ops.MultiplyConstant, ops.SumPool, ops.MaxPool),
)
"""The operations that there are afterwards, activations apart."""


def canonicalise(program: Program, *, pools: bool = True) -> Program:
    """Lowers and folds until nothing changes.

    Args:
        pools: merge average pools into the linear operation beside them: a level less, and more kernel offsets.
    """
    for one in LOWERING:
        program = one(program)
    return folded(program, pools=pools)


def folded(program: Program, *, pools: bool = True) -> Program:
    """Folds what is lowered, or what another pass has made, until nothing changes."""
    passes = (*FOLDING, merge_pools) if pools else FOLDING
    for _ in range(ROUNDS):
        before = program.graph.nodes
        for one in passes:
            program = one(program)
        if program.graph.nodes == before:
            break
    return program
