"""Split models: the first layers of a network for the client, in clear, and the rest to be encrypted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from fheinfer.crypto.client_layers import ClientLayers
from fheinfer.crypto.client_tensors import ClientPart
from fheinfer.errors import PlanError, UsageError
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model

_SHRINKS = (ops.Relu, ops.Clip, ops.Silu, ops.Gelu, ops.Hardswish, ops.Mish, ops.Abs)
"""Activations whose output is no larger than their input (of a clip, where 0 is in its range)."""
_UNIT = (ops.Sigmoid, ops.Hardsigmoid, ops.Tanh)
_KEEPS = (
    *(ops.MaxPool, ops.MeanPool, ops.GlobalAvgPool),
    *(ops.Reshape, ops.Permute, ops.Slice, ops.Concat, ops.Expand, ops.Pad),
)
"""Operations whose output is no larger than their input."""


@dataclass(frozen=True)
class Split:
    """A network in two.

    first   what the client computes
    part    what `client.json` has of it
    rest    what is compiled; its input has the name of the last node of the first part
    """

    first: ClientLayers
    part: ClientPart
    rest: Model


def split(model: Model, until: str, margin: float) -> Split:
    """The network cut behind a node.

    Args:
        until: name of a node, or path of a module, whose last node is taken.
        margin: factor on the ranges.

    Raises:
        UsageError: no such node or module, or one behind which the network cannot be cut.
        PlanError: the size of the value that is encrypted was never measured.
    """
    graph = model.graph
    node = _node(graph, until)
    before = _ancestors(graph, node)
    behind = [other for other in graph if other.name not in before]
    outside = sorted({name for other in behind for name in other.inputs if name in before and name != node.name})
    if outside or not behind or node is graph.input or before & set(graph.outputs):
        raise UsageError(
            f"the network cannot be cut behind {node.name!r}; it can behind {', '.join(_places(graph)) or 'no node'}"
        )
    first = _model(model, [other for other in graph if other.name in before], (node.name,), model.mean, model.std)
    layers = ClientLayers.from_bytes(first.to_bytes(), "the layers of the client")
    largest = _largest(model, node)
    shape = graph.shapes[node.name]
    rest = _model(
        model,
        [Node(node.name, ops.Input(shape)), *behind],
        graph.outputs,
        (0.0,) * shape[0],
        (1.0,) * shape[0],
        {node.name: largest},
    )
    bound = model.input_bound * (margin if graph.input.name in model.ranges else 1.0)
    part = ClientPart(sha256=layers.sha256, shape=graph.input_shape, bound=bound, until=until)
    return Split(layers, part, replace(rest, final=model.final))


def _node(graph: Graph, until: str) -> Node:
    found = [node for node in graph if node.name == until]
    found = found or [node for node in graph if node.module == until or node.module.startswith(f"{until}.")]
    found = found or [node for node in graph if node.name.startswith(f"{until}.")]
    if not found:
        raise UsageError(f"no node or module {until!r} in {graph.name}; it has {', '.join(_places(graph)) or 'none'}")
    return found[-1]


def _places(graph: Graph) -> list[str]:
    """The first nodes behind which the network can be cut."""
    open_: set[str] = set()
    places = []
    for node, _ in pairwise(graph):
        last = {name for name in node.inputs if graph.users(name)[-1] is node}
        open_ = (open_ - last) | {node.name}
        if len(open_) == 1 and node is not graph.input and node.name not in graph.outputs:
            places.append(node.name)
    return places[:12]


def _ancestors(graph: Graph, node: Node) -> set[str]:
    found, waiting = {node.name}, [node]
    while waiting:
        for name in waiting.pop().inputs:
            if name not in found:
                found.add(name)
                waiting.append(graph[name])
    return found


def _model(
    model: Model,
    nodes: Iterable[Node],
    outputs: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    ranges: dict[str, float] | None = None,
) -> Model:
    """A part of the model. Ranges are those of the activations in it, and `ranges`."""
    graph = Graph(model.graph.name, tuple(nodes), outputs)
    tensors = {name: model.tensors[name] for name in graph.tensor_shapes()}
    inside = {node.name for node in graph}
    kept = {name: value for name, value in model.ranges.items() if name in inside} if ranges else {}
    classes = model.classes if outputs == model.graph.outputs else ()
    return Model(graph, tensors, mean, std, classes, kept | (ranges or {}))


def _largest(model: Model, node: Node) -> float:
    """Largest |value| of a node's output, by what calibration measured.

    Raises:
        PlanError: it measured nothing that says it.
    """
    ranges = model.ranges
    for user in model.graph.users(node.name):
        if user.op.activation and user.name in ranges:
            return ranges[user.name]
    if isinstance(node.op, _UNIT):
        return 1.0
    if isinstance(node.op, ops.Clip):
        return max(abs(node.op.low), abs(node.op.high))
    if isinstance(node.op, _SHRINKS) and node.name in ranges:
        return ranges[node.name]
    if isinstance(node.op, ops.Input):
        return model.input_bound
    if isinstance(node.op, _KEEPS) or (isinstance(node.op, ops.Reduce) and node.op.mean):
        return max(_largest(model, model.graph[name]) for name in node.inputs)
    raise PlanError(
        f"calibration did not measure how large the output of {node.name!r} gets; cut the network behind an activation "
        "or before one, and measure ranges with `fheinfer calibrate`, in Python with model.calibrate(data)"
    )
