"""Magnitude pruning of whole generalised diagonals: each is one plaintext and one product less when encrypted.

Which numbers of a weight share a diagonal follows from where the plan puts channels and pixels (docs/packing.md). Of a
convolution that the compiler merges with its shortcut, both have to be zero there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fheinfer.compiler.pipeline import compile
from fheinfer.crypto.keygen import manifest_plan
from fheinfer.crypto.params import ParameterSet, parameter_set, parameter_sets
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Weights
from fheinfer.packing import diagonals


def set_of(network: str) -> ParameterSet:
    """The set that is made for a network, or set 1."""
    made = (s for s in parameter_sets(insecure=True) if s.network == network)
    return next(made, parameter_set(1))


class Diagonals:
    """The diagonals of all convolutions of a network, numbered through.

    Raises:
        PlanError: the network cannot be evaluated encrypted.
    """

    def __init__(self, network: str) -> None:
        graph = zoo.network(network)
        steps = {step.name: step for step in manifest_plan(network, set_of(network)).steps if step.conv}
        first, self.count = dict[str, int](), 0
        layers: list[Tensor] = []
        self.of: dict[str, Tensor] = {}
        for node in graph:
            if node.op != "conv2d":
                continue
            step = steps[_planned(graph, node, steps).name]
            assert step.conv is not None
            kernel, _, padding = step.conv
            numbers = torch.from_numpy(diagonals(step.in_layout, step.layout, kernel, padding))
            if step.name not in first:
                first[step.name] = self.count
                layers.append(torch.full((int(numbers.max()) + 1,), len(layers)))
                self.count += len(layers[-1])
            edge = padding - node.attrs["padding"]  # a shortcut stands in the middle of the convolution it is part of
            inside = slice(edge, edge + node.attrs["kernel"])
            self.of[node.weights["weight"]] = first[step.name] + numbers[:, :, inside, inside]
        self.layer = torch.cat(layers)

    @torch.no_grad()
    def masks(self, module: nn.Module, part: float) -> dict[str, Tensor]:
        """By weight name, False on this part of all diagonals: the smallest by sum of squares, as multiples of the mean
        of their convolution. What is zero already goes first, so masks of growing parts hold one another."""
        weights = {name: module.get_parameter(name) for name in self.of}
        sizes = torch.zeros(self.count)
        for name, weight in weights.items():
            sizes.index_add_(0, self.of[name].flatten(), weight.detach().float().cpu().square().flatten())
        sums = torch.zeros(int(self.layer.max()) + 1).index_add_(0, self.layer, sizes)
        relative = sizes / (sums / self.layer.bincount()).clamp_min(torch.finfo(torch.float32).tiny)[self.layer]
        stays = torch.ones(self.count, dtype=torch.bool)
        stays[relative.argsort(stable=True)[: round(part * self.count)]] = False
        return {name: stays[self.of[name]].to(weight.device) for name, weight in weights.items()}


def _planned(graph: Graph, node: Node, steps: Mapping[str, object]) -> Node:
    """What a convolution is part of in the plan: itself, its batch norm, or the sum of a block."""
    while node.name not in steps:
        (node,) = graph.users(node.name)
    return node


def saved(weights: Weights) -> dict[str, str]:
    """What pruning brings, by compiling with the weights and with others that have no zeros; for the model card."""
    params = set_of(weights.network)
    full, left = manifest_plan(weights.network, params), compile(weights, params)
    return {
        f"products with plaintexts, set {params.name}": f"{full.multiplications:,} -> {left.multiplications:,}",
        f"predicted seconds, set {params.name}": f"{full.prediction.seconds:.3g} -> {left.prediction.seconds:.3g}",
    }
