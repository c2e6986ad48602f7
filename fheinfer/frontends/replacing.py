"""A network with other activations, which can be trained and need few levels: PAFs or quadratics; names stay."""

from __future__ import annotations

from dataclasses import replace

from fheinfer.approx.paf import F_FIRST, PAFS, POLYNOMIALS, has_two_orders, stages
from fheinfer.errors import UsageError
from fheinfer.model import ops
from fheinfer.model.builder import EPS
from fheinfer.model.graph import Graph
from fheinfer.model.ops import HerPN, Op, Paf

MARK = "+"
"""In the name of a network: what its activations were replaced by."""
QUADRATIC = "quadratic"
REPLACED: tuple[type[Op], ...] = (
    *(ops.Relu, ops.LeakyRelu, ops.Prelu, ops.Elu, ops.Selu, ops.Clip, ops.Silu, ops.Gelu, ops.Mish, ops.Hardswish),
)
"""Activations that look like a ReLU; sigmoids and the like stay, and are approximated."""


def replace_activations(graph: Graph, to: str) -> Graph:
    """Returns the network with a polynomial in place of every activation that looks like a ReLU, under the same name.

    Args:
        to: "paf:NAME", or a NAME of `fheinfer.approx.paf.PAFS` alone, with ":f-first" for the other order; or
            "quadratic", normalised Hermite terms (HerPN).

    Raises:
        UsageError: neither of them, or a network without such activations.
    """
    name = to.removeprefix("paf:")
    if not any(isinstance(node.op, REPLACED) for node in graph):
        raise UsageError(f"{graph.name} has no ReLU to replace, nor anything like it; give the model of such a network")
    degrees = () if to == QUADRATIC else _degrees(name)
    kept = {tensor for node in graph if not isinstance(node.op, REPLACED) for tensor in node.op.tensors.values()}
    nodes = [
        replace(node, op=_polynomial(_free(node.name, kept), degrees)) if isinstance(node.op, REPLACED) else node
        for node in graph
    ]
    return Graph(f"{graph.name}{MARK}{name}", tuple(nodes), graph.outputs)


def _free(name: str, kept: set[str]) -> str:
    """The name, or a longer one where another layer of the network has tensors under it."""
    return _free(f"{name}.polynomial", kept) if any(tensor.startswith(f"{name}.") for tensor in kept) else name


def _polynomial(name: str, degrees: tuple[int, ...]) -> Op:
    """The operation with tensors under a name, that of its node: of odd degrees, else a quadratic."""
    if degrees:
        return Paf(degrees, f"{name}.coefficients", f"{name}.scale")
    return HerPN(EPS, f"{name}.weight", f"{name}.bias", f"{name}.mean", f"{name}.var")


def _degrees(paf: str) -> tuple[int, ...]:
    kind, _, order = paf.partition(":")
    if kind not in PAFS or (order and (order != F_FIRST or not has_two_orders(kind))):
        raise UsageError(
            f"no PAF {paf!r}; there are {', '.join(PAFS)}, and with :{F_FIRST} those of two kinds; or {QUADRATIC}"
        )
    return tuple(len(POLYNOMIALS[p]) - 1 for p in stages(kind, order))
