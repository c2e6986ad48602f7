"""What a legal graph is: one list of rules, checked after every compiler pass."""

from __future__ import annotations

from fheinfer.errors import GraphError
from fheinfer.model.graph import Graph, Node

# op -> (number of inputs, weight roles it may name, attributes it must have)
OPS: dict[str, tuple[int, frozenset[str], frozenset[str]]] = {
    "input": (0, frozenset(), frozenset({"shape"})),
    "conv2d": (1, frozenset({"weight", "bias"}), frozenset({"out_channels", "kernel", "stride", "padding"})),
    "batch_norm": (1, frozenset({"weight", "bias", "mean", "var"}), frozenset({"eps"})),
    "relu": (1, frozenset(), frozenset()),
    "silu": (1, frozenset(), frozenset()),
    "gelu": (1, frozenset(), frozenset()),
    "herpn": (1, frozenset({"weight", "bias", "mean", "var"}), frozenset({"eps"})),
    "paf": (1, frozenset({"coefficients", "scale"}), frozenset({"degrees"})),
    "add": (2, frozenset(), frozenset()),
    "max_pool": (1, frozenset(), frozenset({"kernel"})),
    "mean_pool": (1, frozenset(), frozenset({"kernel"})),
    "avg_pool": (1, frozenset(), frozenset()),
    "linear": (1, frozenset({"weight", "bias"}), frozenset({"out_features"})),
    # What passes of the compiler make of these:
    "chebyshev": (1, frozenset({"coefficients"}), frozenset({"range", "unit"})),
    "quadratic": (1, frozenset({"c0", "c1", "c2", "shift", "constant"}), frozenset({"range"})),
    "multiply": (2, frozenset(), frozenset()),
    "gain": (1, frozenset({"factor"}), frozenset()),
    "bootstrap": (1, frozenset(), frozenset()),
}


def verify(graph: Graph) -> Graph:
    """Returns the graph, or raises GraphError naming the first node that breaks a rule."""
    if not graph.nodes or graph.nodes[0].op != "input":
        raise GraphError(f"graph {graph.name!r} must start with its input")
    seen: set[str] = set()
    for node in graph.nodes:
        _verify_node(node, seen)
        seen.add(node.name)
    used = {name for node in graph.nodes for name in node.inputs}
    dead = [node.name for node in graph.nodes[:-1] if node.name not in used]
    if dead:
        raise GraphError(f"graph {graph.name!r} computes {', '.join(dead)} and uses it nowhere")
    for name, shape in graph.shapes().items():
        if any(size < 1 for size in shape):
            raise GraphError(f"node {name!r} has the empty shape {shape}")
    return graph


def _verify_node(node: Node, seen: set[str]) -> None:
    if node.name in seen:
        raise GraphError(f"two nodes are called {node.name!r}")
    if node.op not in OPS:
        raise GraphError(f"node {node.name!r} has the unknown operation {node.op!r}; known: {', '.join(OPS)}")
    arity, roles, attrs = OPS[node.op]
    if len(node.inputs) != arity:
        raise GraphError(f"node {node.name!r} ({node.op}) reads {len(node.inputs)} values instead of {arity}")
    for name in node.inputs:
        if name not in seen:
            raise GraphError(f"node {node.name!r} reads {name!r}, which is not computed before it")
    if unknown := set(node.weights) - roles:
        raise GraphError(
            f"node {node.name!r} ({node.op}) names weights it has no use for: {', '.join(sorted(unknown))}"
        )
    if missing := attrs - set(node.attrs):
        raise GraphError(f"node {node.name!r} ({node.op}) lacks {', '.join(sorted(missing))}")
