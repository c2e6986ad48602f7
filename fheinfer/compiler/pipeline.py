"""From weights and a parameter set to a plan: the ordered list of passes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from fheinfer.compiler.lower import lower
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.fold_batch_norm import fold_batch_norm
from fheinfer.compiler.passes.fold_pool import fold_pool
from fheinfer.compiler.passes.layouts import layouts
from fheinfer.compiler.passes.levels import levels
from fheinfer.compiler.passes.merge_shortcuts import merge_shortcuts
from fheinfer.compiler.passes.pools import pools
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.passes.skews import skews
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.policy import KeyPolicy
from fheinfer.compiler.program import Program
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.model.model import Weights
from fheinfer.model.verify import verify

RANGE_MARGIN = 1.2
"""Activations are valid up to this many times the largest input seen in calibration."""

PASSES: tuple[Callable[[Program], Program], ...] = (
    fold_batch_norm,
    merge_shortcuts,
    fold_pool,
    pools,
    approximate,
    layouts,
    skews,
    scales,
    levels,
)


def compile(
    weights: Weights,
    params: ParameterSet | str | int = 1,
    *,
    margin: float = RANGE_MARGIN,
    keys: KeyPolicy = "fast",
) -> Plan:
    """The plan that runs these weights under this parameter set.

    Args:
        weights: trained weights with the range of every activation.
        params: a parameter set or its name.
        margin: factor on the ranges.
        keys: which rotation keys the plan runs on; those of a server folder say so in their manifest.

    Raises:
        UsageError: an activation that does not exist.
        PlanError: the network does not fit the set, or a range is missing.
    """
    if not isinstance(params, ParameterSet):
        params = parameter_set(params)
    program = Program(
        graph=verify(weights.graph),
        constants={name: array.astype("float64") for name, array in weights.arrays.items()},
        ranges={name: bound * margin for name, bound in weights.ranges.items()},
        params=params,
        input_bound=max(max(m, 1 - m) / s for m, s in zip(weights.mean, weights.std, strict=True)),
    )
    for transform in PASSES:
        program = transform(program)
        verify(program.graph)
    return lower(program, weights.mean, weights.std, keys)
