"""An exported program as a graph of ours: parameters by its signature, then every operation by its own function."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from fheinfer.data.files import printable
from fheinfer.errors import GraphError
from fheinfer.frontends.torch_export.call import Call, Handler
from fheinfer.frontends.torch_export.elementwise import ELEMENTWISE
from fheinfer.frontends.torch_export.layers import LAYERS
from fheinfer.frontends.torch_export.pools import POOLS
from fheinfer.frontends.torch_export.refusals import ADVICE, ANY
from fheinfer.frontends.torch_export.views import VIEWS
from fheinfer.frontends.translation import Origin, Translated, Translation, Value
from fheinfer.model.graph import Graph
from fheinfer.model.ops import Reshape, Shape

OPERATIONS: dict[str, Handler] = {**ELEMENTWISE, **LAYERS, **POOLS, **VIEWS}
"""Operation of PyTorch -> what translates it."""
FINALS = {
    **dict.fromkeys(("softmax", "_softmax"), "softmax"),
    **dict.fromkeys(("log_softmax", "_log_softmax"), "log_softmax"),
    "sigmoid": "sigmoid",
}


def translate(program: ExportedProgram, name: str) -> Translated:
    """The graph of a program that takes one tensor (1, *shape).

    Raises:
        GraphError: naming an operation that is not supported with its module, or inputs and outputs that are not.
        WeightsError: tensors that are too large or not finite.
    """
    t = Translation()
    values, names = _inputs(t, program)
    ends, final = _final(program)
    for node in program.graph.nodes:
        if node.op == "call_function" and node.name not in ends:
            t.current = _origin(node)
            values[node.name] = _translated(t, node, values, names)
    results = _results(t, program, values, ends, final)
    needed = {value.node for value in results}
    for node in reversed(t.nodes):
        if node.name in needed:
            needed |= set(node.inputs)
    nodes = tuple(node for node in t.nodes if node.name in needed)
    if not nodes or nodes[0].name != t.nodes[0].name:
        raise GraphError("the outputs do not depend on the input; export the network that computes them")
    used = {tensor for node in nodes for tensor in node.op.tensors.values()}
    graph = Graph(name, nodes, tuple(value.node for value in results))
    return Translated(graph, {key: array for key, array in t.tensors.items() if key in used}, final)


def _inputs(t: Translation, program: ExportedProgram) -> tuple[dict[str, Any], dict[int, str]]:
    """The value of every placeholder, and the names of parameters by identity."""
    values: dict[str, Any] = {}
    names: dict[int, str] = {}
    state = {**program.constants, **program.state_dict}
    given = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    shapes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    if len(given) != 1 or not isinstance(shapes.get(given[0]), Tensor):
        words = ", ".join(map(printable, given[:8])) or "none"
        raise GraphError(f"inputs {words}: a network has one tensor as its input; join several into one")
    for spec in program.graph_signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            tensor = state[str(spec.target)].detach()
            values[spec.arg.name] = tensor
            names[id(tensor)] = re.sub(r"^__+", "", str(spec.target).replace("/", "."))
    shape = tuple(shapes[given[0]].shape)
    if len(shape) < 2 or shape[0] != 1 or not all(isinstance(size, int) for size in shape):
        raise GraphError(f"the input has the shape {shape}; it has to be a batch of one, (1, C, H, W) or (1, F)")
    values[given[0]] = t.input("input", shape, 0)
    return values, names


def _final(program: ExportedProgram) -> tuple[dict[str, fx.Node], str]:
    """Outputs that end in a softmax, log-softmax or sigmoid, where all do and alike, and which it is."""
    outputs = _output_names(program)
    nodes = {node.name: node for node in program.graph.nodes}
    ends = {name: nodes[name] for name in outputs if name in nodes and len(nodes[name].users) == 1}
    kinds = {FINALS.get(_operation(node), "") for node in ends.values()}
    if len(ends) != len(set(outputs)) or len(kinds) != 1 or kinds == {""}:
        return {}, ""
    return ends, kinds.pop()


def _output_names(program: ExportedProgram) -> list[str]:
    names = []
    for spec in program.graph_signature.output_specs:
        if spec.kind == OutputKind.USER_INPUT_MUTATION:
            continue  # in place on the input: what goes on is the result
        if spec.kind != OutputKind.USER_OUTPUT:
            what = printable(str(spec.target or spec.arg.name))
            raise GraphError(f"changes {what!r} while it runs; call net.eval(), and keep no state between calls")
        names.append(getattr(spec.arg, "name", "") or "a constant")
    return names


def _results(
    t: Translation, program: ExportedProgram, values: Mapping[str, Any], ends: Mapping[str, fx.Node], final: str
) -> list[Value]:
    results: list[Value] = []
    for name in _output_names(program):
        t.current = Origin(f"output {printable(name)!r}")
        node = ends.get(name)
        if node is not None:
            t.current = _origin(node)
        value = values.get(str(node.args[0]) if node is not None else name)
        if not isinstance(value, Value):
            t.fail("does not depend on the input; leave it out of the outputs")
        if node is not None and final != "sigmoid":
            value = _over_classes(t, node, value)
        elif len(value.inner) > 1 and set(value.inner[1:]) == {1}:
            value = t.reshape(value, (value.inner[0],), None)  # one number per class, in whatever shape
        if value.node in (t.nodes[0].name, *(other.node for other in results)):
            value = t.emit(Reshape(value.inner), value)  # an output is a node of its own
        results.append(value)
    return results


def _over_classes(t: Translation, node: fx.Node, x: Value) -> Value:
    """The operand of a softmax that is over all numbers of one input, as a vector."""
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    rank = len(x.shape)
    if not isinstance(axis, int) or not -rank <= axis < rank or x.shape[axis % rank] != max(x.inner):
        t.fail(ADVICE["softmax"])
    if x.batch == axis % rank or sum(size > 1 for size in x.shape) > 1:
        t.fail(ADVICE["softmax"])
    return t.reshape(x, (x.shape[axis % rank],), None)


def _operation(node: fx.Node) -> str:
    """Name of an operation, without its form."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.split("::")[-1] if schema else getattr(node.target, "__name__", str(node.target))
    return name if name in OPERATIONS or name in ADVICE else name.rstrip("_")


