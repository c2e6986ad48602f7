"""Builds a graph line by line: every method adds a node and returns its name."""

from __future__ import annotations

from dataclasses import MISSING, fields

from fheinfer.errors import UsageError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import ACTIVATIONS, BatchNorm, Conv2d, HerPN, Input, Linear, Op, Shape
from fheinfer.model.verify import verify

EPS = 1e-5


class GraphBuilder:
    """A graph in the making; tensors get the names that PyTorch gives them."""

    def __init__(self, name: str, input_shape: Shape) -> None:
        self._name = name
        self._nodes = [Node("input", Input(tuple(input_shape)))]

    def add(self, name: str, op: Op, *inputs: str) -> str:
        """Any operation on these values."""
        self._nodes.append(Node(name, op, inputs))
        return name

    def conv2d(self, name: str, x: str, out_channels: int, kernel: int, stride: int = 1, *, bias: bool = False) -> str:
        """A convolution with padding kernel // 2, which keeps the size where the stride is 1."""
        op = Conv2d(out_channels, kernel, stride, kernel // 2, f"{name}.weight", f"{name}.bias" if bias else None)
        return self.add(name, op, x)

    def batch_norm(self, name: str, x: str) -> str:
        """Batch norm with running statistics."""
        op = BatchNorm(EPS, f"{name}.weight", f"{name}.bias", f"{name}.running_mean", f"{name}.running_var")
        return self.add(name, op, x)

    def conv_bn(self, x: str, conv: str, bn: str, out_channels: int, kernel: int, stride: int = 1) -> str:
        """A convolution without bias, then batch norm."""
        return self.batch_norm(bn, self.conv2d(conv, x, out_channels, kernel, stride))

    def activation(self, kind: str, x: str, name: str) -> str:
        """An activation of that kind; tensors, where it has any, under its own name.

        Raises:
            UsageError: no activation of that kind that needs no more than a name.
        """
        if kind == HerPN.kind:
            return self.add(name, HerPN(EPS, f"{name}.weight", f"{name}.bias", f"{name}.mean", f"{name}.var"), x)
        if kind not in ACTIVATIONS or any(field.default is MISSING for field in fields(ACTIVATIONS[kind])):
            raise UsageError(f"no activation {kind!r} to build a network with; there are {', '.join(ACTIVATIONS)}")
        return self.add(name, ACTIVATIONS[kind](), x)

    def linear(self, name: str, x: str, out_features: int) -> str:
        """A fully connected layer with bias."""
        return self.add(name, Linear(out_features, f"{name}.weight", f"{name}.bias"), x)

    def build(self, *outputs: str) -> Graph:
        """The graph, checked; its output is what was added last unless others are named.

        Raises:
            GraphError: it breaks a rule of `model.verify`.
        """
        return verify(Graph(self._name, tuple(self._nodes), outputs))
