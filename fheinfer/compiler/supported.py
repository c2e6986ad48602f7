"""What of a network the compiler can do: all else is named, with its module, before any pass runs."""

from __future__ import annotations

from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.model.graph import Graph
from fheinfer.model.ops import Op

_KNOWN: tuple[type[Op], ...] = (
    *(ops.Input, ops.Conv2d, ops.BatchNorm, ops.Relu, ops.Silu, ops.Gelu, ops.HerPN, ops.Paf),
    *(ops.Add, ops.MaxPool, ops.MeanPool, ops.GlobalAvgPool, ops.Linear),
)


def require_supported(graph: Graph) -> None:
    """Checks that passes exist for every node.

    Raises:
        PlanError: naming the first node that has none, and the module that it comes from.
    """
    for node in graph:
        if reason := why_not(node.op):
            module = f", from {node.module}" if node.module else ""
            raise PlanError(f"node {node.name!r} ({node.op.kind}{module}): {reason}")
    if len(graph.outputs) != 1 or not isinstance(graph.output.op, ops.Linear):
        raise PlanError(
            f"the output of {graph.name} is {', '.join(graph.outputs)}; to encrypt it, end the network in one linear "
            "layer"
        )


def why_not(op: Op) -> str:
    """Why an operation has no encrypted form; "" where it has."""
    if not isinstance(op, _KNOWN):
        return "the compiler has no encrypted form of this operation; the plain reference has"
    if isinstance(op, ops.Input) and len(op.shape) not in (1, 3):
        return f"an input of the shape {op.shape} is neither (C, H, W) nor (F,)"
    if isinstance(op, ops.Conv2d):
        sizes = (*op.dilation, op.groups)
        if len(set(op.kernel)) > 1 or len(set(op.stride)) > 1 or len(set(op.padding)) > 1 or set(sizes) != {1}:
            return "encrypted convolutions are square, padded alike on all sides, without dilation and groups"
    if isinstance(op, ops.MaxPool | ops.MeanPool) and (
        len(set(op.kernel)) > 1 or op.stride != op.kernel or any(op.padding)
    ):
        return "encrypted pools are of square windows side by side, without padding"
    return ""
