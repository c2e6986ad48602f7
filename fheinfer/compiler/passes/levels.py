"""Inserts bootstraps and gives every node the level of its output: attribute `level`.

A bootstrap may stand before an activation, whose input is in [-1, 1]. Backwards, `need` is the lowest level a value may
have so that everything after it still reaches the next such place; forwards, a bootstrap goes in where an activation
would otherwise leave less than that. On OpenFHE's evaluation the input is encrypted at the level that saves the first
bootstrap, if the chain is long enough; on ours a bootstrap costs less than sending the limbs, and it is no higher than
it must be.
"""

from __future__ import annotations

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.graph.ir import Node
from fheinfer.params import ParameterSet


def depth(node: Node, params: ParameterSet, *, is_output: bool = False) -> int:
    """Levels a node consumes."""
    if node.op == "relu":
        return params.level_model().chebyshev_depth(params.relu_degree)
    if node.op == "linear":
        return 2 if is_output else 1  # the output layer masks its partial sums
    return 1 if node.op == "conv2d" else 0


def levels(program: Program) -> Program:
    graph, params = program.graph, program.params
    consumed = {n.name: depth(n, params, is_output=n is graph.output) for n in graph}
    need: dict[str, int] = {}
    for node in reversed(graph.nodes):
        users = graph.users(node.name)
        # An activation can always be reached through a bootstrap at its input.
        need[node.name] = max(
            (params.bootstrap_input if u.op == "relu" else need[u.name] + consumed[u.name] for u in users), default=0
        )
    relu = max((n for n in graph if n.op == "relu"), key=lambda n: need[n.name], default=None)
    if relu and params.levels < consumed[relu.name] + need[relu.name]:
        raise PlanError(
            f"set {params.name} leaves {params.levels} levels after a bootstrap; activation {relu.name!r} of degree "
            f"{params.relu_degree} and what follows it need {consumed[relu.name] + need[relu.name]}"
        )

    at: dict[str, int] = {}
    nodes: list[Node] = []
    for node in graph:
        if node.op == "input":
            at[node.name] = _input_level(program, need, consumed)
        elif node.op == "relu":
            source = node.inputs[0]
            if at[source] - consumed[node.name] < need[node.name]:
                fresh = f"{node.name}/bootstrap"
                attrs = {k: v for k, v in _node(nodes, source).attrs.items() if k in ("layout", "scale")}
                nodes.append(Node(fresh, "bootstrap", (source,), attrs={**attrs, "level": params.levels}))
                at[fresh] = params.levels
                node = Node(node.name, node.op, (fresh,), node.weights, node.attrs)
            at[node.name] = at[node.inputs[0]] - consumed[node.name]
        else:
            at[node.name] = min(at[i] for i in node.inputs) - consumed[node.name]
        if at[node.name] < need[node.name]:
            raise PlanError(
                f"node {node.name!r} would be at level {at[node.name]} and needs {need[node.name]}; a network "
                f"needs an activation at least every {params.levels} levels"
            )
        nodes.append(node.with_attrs(level=at[node.name]))
    return program.with_nodes(nodes)


def _input_level(program: Program, need: dict[str, int], consumed: dict[str, int]) -> int:
    """Enough to go through the first activation without a bootstrap, where a fresh ciphertext can be that high."""
    graph = program.graph
    first = next((n for n in graph if n.op == "relu"), None)
    lowest = need[graph.input.name]
    if first is None or program.params.native:
        return lowest
    level, node = consumed[first.name] + need[first.name], graph[first.inputs[0]]
    while node.op != "input":
        level, node = level + consumed[node.name], graph[node.inputs[0]]
    return max(level, lowest) if level <= program.params.top_level else lowest


def _node(nodes: list[Node], name: str) -> Node:
    return next(node for node in nodes if node.name == name)
