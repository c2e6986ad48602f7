"""Immutable network graphs: named nodes in topological order, shapes inferred, tensors by name.

A graph holds no arrays. An operation names its tensors ("layer1.0.conv1.weight") and the model holds them, so that one
graph serves training, plain evaluation and encryption.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from fheinfer.errors import GraphError
from fheinfer.model.ops import Invalid, MaxPool, Op, Relu, Shape

MAX_VALUES = 1 << 24
"""Values that one node may have: more than any ciphertext holds."""


@dataclass(frozen=True)
class Node:
    """One operation under a name, on the values of other nodes.

    activation  in a compiled graph: the network's activation that this is a part of, or ""
    module      the module, or the node of a file, that it was imported from, for messages; "" where there is none
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    activation: str = ""
    module: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order; the first is the input, and the last is the output unless `outputs` names others."""

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.outputs and self.nodes:
            object.__setattr__(self, "outputs", (self.nodes[-1].name,))

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        try:
            return self._by_name[name]
        except KeyError:
            raise GraphError(f"graph {self.name!r} has no node {name!r}") from None

    @cached_property
    def _by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _users(self) -> Mapping[str, tuple[Node, ...]]:
        found: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(users) for name, users in found.items()}

    @property
    def input(self) -> Node:
        return self.nodes[0]

    @property
    def output(self) -> Node:
        """The only output.

        Raises:
            GraphError: there are several.
        """
        if len(self.outputs) != 1:
            raise GraphError(f"{self.name} has the outputs {', '.join(self.outputs)}; this takes networks of one")
        return self[self.outputs[0]]

    @property
    def activations(self) -> tuple[Node, ...]:
        """The non-linear functions of the network, in order."""
        return tuple(node for node in self.nodes if node.op.activation)

    @property
    def ranged(self) -> tuple[Node, ...]:
        """The nodes that the compiler has to know the size of inputs of: activations, products and max pools."""
        return tuple(node for node in self.nodes if node.op.ranged)

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of an image, (F,) of a vector."""
        return self.nodes[0].op.infer(())

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network takes.

        Raises:
            GraphError: it takes something else.
        """
        shape = self.input_shape
        if len(shape) != 3:
            raise GraphError(f"{self.name} takes {shape[0]} numbers, not images")
        return shape[1], shape[2]

    @property
    def has_relus(self) -> bool:
        """Whether the choice of an activation changes anything in it; a max pool compares by ReLUs."""
        return any(isinstance(node.op, Relu | MaxPool) for node in self.nodes)

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read a value."""
        return self._users[name]

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Output shape of every node, without the batch dimension.

        Raises:
            GraphError: an operation whose fields or inputs cannot be, with the name of its node.
        """
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            inputs = [shapes[name] for name in node.inputs]
            try:
                node.op.check(inputs)
                shapes[node.name] = shape = node.op.infer(inputs)
                if math.prod(shape) > MAX_VALUES:
                    raise Invalid(f"its output {shape} has more than {MAX_VALUES} values")
            except Invalid as error:
                raise GraphError(f"node {node.name!r} ({node.op.kind}): {error}") from None
        return shapes

    def inputs_of(self, node: Node) -> list[Shape]:
        """Shapes of what a node reads."""
        return [self.shapes[name] for name in node.inputs]

    def tensor_shapes(self) -> dict[str, Shape]:
        """Tensor name -> shape, in the order of the graph.

        Raises:
            GraphError: two operations share a tensor and need it in different shapes.
        """
        result: dict[str, Shape] = {}
        for node in self.nodes:
            shapes = node.op.tensor_shapes(self.inputs_of(node))
            for role, name in node.op.tensors.items():
                if result.setdefault(name, shapes[role]) != shapes[role]:
                    raise GraphError(
                        f"node {node.name!r} ({node.op.kind}): {role} {name!r} has to be {shapes[role]} and is "
                        f"{result[name]} elsewhere"
                    )
        return result
