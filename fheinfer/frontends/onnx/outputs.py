"""The outputs of a file: what the client does to them in the end, their names, and what they need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from fheinfer.frontends.onnx.translation import Operand, Translation, clean
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.graph import Graph
from fheinfer.model.ops import Reshape

FINALS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
"""ONNX operation at an output -> what the client does instead."""


def final_of(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> tuple[dict[str, onnx.NodeProto], str]:
    """The nodes of outputs that end in a softmax, log-softmax or sigmoid, where all do and alike, and which it is."""
    producers = {name: node for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input}
    ends = {name: producers[name] for name in outputs if name in producers and name not in read}
    kinds = {node.op_type for node in ends.values() if not node.domain}
    if len(ends) != len(outputs) or len(kinds) != 1 or not kinds <= set(FINALS):
        return {}, ""
    return ends, FINALS[kinds.pop()]


def results_of(
    t: Translation,
    environment: Mapping[str, Operand | None],
    outputs: Sequence[str],
    ends: dict[str, onnx.NodeProto],
) -> dict[str, Value]:
    """Output of the file -> its value, without what the client does in the end."""
    results: dict[str, Value] = {}
    for name in outputs:
        t.at(ends.get(name) or onnx.NodeProto(op_type="output", name=name))
        value = environment.get(ends[name].input[0] if name in ends else name)
        if not isinstance(value, Value):
            why = "is a mask or position beside a result" if value is None else "does not depend on the input"
            t.fail(f"{why}; remove it from the outputs")
        if name in ends and ends[name].op_type != "Sigmoid":
            _check_classes(t, ends[name], value)
            value = t.reshape(value, (math.prod(value.shape),), None)
        elif len(value.inner) > 1 and max(value.inner) == math.prod(value.inner) == value.inner[0]:
            value = t.reshape(value, (value.inner[0],), None)
        if value.node in (t.nodes[0].name, *(other.node for other in results.values())):
            value = t.emit(Reshape(value.inner), value)  # an output is a node of its own
        results[name] = value
    return results


def _check_classes(t: Translation, node: onnx.NodeProto, x: Value) -> None:
    """A softmax that the client computes is over all outputs."""
    attributes = {a.name: a.i for a in node.attribute}
    rank = len(x.shape)
    axis = attributes.get("axis", -1 if t.opset >= 13 else 1)
    if not -rank <= axis < max(rank, 1):
        t.fail(f"axis {axis} is none of a value of {rank} axes")
    over = range(axis % rank, rank) if t.opset < 13 else (axis % rank,)
    if any(size > 1 for i, size in enumerate(x.shape) if i not in over) or x.batch in over:
        t.fail(
            f"is over axis {axis} of a value of the shape {x.shape}; only one over all outputs is left to the client"
        )


def pruned(t: Translation, name: str, results: dict[str, Value]) -> tuple[Graph, dict[str, Array]]:
    """The graph of what the outputs need, each under its name in the file."""
    needed = {value.node for value in results.values()}
    for node in reversed(t.nodes):
        if node.name in needed:
            needed |= set(node.inputs)
    first, *rest = t.nodes
    names = {node.name for node in t.nodes}
    renamed = {v.node: clean(out) for out, v in results.items() if clean(out) not in names}
    if len(set(renamed.values())) < len(renamed) or first.name not in needed:
        renamed = {}
    nodes = [first]
    for node in rest:
        if node.name in needed:
            inputs = tuple(renamed.get(value, value) for value in node.inputs)
            nodes.append(replace(node, name=renamed.get(node.name, node.name), inputs=inputs))
    outputs = tuple(renamed.get(value.node, value.node) for value in results.values())
    used = {tensor for node in nodes for tensor in node.op.tensors.values()}
    return Graph(name, tuple(nodes), outputs), {key: array for key, array in t.tensors.items() if key in used}
