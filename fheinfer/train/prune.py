"""Magnitude pruning of whole generalised diagonals: each is one plaintext and one product less when encrypted.

Which numbers of a weight share a diagonal follows from where the plan puts channels and pixels
(docs/explanation/packing.md). Of a convolution that the compiler merges with its shortcut, both have to be zero there.
In a network without convolutions it is the diagonals of its linear layers: of input i and output o those of one (i - o)
modulo a power of two.
"""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn

from fheinfer.compiler.maps import distances
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.presets import set_for
from fheinfer.compiler.program import PLACED_UNDER
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from fheinfer.model.ops import Conv2d, Linear


class Diagonals:
    """The diagonals of all convolutions of a network, or of its linear layers where it has none, numbered through.

    Raises:
        PlanError: the network cannot be evaluated encrypted.
    """

    def __init__(self, graph: Graph) -> None:
        if not any(isinstance(node.op, Conv2d) for node in graph):
            self._number_linear(graph)
            return
        steps = {step.name: (step, step.op) for step in unpruned(graph).steps if isinstance(step.op, Conv2d)}
        first, self.count = dict[str, int](), 0
        layers: list[Tensor] = []
        self.of: dict[str, Tensor] = {}
        for node in graph:
            if not isinstance(node.op, Conv2d):
                continue
            step, conv = steps[_planned(graph, node, steps)]
            numbers = torch.from_numpy(distances(conv, step.in_packings[0], step.packing))
            if step.name not in first:
                first[step.name] = self.count
                layers.append(torch.full((int(numbers.max()) + 1,), len(layers)))
                self.count += len(layers[-1])
            edge = conv.padding[0] - node.op.padding[0]  # a shortcut is in the middle of the convolution it is part of
            inside = slice(edge, edge + node.op.kernel[0])
            self.of[node.op.weight] = first[step.name] + numbers[:, :, inside, inside]
        self.layer = torch.cat(layers)

    def _number_linear(self, graph: Graph) -> None:
        self.count, self.of = 0, {}
        layers: list[Tensor] = []
        for node in graph:
            if isinstance(node.op, Linear):
                outputs, inputs = node.op.tensor_shapes(graph.inputs_of(node))["weight"]
                period = 1 << (max(outputs, inputs) - 1).bit_length()
                apart = (torch.arange(inputs) - torch.arange(outputs)[:, None]) % period
                occurs, numbers = torch.unique(apart, return_inverse=True)
                self.of[node.op.weight] = self.count + numbers
                layers.append(torch.full((len(occurs),), len(layers)))
                self.count += len(occurs)
        self.layer = torch.cat(layers)

    @torch.no_grad()
    def masks(self, module: nn.Module, part: float) -> dict[str, Tensor]:
        """Returns, by weight name, False on this part of all diagonals: the smallest by sum of squares, as multiples of
        the mean of their convolution. What is zero already goes first, so masks of growing parts hold one another."""
        weights = {name: module.get_parameter(name) for name in self.of}
        sizes = torch.zeros(self.count)
        for name, weight in weights.items():
            sizes.index_add_(0, self.of[name].flatten(), weight.detach().float().cpu().square().flatten())
        sums = torch.zeros(int(self.layer.max()) + 1).index_add_(0, self.layer, sizes)
        relative = sizes / (sums / self.layer.bincount()).clamp_min(torch.finfo(torch.float32).tiny)[self.layer]
        stays = torch.ones(self.count, dtype=torch.bool)
        stays[relative.argsort(stable=True)[: round(part * self.count)]] = False
        return {name: stays[self.of[name]].to(weight.device) for name, weight in weights.items()}


def _planned(graph: Graph, node: Node, steps: Container[str]) -> str:
    """What a convolution is part of in the plan: itself, its batch norm, or the sum of a block."""
    while node.name not in steps:
        (node,) = graph.users(node.name)
    return node.name


def unpruned(graph: Graph) -> Plan:
    """Compiles a network without any zeros, under the set that is meant for it.

    Raises:
        PlanError: the network cannot be evaluated encrypted.
    """
    return compile(zoo.placeholder(graph), set_for(graph.name))


def saved(model: Model) -> dict[str, str]:
    """Says what pruning brings, by compiling the model and one that has no zeros; for the model card."""
    full, left = unpruned(model.graph), compile(model, set_for(model.name))
    before, after = (plan.keys[PLACED_UNDER].seconds for plan in (full, left))
    return {
        f"products with plaintexts, set {left.params.name}": f"{full.multiplications:,} -> {left.multiplications:,}",
        f"predicted seconds, set {left.params.name}": f"{before:.3g} -> {after:.3g}",
    }
