"""Immutable network graphs: named nodes in topological order, shapes inferred, weights by name.

A graph holds no arrays. A node names its weights ("layer1.0.conv1.weight") and `fheinfer.model.model`
holds them, so that one graph serves training, plain evaluation and encryption.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from fheinfer.errors import GraphError

ACTIVATIONS = ("relu", "silu", "gelu", "herpn", "paf")
"""Operations that stand between the layers of a network and are not linear."""

POLYNOMIALS = ("herpn", "paf")
"""Those activations that are polynomials already: trained so, and valid as far as their inputs went in training."""

Shape = tuple[int, ...]
"""(C, H, W) for pictures, (F,) for vectors."""


@dataclass(frozen=True)
class Node:
    """One operation.

    op      one of `verify.OPS`
    inputs  names of the nodes it reads
    weights role -> tensor name, e.g. {"weight": "conv1.weight"}
    attrs   static attributes, e.g. {"stride": 2, "padding": 1}
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def with_attrs(self, **attrs: Any) -> Node:
        return replace(self, attrs={**self.attrs, **attrs})


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order; the first is the input, the last is the output."""

    name: str
    nodes: tuple[Node, ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise GraphError(f"graph {self.name!r} has no node {name!r}")

    @property
    def input(self) -> Node:
        return self.nodes[0]

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    @property
    def activations(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.op in ACTIVATIONS)

    @property
    def picture_side(self) -> int:
        """Height and width of the pictures that the network takes.

        Raises:
            GraphError: it takes something else.
        """
        shape = self.input.attrs["shape"]
        if len(shape) != 3:
            raise GraphError(f"{self.name} takes {math.prod(shape)} numbers, not pictures")
        return int(shape[1])

    @property
    def has_relus(self) -> bool:
        """Whether a set's activation stands for anything in it; a max pool compares by ReLUs."""
        return any(node.op in ("relu", "max_pool") for node in self.nodes)

    def users(self, name: str) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if name in node.inputs)

    def shapes(self) -> dict[str, Shape]:
        """Output shape of every node, without the batch dimension."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = _shape(node, [shapes[i] for i in node.inputs])
        return shapes


class GraphBuilder:
    """Builds a graph line by line; every method returns the new node's name."""

    def __init__(self, name: str, input_shape: Shape) -> None:
        self._name = name
        self._nodes = [Node("input", "input", attrs={"shape": tuple(input_shape)})]

    def add(self, name: str, op: str, *inputs: str, weights: Mapping[str, str] | None = None, **attrs: Any) -> str:
        self._nodes.append(Node(name, op, inputs, weights or {}, attrs))
        return name

    def conv_bn(self, x: str, conv: str, bn: str | None, out: int, kernel: int, stride: int = 1) -> str:
        """A convolution without bias, same padding, then batch norm where `bn` names one."""
        x = self.add(
            conv,
            "conv2d",
            x,
            weights={"weight": f"{conv}.weight"},
            out_channels=out,
            kernel=kernel,
            stride=stride,
            padding=kernel // 2,
        )
        if bn is None:
            return x
        roles = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        return self.add(bn, "batch_norm", x, weights={r: f"{bn}.{s}" for r, s in roles.items()}, eps=1e-5)

    def activation(self, op: str, x: str, name: str) -> str:
        """An activation of one of the `ACTIVATIONS`; weights, where it has any, under its own name."""
        if op in ("relu", "silu", "gelu"):
            return self.add(name, op, x)
        return self.add(name, op, x, weights={r: f"{name}.{r}" for r in ("weight", "bias", "mean", "var")}, eps=1e-5)

    def build(self) -> Graph:
        return Graph(self._name, tuple(self._nodes))


def _shape(node: Node, inputs: list[Shape]) -> Shape:
    if node.op == "input":
        return tuple(node.attrs["shape"])
    if node.op == "conv2d":
        _, height, width = inputs[0]
        kernel, stride, padding = (node.attrs[k] for k in ("kernel", "stride", "padding"))
        return (node.attrs["out_channels"], *((s + 2 * padding - kernel) // stride + 1 for s in (height, width)))
    if node.op in ("max_pool", "mean_pool"):  # windows side by side; what does not fill one is left out
        channels, height, width = inputs[0]
        return (channels, height // node.attrs["kernel"], width // node.attrs["kernel"])
    if node.op == "avg_pool":
        return (inputs[0][0],)
    if node.op == "linear":
        return (node.attrs["out_features"],)
    return inputs[0]
