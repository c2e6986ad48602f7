"""What a legal graph is: one list of rules, checked after every pass of the compiler.

Rules of a graph hold at every stage; a stage adds which operations there may be. Later stages of compiling keep more
about every node (its packing, its scale, its level): `compiler.program.verify` checks those.
"""

from __future__ import annotations

from collections.abc import Mapping

from fheinfer.errors import GraphError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import NETWORK, Input, Linear, Op


def verify(graph: Graph, known: Mapping[str, type[Op]] = NETWORK) -> Graph:
    """Returns the graph.

    Args:
        known: the operations that there may be at this stage.

    Raises:
        GraphError: naming the first node that breaks a rule.
    """
    if not graph.nodes or not isinstance(graph.nodes[0].op, Input):
        raise GraphError(f"graph {graph.name!r} must start with its input")
    seen: set[str] = set()
    for node in graph.nodes:
        _verify_node(node, seen, known)
        seen.add(node.name)
    dead = [node.name for node in graph.nodes[:-1] if not graph.users(node.name)]
    if dead:
        raise GraphError(f"graph {graph.name!r} computes {', '.join(dead)} and uses it nowhere")
    if not isinstance(graph.output.op, Linear):
        raise GraphError(
            f"node {graph.output.name!r} ({graph.output.op.kind}) is the output; end the network in a linear layer"
        )
    _ = graph.shapes  # checks every operation on the shapes it gets
    return graph


def _verify_node(node: Node, seen: set[str], known: Mapping[str, type[Op]]) -> None:
    what = f"node {node.name!r} ({node.op.kind})"
    if not node.name or node.name in seen:
        raise GraphError(f"two nodes are called {node.name!r}" if node.name else "a node has no name")
    if known.get(node.op.kind) is not type(node.op):
        raise GraphError(f"{what} is not an operation of this stage; there are {', '.join(known)}")
    if isinstance(node.op, Input) and seen:
        raise GraphError(f"{what} is a second input")
    if len(node.inputs) != node.op.arity:
        raise GraphError(f"{what} reads {len(node.inputs)} values instead of {node.op.arity}")
    for name in node.inputs:
        if name not in seen:
            raise GraphError(f"{what} reads {name!r}, which is not computed before it")
