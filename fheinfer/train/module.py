"""A graph as a torch module: the plain meaning of every node, for training and as a reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fheinfer.errors import GraphError
from fheinfer.model.graph import POLYNOMIALS, Graph, Node
from fheinfer.model.model import Weights
from fheinfer.train.herpn import HerPN
from fheinfer.train.paf import PAF
from fheinfer.train.penalty import Bounds
from fheinfer.train.quantise import Conv2d, Linear

INSIDE = 0.9
"""Part of a PAF's range that training keeps its inputs in: pictures that it does not see need the rest."""


class GraphModule(nn.Module):
    """Interprets a `graph.ir.Graph`; its `state_dict` has exactly the graph's weight names.

    The input is (batch, C, H, W), normalised; the output of node n is (batch, *graph.shapes()[n]). With `bits`, weights
    of convolutions and linear layers are quantised on the way.

    Raises:
        GraphError: the graph has an operation that has no plain meaning here.
    """

    def __init__(self, graph: Graph, bits: int = 0) -> None:
        super().__init__()
        self.graph = graph
        self._layer_of: dict[str, str] = {}
        shapes = graph.shapes()
        for node in graph:
            if node.op not in (*_WEIGHTLESS, *_POOLS) and node.op not in _LAYERS:
                raise GraphError(f"node {node.name!r}: the operation {node.op!r} cannot be run in torch")
            if node.weights:
                path = next(iter(node.weights.values())).rpartition(".")[0]
                self._layer_of[node.name] = path
                _place(self, path, _layer(node, shapes[node.inputs[0]][0]))
        for layer in self.modules():
            if isinstance(layer, Conv2d | Linear):
                layer.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        return self.forward_all(x)[self.graph.output.name]

    def forward_all(self, x: Tensor, change: Callable[[str, Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The output of every node by name, in graph order; `change` gets each and what it returns goes on."""
        values: dict[str, Tensor] = {}
        for node in self.graph:
            inputs = [values[name] for name in node.inputs] or [x]
            path = self._layer_of.get(node.name)
            run = self.get_submodule(path) if path else _weightless(node)
            value = run(*inputs)
            values[node.name] = change(node.name, value) if change else value
        return values

    def pafs(self) -> dict[str, PAF]:
        """The PAFs by node, in inference order."""
        layers = {name: self.get_submodule(path) for name, path in self._layer_of.items()}
        return {name: layer for name, layer in layers.items() if isinstance(layer, PAF)}

    def bounds(self, free: float) -> Bounds:
        """How large inputs of polynomial activations may get: up to `INSIDE` of the scale where there is one, else
        `free`, and the largest of a picture twice that."""
        layers = {node.name: self.get_submodule(self._layer_of[node.name]) for node in self.graph
                  if node.op in POLYNOMIALS}
        return {name: (INSIDE * layer.scale,) * 2 if isinstance(layer, PAF) else (free, 2 * free)
                for name, layer in layers.items()}


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
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                                     self.training, self.momentum, self.eps)


NORMS = (BatchNorm, HerPN)
"""Layers with running statistics."""


def _pooled(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


_WEIGHTLESS: dict[str, Callable[..., Tensor]] = {
    "input": lambda x: x, "relu": torch.relu, "silu": functional.silu, "gelu": functional.gelu, "add": torch.add,
    "avg_pool": _pooled,
}
_POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max_pool": functional.max_pool2d, "mean_pool": functional.avg_pool2d,
}
_LAYERS = ("conv2d", "batch_norm", "herpn", "paf", "linear")


def _weightless(node: Node) -> Callable[..., Tensor]:
    if node.op in _POOLS:
        return lambda x: _POOLS[node.op](x, node.attrs["kernel"])
    return _WEIGHTLESS[node.op]


def _layer(node: Node, channels: int) -> nn.Module:
    a = node.attrs
    if node.op == "conv2d":
        return Conv2d(channels, a["out_channels"], a["kernel"], a["stride"], a["padding"],
                      bias="bias" in node.weights)
    if node.op == "batch_norm":
        return BatchNorm(channels, a["eps"])
    if node.op == "herpn":
        return HerPN(channels, a["eps"])
    if node.op == "paf":
        return PAF(a["degrees"])
    return Linear(channels, a["out_features"], bias="bias" in node.weights)


def _place(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Puts `layer` at a dotted path, with empty modules on the way, unless it is there already."""
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    if last not in root._modules:
        root.add_module(last, layer)


def from_weights(weights: Weights, dtype: torch.dtype = torch.float32) -> GraphModule:
    """A module in evaluation mode that holds copies of `weights`."""
    module = GraphModule(weights.graph)
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.arrays.items()})
    return module.to(dtype).eval()
