"""From a model and a parameter set to a plan: the ordered list of passes, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

from fheinfer.approx import Activation
from fheinfer.compiler.activations import RANGE_MARGIN, relu_of
from fheinfer.compiler.lower import lower
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.fold_batch_norm import fold_batch_norm
from fheinfer.compiler.passes.fold_pool import fold_pool
from fheinfer.compiler.passes.levels import levels
from fheinfer.compiler.passes.merge_shortcuts import merge_shortcuts
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.pools import pools
from fheinfer.compiler.passes.replicas import replicas
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.plan import Plan, behind
from fheinfer.compiler.presets import preset
from fheinfer.compiler.program import Program
from fheinfer.compiler.split import split
from fheinfer.compiler.stages import Stage, verify
from fheinfer.compiler.supported import require_supported
from fheinfer.crypto.backends import backend as find_backend
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.errors import UsageError
from fheinfer.model.model import Model

PASSES: tuple[tuple[Callable[[Program], Program], Stage], ...] = (
    (fold_batch_norm, Stage.TENSOR),
    (merge_shortcuts, Stage.TENSOR),
    (fold_pool, Stage.TENSOR),
    (pools, Stage.TENSOR),
    (approximate, Stage.POLYNOMIAL),
    (pack, Stage.PACKED),
    (replicas, Stage.PACKED),
    (scales, Stage.SCALED),
    (levels, Stage.LEVELED),
)
"""Each pass with the stage that its result is at."""


def compile(
    model: Model,
    params: ParameterSet | str | int = 1,
    *,
    activation: str | Activation | None = None,
    bits: float | None = None,
    backend: str | None = None,
    margin: float = RANGE_MARGIN,
    client_until: str | None = None,
) -> Plan:
    """The plan that runs a model under a parameter set.

    Args:
        model: with the range of every activation.
        params: a parameter set or its name.
        activation: what approximates a ReLU: a name (`fheinfer approx list`), the file of a composite of one's own, or
            the activation itself; that of the set's preset by default, or what `bits` ask for.
        bits: that outputs keep against PyTorch, the worst of an input's, in the median (docs/activations.md): every
            activation is as exact as that takes. Instead of `activation`.
        backend: who evaluates; that of the set's preset by default.
        margin: factor on the ranges.
        client_until: a node, or the path of a module: the layers up to it are the client's, who computes them in clear
            before it encrypts. Whoever has `client.json` and its companion knows their weights.

    Raises:
        UsageError: an activation or backend that does not exist, bits together with an activation or out of range, a
            margin that is not positive, or a node behind which the network cannot be cut.
        GraphError: a graph that breaks a rule of its stage.
        PlanError: the network does not fit the set, or a range is missing or implausible.
    """
    if not 0 < margin < math.inf:
        raise UsageError(f"the margin is a factor on the ranges, and {margin:g} is none; try {RANGE_MARGIN}")
    if client_until is not None:
        cut = split(model, client_until, margin)
        plan = compile(cut.rest, params, activation=activation, bits=bits, backend=backend, margin=margin)
        return behind(plan, cut.part, cut.first, model)
    if not isinstance(params, ParameterSet):
        params = parameter_set(params)
    meant = preset(params)
    require_supported(model.graph)
    program = Program(
        graph=model.graph,
        constants={name: array.astype("float64") for name, array in model.tensors.items()},
        ranges={name: bound * margin for name, bound in model.ranges.items()},
        params=params,
        backend=find_backend(backend or meant.backend),
        relu=relu_of(model.graph, activation, bits, meant.activation),
        input_bound=model.input_bound,
        bits=bits,
    )
    for transform, stage in PASSES:
        program = verify(transform(program), stage)
    return lower(program, model)
