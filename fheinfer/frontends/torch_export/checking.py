"""An imported graph against its module: the same outputs for the example and for random inputs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fheinfer.errors import GraphError
from fheinfer.frontends.comparing import evaluate, finish
from fheinfer.frontends.torch_export.exporting import evaluating, quiet
from fheinfer.frontends.translation import Array, Translated

TOLERANCE = 1e-5
"""Of the largest output, where both are computed in float64."""
ROUNDED = 1e-3
"""The same where the module computes in less."""
INPUTS = 2
"""Random inputs beside the example."""
SECONDS = 10.0
"""After so long, no more of them are compared."""


def check(net: nn.Module, translated: Translated, example: Tensor) -> str:
    """Compares the outputs of the graph with those of the module.

    Returns:
        what was compared, in words.

    Raises:
        GraphError: they differ, or the module gives other outputs when it is run again.
    """
    random = torch.Generator().manual_seed(0)
    inputs = [example, *(torch.randn(example.shape, generator=random) for _ in range(INPUTS))]
    exact = _in_float64(net)
    run, dtype, tolerance = (exact, torch.float64, TOLERANCE) if exact else (net, example.dtype, ROUNDED)
    worst, compared, start = 0.0, 0, time.monotonic()
    with evaluating(net), quiet():
        for x in inputs:
            if compared > 1 and time.monotonic() - start > SECONDS:
                break
            expected = outputs_of(run(x.to(dtype, copy=True)))
            outputs = evaluate(translated.graph, translated.tensors, x.double().numpy())
            for name, output, want in zip(translated.graph.outputs, outputs, expected, strict=True):
                got = finish(output, translated.final)
                worst = max(worst, _difference(name, got, want.detach().double().numpy(), tolerance))
            compared += 1
    return f"compared with PyTorch on {compared} inputs: outputs differ by at most {worst:.1g} of the largest"


def _in_float64(net: nn.Module) -> Callable[[Tensor], object] | None:
    """A copy of the module that computes in float64, if it can."""
    try:
        exact = copy.deepcopy(net).double()
        if next(exact.parameters(), torch.zeros(())).dtype == torch.float64:
            _ = exact.eval() if not isinstance(net, torch.fx.GraphModule) else exact
            return exact
    except Exception:  # modules with state of their own cannot always be copied
        return None
    return None


def outputs_of(result: object) -> list[Tensor]:
    """The tensors of what a module returns, in the order of the exporter."""
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _difference(name: str, got: Array, want: Array, tolerance: float) -> float:
    """The largest difference, as a part of the largest output."""
    if got.size != want.size:
        raise GraphError(f"output {name!r} has {got.size} numbers instead of {want.size}; please report this network")
    most = float(np.abs(want).max(initial=0.0))
    error = float(np.abs(got.ravel() - want.ravel()).max(initial=0.0)) / max(most, 1e-6)
    if not np.isfinite(most) or not error <= tolerance:
        raise GraphError(
            f"output {name!r} differs by {error:.2g} of the largest from what PyTorch computes; a module that computes "
            "something else every time cannot be imported, else please report this network"
        )
    return error
