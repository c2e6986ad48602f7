"""A graph as a torch module that can be trained: layers with tensors are modules, all else is what operations mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fheinfer.errors import GraphError
from fheinfer.model import ops
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from fheinfer.model.ops import NETWORK, Op, Shape
from fheinfer.train.herpn import HerPN
from fheinfer.train.paf import PAF
from fheinfer.train.penalty import Bounds
from fheinfer.train.quantise import Conv2d, Linear

INSIDE = 0.9
"""Part of a PAF's range that training keeps its inputs in: images that it does not see need the rest."""


class GraphModule(nn.Module):
    """Runs a graph; its `state_dict` has exactly the names of the graph's tensors.

    The input is (batch, C, H, W) or (batch, F), normalised; the output of node n is (batch, *graph.shapes[n]). With
    `bits`, weights of convolutions and linear layers are quantised on the way.

    Raises:
        GraphError: an operation that is no part of a network, or tensors that are not named as PyTorch names them.
    """

    def __init__(self, graph: Graph, bits: int = 0) -> None:
        super().__init__()
        self.graph = graph
        self._layer_of: dict[str, str] = {}
        for node in graph:
            if NETWORK.get(node.op.kind) is not type(node.op):
                raise GraphError(
                    f"node {node.name!r} ({node.op.kind}) is no operation of a network; it cannot be trained"
                )
            if tensors := node.op.tensors:
                self._layer_of[node.name] = path = next(iter(tensors.values())).rpartition(".")[0] or node.name
                shapes = node.op.tensor_shapes(graph.inputs_of(node))
                _place(self, path, LAYERS[type(node.op)](node.op, {role: shapes[role] for role in tensors}))
        for name in graph.tensor_shapes().keys() ^ self.state_dict().keys():
            raise GraphError(
                f"{graph.name} cannot be trained: tensor {name!r} is not named as PyTorch names it "
                "(LAYER.weight, LAYER.running_mean, ...); rename it"
            )
        for layer in self.modules():
            if isinstance(layer, Conv2d | Linear):
                layer.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Computes the logits, (batch, classes)."""
        return self.forward_all(x)[self.graph.output.name]

    def forward_all(self, x: Tensor, change: Callable[[str, Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """Computes the output of every node by name, in graph order; `change` gets each and returns what goes on."""
        values: dict[str, Tensor] = {}
        for node in self.graph:
            inputs = [values[name] for name in node.inputs] or [x]
            path = self._layer_of.get(node.name)
            value = self.get_submodule(path)(*inputs) if path else node.op.reference(inputs, {})
            values[node.name] = change(node.name, value) if change else value
        return values

    def pafs(self) -> dict[str, PAF]:
        """Returns the PAFs by node, in inference order."""
        layers = {name: self.get_submodule(path) for name, path in self._layer_of.items()}
        return {name: layer for name, layer in layers.items() if isinstance(layer, PAF)}

    def bounds(self, free: float) -> Bounds:
        """Says how large inputs of polynomial activations may get: up to `INSIDE` of the scale where there is one, else
        `free`, and the largest of an image twice that."""
        layers = {n.name: self.get_submodule(self._layer_of[n.name]) for n in self.graph if n.op.polynomial}
        return {
            name: (INSIDE * layer.scale,) * 2 if isinstance(layer, PAF) else (free, 2 * free)
            for name, layer in layers.items()
        }


class BatchNorm(nn.Module):
    """Batch norm over (B, C, H, W) with the usual names, and no batch counter: the graph knows four tensors."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, 0.1
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises by the batch in training, else by the running statistics."""
        mean, var = self.running_mean, self.running_var
        return functional.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)


NORMS = (BatchNorm, HerPN)
"""Layers with running statistics."""


def _conv2d(op: ops.Conv2d, shapes: Mapping[str, Shape]) -> nn.Module:
    _, channels, *_ = shapes["weight"]
    return Conv2d(channels, op.out_channels, op.kernel, op.stride, op.padding, bias=op.bias is not None)


def _linear(op: ops.Linear, shapes: Mapping[str, Shape]) -> nn.Module:
    return Linear(shapes["weight"][1], op.out_features, bias=op.bias is not None)


LAYERS: dict[type[Op], Callable[[Any, Mapping[str, Shape]], nn.Module]] = {
    ops.Conv2d: _conv2d,
    ops.Linear: _linear,
    ops.BatchNorm: lambda op, shapes: BatchNorm(shapes["weight"][0], op.eps),
    ops.HerPN: lambda op, shapes: HerPN(shapes["weight"][0], op.eps),
    ops.Paf: lambda op, shapes: PAF(op.degrees),
}
"""The layer of every operation that has tensors, from it and the shapes of its tensors by role."""


def _place(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Puts `layer` at a dotted path, with empty modules on the way, unless it is there already."""
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    if last not in root._modules:
        root.add_module(last, layer)


def from_model(model: Model, dtype: torch.dtype = torch.float32) -> GraphModule:
    """Makes a module in evaluation mode that holds copies of the model's tensors.

    Raises:
        GraphError: see `GraphModule`.
    """
    module = GraphModule(model.graph)
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in model.tensors.items()})
    return module.to(dtype).eval()
