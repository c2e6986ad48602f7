"""What a legal graph is: one list of rules, checked after every pass of the compiler.

Rules of a graph hold at every stage; a stage adds which operations there may be. Later stages of compiling keep more
about every node (its packing, its scale, its level): `compiler.program.verify` checks those.
"""

from __future__ import annotations

from collections.abc import Mapping

from fheinfer.errors import GraphError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import NETWORK, Input, Invalid, Op

MAX_NAME = 200
"""Characters of a graph's name."""


def verify(graph: Graph, known: Mapping[str, type[Op]] = NETWORK) -> Graph:
    """Returns the graph.

    Args:
        known: the operations that there may be at this stage.

    Raises:
        GraphError: naming the first node that breaks a rule.
    """
    if len(graph.name) > MAX_NAME:
        raise GraphError(f"a graph's name has {len(graph.name)} characters; at most {MAX_NAME} are allowed")
    if not graph.nodes or not isinstance(graph.nodes[0].op, Input):
        raise GraphError(f"graph {graph.name!r} must start with its input")
    seen: set[str] = set()
    for node in graph.nodes:
        _verify_node(node, seen, known)
        seen.add(node.name)
    _verify_outputs(graph, seen)
    dead = [node.name for node in graph.nodes if not graph.users(node.name) and node.name not in graph.outputs]
    if dead:
        raise GraphError(f"graph {graph.name!r} computes {', '.join(dead)} and uses it nowhere")
    _ = graph.shapes  # checks every operation on the shapes it gets
    if known is NETWORK:
        graph.tensor_shapes()
    return graph


def _verify_outputs(graph: Graph, known: set[str]) -> None:
    for name in graph.outputs:
        if name not in known:
            raise GraphError(f"graph {graph.name!r} has no node {name!r}, which should be an output")
        if isinstance(graph[name].op, Input):
            raise GraphError(f"node {name!r} (input) is an output; there is nothing to compute")
    if len(set(graph.outputs)) != len(graph.outputs):
        raise GraphError(f"graph {graph.name!r} has an output twice")


def _verify_node(node: Node, seen: set[str], known: Mapping[str, type[Op]]) -> None:
    what = f"node {node.name!r} ({node.op.kind})"
    if not node.name or node.name in seen:
        raise GraphError(f"two nodes are called {node.name!r}" if node.name else "a node has no name")
    if known.get(node.op.kind) is not type(node.op):
        raise GraphError(f"{what} is not an operation of this stage; there are {', '.join(known)}")
    if isinstance(node.op, Input) and seen:
        raise GraphError(f"{what} is a second input")
    if known is NETWORK:
        _verify_names(node, what)
    if len(node.inputs) != node.op.arity:
        raise GraphError(f"{what} reads {len(node.inputs)} values instead of {node.op.arity}")
    for name in node.inputs:
        if name not in seen:
            raise GraphError(f"{what} reads {name!r}, which is not computed before it")


def _verify_names(node: Node, what: str) -> None:
    """The compiler's own nodes and arrays have a "/" in their names: a network's must not be taken for one of them."""
    try:
        node.op.check_names()
    except Invalid as error:
        raise GraphError(f"{what}: {error}") from None
    for name in (node.name, *node.op.tensors.values()):
        if "/" in name or name.startswith("__"):
            raise GraphError(f"{what} uses the name {name!r}; no name may hold a '/' or begin with '__'")
