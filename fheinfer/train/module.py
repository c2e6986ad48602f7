"""A graph as a torch module that can be trained.

Operations whose tensors have the names of a PyTorch layer (LAYER.weight, LAYER.running_mean, ...) are layers with all
that training needs: batch statistics, quantised weights, penalties. All else is what operations mean, on parameters of
the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fheinfer.errors import GraphError
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
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
    `bits`, weights of convolutions and linear layers are quantised on the way. Constants that values are multiplied
    with or added to, and the matrices of a resampling, are not trained.

    Raises:
        GraphError: an operation that is no part of a network, tensors of which one would have to hold the other, or a
            batch norm whose tensors are not named as PyTorch names them.
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
            if node.op.tensors:
                self._add_layer(node)
        for name in graph.tensor_shapes().keys() ^ self.state_dict().keys():
            raise GraphError(
                f"{graph.name} cannot be trained: tensor {name!r} cannot stand beside the others; rename it"
            )
        for layer in self.modules():
            if isinstance(layer, Conv2d | Linear):
                layer.bits = bits

    def _add_layer(self, node: Node) -> None:
        """A layer if the names are those of one, else parameters under their own names."""
        op, tensors, shapes = node.op, node.op.tensors, node.op.tensor_shapes(self.graph.inputs_of(node))
        path = next(iter(tensors.values())).rpartition(".")[0]
        layer = LAYERS[type(op)](op, {role: shapes[role] for role in tensors}) if type(op) in LAYERS else None
        usual = layer is not None and {f"{path}.{name}" for name in layer.state_dict()} == set(tensors.values())
        if layer is not None and usual and path and _place(self, path, layer):
            self._layer_of[node.name] = path
            return
        if isinstance(op, BATCH):
            raise GraphError(
                f"{self.graph.name} cannot be trained: tensors of {node.name!r} ({op.kind}) are not named as PyTorch "
                "names them (LAYER.weight, LAYER.running_mean, ...); rename them"
            )
        for role, name in tensors.items():
            _place_tensor(self, name, shapes[role], trained=not isinstance(op, FIXED))

    def forward(self, x: Tensor) -> Tensor:
        """Computes the logits, (batch, classes).

        Raises:
            GraphError: the network has several outputs; `forward_all` has them all.
        """
        return self.forward_all(x)[self.graph.output.name]

    def forward_all(self, x: Tensor, change: Callable[[str, Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """Computes the output of every node by name, in graph order; `change` gets each and returns what goes on."""
        values: dict[str, Tensor] = {}
        for node in self.graph:
            inputs = [values[name] for name in node.inputs] or [x]
            path = self._layer_of.get(node.name)
            value = self.get_submodule(path)(*inputs) if path else node.op.reference(inputs, self._tensors(node))
            values[node.name] = change(node.name, value) if change else value
        return values

    def _tensors(self, node: Node) -> dict[str, Tensor]:
        found = {}
        for role, name in node.op.tensors.items():
            path, _, last = name.rpartition(".")
            found[role] = getattr(self.get_submodule(path), last)
        return found

    def pafs(self) -> dict[str, PAF]:
        """Returns the PAFs by node, in inference order."""
        layers = {name: self.get_submodule(path) for name, path in self._layer_of.items()}
        return {name: layer for name, layer in layers.items() if isinstance(layer, PAF)}

    def bounds(self, free: float) -> Bounds:
        """Says how large inputs of polynomial activations may get: up to `INSIDE` of the scale where there is one, else
        `free`, and the largest of an image twice that."""
        trained = [node.name for node in self.graph if node.op.polynomial and not isinstance(node.op, ops.Power)]
        layers = {name: self.get_submodule(self._layer_of[name]) for name in trained}
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


def _conv2d(op: ops.Conv2d, shapes: Mapping[str, Shape]) -> nn.Module | None:
    channels, (top, bottom, left, right) = shapes["weight"][1] * op.groups, op.padding
    if (top, left) != (bottom, right):
        return None
    sizes = (op.kernel, op.stride, (top, left), op.dilation, op.groups)
    return Conv2d(channels, op.out_channels, *sizes, bias=op.bias is not None)


def _linear(op: ops.Linear, shapes: Mapping[str, Shape]) -> nn.Module:
    return Linear(shapes["weight"][1], op.out_features, bias=op.bias is not None)


LAYERS: dict[type[Op], Callable[[Any, Mapping[str, Shape]], nn.Module | None]] = {
    ops.Conv2d: _conv2d,
    ops.Linear: _linear,
    ops.BatchNorm: lambda op, shapes: BatchNorm(shapes["weight"][0], op.eps),
    ops.HerPN: lambda op, shapes: HerPN(shapes["weight"][0], op.eps),
    ops.Paf: lambda op, shapes: PAF(op.degrees),
}
"""The layer of an operation, from it and the shapes of its tensors by role; None where there is none of its kind."""

BATCH = (ops.BatchNorm, ops.HerPN, ops.Paf)
"""Operations that are more in training than their reference says."""
FIXED = (ops.Resample, ops.MultiplyConstant, ops.AddConstant)
"""Operations whose tensors are constants."""


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that a dotted path is in, with empty ones on the way, and the last part of the path."""
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            if hasattr(root, name) or not name:
                raise GraphError(f"a tensor called {path!r} has no place in a torch module; rename it")
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root, last


def _place(root: nn.Module, path: str, layer: nn.Module) -> bool:
    """Puts `layer` at a dotted path, unless one like it is there already; whether one like it is there now."""
    parent, last = _parent(root, path)
    there = parent._modules.get(last)
    if there is None and not hasattr(parent, last):
        parent.add_module(last, layer)
        return True
    return there is not None and _form(there) == _form(layer)


def _form(layer: nn.Module) -> tuple[object, ...]:
    """What makes two layers of the same tensors compute the same."""
    fields = ("stride", "padding", "dilation", "groups", "eps", "degrees")
    return type(layer), *(getattr(layer, name, None) for name in fields), *layer.state_dict()


def _place_tensor(root: nn.Module, name: str, shape: Shape, *, trained: bool) -> None:
    """Puts a tensor at a dotted path, unless it is there already."""
    parent, last = _parent(root, name)
    if last in parent._parameters or last in parent._buffers:
        return
    if hasattr(parent, last) or not last:
        raise GraphError(f"a tensor called {name!r} has no place in a torch module; rename it")
    if trained:
        parent.register_parameter(last, nn.Parameter(torch.zeros(shape)))
    else:
        parent.register_buffer(last, torch.zeros(shape))


def from_model(model: Model, dtype: torch.dtype = torch.float32) -> GraphModule:
    """Makes a module in evaluation mode that holds copies of the model's tensors.

    Raises:
        GraphError: see `GraphModule`.
    """
    module = GraphModule(model.graph)
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in model.tensors.items()})
    return module.to(dtype).eval()
