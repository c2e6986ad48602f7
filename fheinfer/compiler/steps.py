"""One node as a plan step."""

from __future__ import annotations

from fheinfer.compiler.plan import Step
from fheinfer.compiler.program import Program
from fheinfer.model.graph import Node

BOOTSTRAPPED = ("chebyshev", "quadratic")
"""Operations whose input is known to be in [-1, 1], where a bootstrap may stand."""


def step_of(node: Node, program: Program) -> Step:
    """Before the levels are known, the step is one on the whole chain."""
    a = node.attrs
    depth = a.get("depth", program.depth(node))
    return Step(
        name=node.name,
        op=node.op,
        inputs=node.inputs,
        level=a.get("level", program.params.top_level - depth),
        depth=depth,
        scale=a["scale"],
        layout=a["layout"],
        in_layout=program.graph[node.inputs[0]].attrs["layout"],
        weights=dict(node.weights),
        conv=(a["kernel"], a["stride"], a["padding"]) if node.op == "conv2d" else None,
        mask=node.op == "linear" and node.name == program.graph.output.name,
        activation=a.get("activation", ""),
    )
