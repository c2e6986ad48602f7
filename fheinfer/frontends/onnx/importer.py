"""An ONNX graph as a graph of ours: constants first, then every node by the function that knows its operation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from fheinfer.data.files import printable
from fheinfer.errors import GraphError
from fheinfer.frontends import translation
from fheinfer.frontends.onnx.activations import ACTIVATIONS
from fheinfer.frontends.onnx.arithmetic import ARITHMETIC
from fheinfer.frontends.onnx.borders import BORDERS
from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.files import opset
from fheinfer.frontends.onnx.folding import constant_of, fold, to_array
from fheinfer.frontends.onnx.inputs import input_note, input_shape
from fheinfer.frontends.onnx.layers import LAYERS
from fheinfer.frontends.onnx.matrices import MATRICES
from fheinfer.frontends.onnx.outputs import final_of, pruned, results_of
from fheinfer.frontends.onnx.parts import PARTS
from fheinfer.frontends.onnx.patterns import fuse
from fheinfer.frontends.onnx.pools import POOLS
from fheinfer.frontends.onnx.refusals import ADVICE, ANY
from fheinfer.frontends.onnx.resize import RESIZE
from fheinfer.frontends.onnx.translation import Operand, Translation, clean
from fheinfer.frontends.onnx.views import VIEWS
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.ops import Shape

OPERATIONS: dict[str, Handler] = {
    **ACTIVATIONS,
    **ARITHMETIC,
    **BORDERS,
    **LAYERS,
    **MATRICES,
    **PARTS,
    **POOLS,
    **RESIZE,
    **VIEWS,
}
"""ONNX operation -> what translates it."""
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


@dataclass(frozen=True)
class Translated(translation.Translated):
    """A graph with its tensors, and how its input and batch are in the file.

    input    name of the input in the file
    shape    its shape there, for a batch of one
    batched  whether the first axis of that is a batch
    batch    items that the file's own batch has, 1 where it is left open
    notes    what was recognised or assumed, a line each
    """

    input: str
    shape: Shape
    batched: bool
    batch: int
    notes: tuple[str, ...]


def translate(
    model: onnx.ModelProto, name: str, *, shape: Sequence[int] | None = None, batch: bool | None = None
) -> Translated:
    """The graph of a model that `files.read_model` has read.

    Args:
        name: of the graph.
        shape: of one input, without the batch, where the file leaves sizes open.
        batch: whether the first axis of the input is a batch; without it, where the input has more than one axis.

    Raises:
        GraphError: an operation, an input or an output that is not supported, by its name in the file.
        WeightsError: tensors that are too large or not finite.
    """
    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    data = [entry for entry in model.graph.input if entry.name not in constants]
    if len(data) != 1:
        names = ", ".join(printable(entry.name) for entry in data[:8]) or "none"
        raise GraphError(
            f"inputs {names}; a network has one input: join several into one, and make constants of others"
        )
    sizes, own_batch, batched = input_shape(data[0], shape, batch)
    t = Translation(opset=opset(model), batch=own_batch)
    environment: dict[str, Operand | None] = {}
    outputs = [output.name for output in model.graph.output]
    nodes = fuse(_without_constants(model.graph.node, constants, t.opset), constants, outputs)
    environment |= constants
    environment[data[0].name] = t.input(clean(data[0].name), sizes, 0 if batched else None)
    ends, final = final_of(nodes, outputs)
    _run(t, [node for node in nodes if not set(node.output) & set(ends)], environment)
    results = results_of(t, environment, outputs, ends)
    notes = [input_note(data[0], sizes, batched, own_batch)]
    if final:
        notes.append(f"the {final.replace('_', '-')} of its outputs is left to the client, after decryption")
    graph, tensors = pruned(t, name, results)
    return Translated(graph, tensors, final, data[0].name, sizes, batched, own_batch, tuple(notes))


def _without_constants(
    nodes: Iterable[onnx.NodeProto], constants: dict[str, Array], version: int
) -> list[onnx.NodeProto]:
    """The nodes that are left when all that needs constants only is computed; `constants` gets the results."""
    left = []
    for node in nodes:
        value = constant_of(node) if node.domain in ("", "ai.onnx") else None
        if value is None and node.op_type == "CastLike" and node.input[0] in constants:
            value = constants[node.input[0]]  # to the type of a value, which is real
        if value is not None:
            constants[node.output[0]] = value
        elif _foldable(node, constants):
            inputs = [constants[name] if name else None for name in node.input]
            constants |= {n: array for n, array in zip(node.output, fold(node, inputs, version), strict=False) if n}
        else:
            left.append(node)
    return left


def _foldable(node: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    graphs = any(a.HasField("g") or a.graphs for a in node.attribute)
    known = node.domain in ("", "ai.onnx") and node.op_type not in _RANDOM and not graphs
    return known and bool(node.input) and all(name in constants for name in node.input if name)


def _run(t: Translation, nodes: Iterable[onnx.NodeProto], environment: dict[str, Operand | None]) -> None:
    """Translates nodes in order; `environment` has the values of the names that they read, and gets theirs."""
    for node in nodes:
        t.at(node)
        operands = tuple(_read(t, environment, name) for name in node.input)
        for name, value in zip(node.output, _outputs(t, node, operands, environment), strict=False):
            if name:
                environment[name] = value


def _read(t: Translation, environment: dict[str, Operand | None], name: str) -> Operand | None:
    if not name:
        return None
    if name not in environment:
        t.fail(f"reads {printable(name)!r}, which nothing computes before it; export the model again")
    if environment[name] is None:
        t.fail(f"reads {printable(name)!r}, an output that is not supported: indices or masks of another operation")
    return environment[name]


def _outputs(
    t: Translation, node: onnx.NodeProto, operands: tuple[Operand | None, ...], environment: dict[str, Operand | None]
) -> Sequence[Operand | None]:
    if node.domain not in ("", "ai.onnx"):
        t.fail(f"is an operation of the domain {printable(node.domain)!r}; export with ONNX's own operations only")
    attributes = {a.name: _attribute(a) for a in node.attribute}
    if node.op_type == "Shape":
        x = operands[0]
        sizes = np.asarray(() if x is None else x.shape, np.int64)
        return [sizes[slice(attributes.get("start", 0), attributes.get("end"))]]
    if node.op_type == "Size":
        return [np.asarray(math.prod(() if operands[0] is None else operands[0].shape), np.int64)]
    if node.op_type == "If" and not isinstance(operands[0], Value) and operands[0] is not None:
        return _branch(t, attributes["then_branch" if operands[0].all() else "else_branch"], environment)
    graphs = any(a.HasField("g") or a.graphs for a in node.attribute)
    if not graphs and node.op_type not in _RANDOM and not any(isinstance(x, Value) for x in operands):
        value = constant_of(node)
        return (
            fold(node, [None if isinstance(x, Value) else x for x in operands], t.opset) if value is None else [value]
        )
    handler = OPERATIONS.get(node.op_type)
    if handler is None:
        t.fail(ADVICE.get(node.op_type, ANY))
    result = handler(Call(t, node, attributes, operands))
    return [result] if isinstance(result, Value | np.ndarray) else list(result)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _branch(t: Translation, graph: onnx.GraphProto, environment: dict[str, Operand | None]) -> Sequence[Operand | None]:
    """The branch that a constant condition takes."""
    inner = {**environment, **{tensor.name: to_array(tensor) for tensor in graph.initializer}}
    _run(t, graph.node, inner)
    return [_read(t, inner, output.name) for output in graph.output]