def _origin(node: fx.Node) -> Origin:
    """Where an operation comes from: module and line."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path, kind = re.sub(r"@\d+", "", str(path)), getattr(kind, "__name__", str(kind).rpartition(".")[2])
    leaf = bool(path) and ".modules." in str(stack[-1][1]) and "container" not in str(stack[-1][1])
    lines = re.findall(r'File "([^"]*)", line (\d+)', node.meta.get("stack_trace") or "")
    where = f", {lines[-1][0].rpartition('/')[2]} line {lines[-1][1]}" if lines and not leaf else ""
    module = f"module {path!r} ({kind})" if path else f"the network ({kind})" if kind else "the network"
    label = printable(f"operation {_operation(node)!r} of {module}{where}", 300)
    return Origin(label, printable(path, 150).replace("/", ".").lstrip("_"), leaf)


def _translated(t: Translation, node: fx.Node, values: Mapping[str, Any], names: Mapping[int, str]) -> Any:
    def known(argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda other: values[other.name])

    if node.target is operator.getitem:
        source, place = known(node.args)
        if source[place] is None:
            t.fail("reads an output that is not supported: indices of a pool, or statistics")
        return source[place]
    schema = getattr(node.target, "_schema", None)
    if schema is None or not callable(node.target):
        t.fail(ADVICE.get(_operation(node), ANY))
    if schema.name.startswith("aten::_assert") or schema.name.startswith("aten::sym_"):
        return None
    arguments = {argument.name: _default(argument) for argument in schema.arguments}
    arguments |= dict(zip(arguments, known(list(node.args)), strict=False)) | known(dict(node.kwargs))
    operation = _operation(node)
    if not _depends(arguments):
        if ADVICE.get(operation) == ADVICE["rand"]:
            t.fail(ADVICE[operation])
        return node.target(*known(list(node.args)), **known(dict(node.kwargs)))
    if not schema.name.startswith("aten::"):
        t.fail("is an operation of another library; use PyTorch's own")
    if operation not in OPERATIONS:
        t.fail(ADVICE.get(operation, ANY))
    return OPERATIONS[operation](Call(t, arguments, node.target, _shapes(node), names))


def _default(argument: Any) -> Any:
    return argument.default_value if argument.has_default_value() else None


def _depends(arguments: Mapping[str, Any]) -> bool:
    """Whether any argument, or an entry of one, is a value."""
    flat: Sequence[Any] = torch.utils._pytree.tree_leaves(list(arguments.values()))
    return any(isinstance(argument, Value) for argument in flat)


def _shapes(node: fx.Node) -> tuple[Shape, ...]:
    results = node.meta.get("val")
    every = results if isinstance(results, list | tuple) else [results]
    return tuple(tuple(int(size) for size in one.shape) for one in every if isinstance(one, Tensor))
