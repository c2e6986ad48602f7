"""Gives every value its packing: in which slots of which ciphertexts its elements are.

The input is unpacked (gap 1). What works slot by slot keeps a packing, so the values between linear layers form groups
of one packing; both addends of a sum are in one. A linear layer may write to any packing. Weighed are two, by predicted
time of the layer, of those that read it, and of what happens to each ciphertext in between:

    kept    the grid of the input, the gap multiplied by the stride
    fresh   a grid of its own without gaps

A view numbers slots anew and costs nothing. Where its elements do not come out in regular rows and columns, or not
where the other addend is, a repacking follows:

    x ; permute ; conv          =>   x ; permute ; repack ; conv                  one level
    a ; view ; add (view, b)    =>   a ; view ; repack ; add                      unless b is a layer that writes there
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fheinfer.compiler.maps import LINEAR
from fheinfer.compiler.prices import Prices
from fheinfer.compiler.program import Program
from fheinfer.compiler.sum_pools import sum_packing, summable
from fheinfer.compiler.views import VIEWS, view
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.packing import Packing, canonical, grid_packing, input_packing, rounded_up

MAX_TERMS = 1 << 23
"""Larger maps are not considered for a grid of another gap: they take many diagonals, and long to count."""
IMAGES = (ops.Conv2d, ops.ConvTranspose2d, ops.Resample)
"""Operations that read regular rows and columns."""


def pack(program: Program) -> Program:
    """Gives every value its packing; a level for each repacking that views make necessary.

    Raises:
        PlanError: a row of an image is longer than the slots.
    """
    return _Packer(program).run()


class _Packer:
    def __init__(self, program: Program) -> None:
        self.program, self.graph, self.slots = program, program.graph, program.params.slots
        self.group = groups(self.graph)
        self.members: dict[str, list[Node]] = {}
        for node in self.graph:
            self.members.setdefault(self.group[node.name], []).append(node)
        self.of_group: dict[str, Packing] = {}
        self.packings: dict[str, Packing] = {}
        self.nodes: list[Node] = []
        self.prices = Prices(program)

    def run(self) -> Program:
        for node in self.graph:
            try:
                self._place(node)
            except PlanError as error:
                raise PlanError(f"{where(node)}: {error}") from None
        return replace(self.program.with_nodes(self.nodes), packings=self.packings)

    def _place(self, node: Node) -> None:
        op, group = node.op, self.group[node.name]
        shape = self.graph.shapes[node.name]
        if isinstance(op, VIEWS):
            self._view(node)
            return
        if isinstance(op, (*IMAGES, ops.SumPool)):
            node = replace(node, inputs=(self._regular(node),))
        if isinstance(op, ops.Input):
            packing = input_packing(shape, self.slots)
        elif isinstance(op, LINEAR):
            packing = self.of_group.get(group) or self._chosen(node)
        elif isinstance(op, ops.SumPool):
            packing = sum_packing(self.packings[node.inputs[0]], shape)
        else:
            packing = self.of_group[group]
        self._add(node, packing)

    def _add(self, node: Node, packing: Packing) -> None:
        self.nodes.append(node)
        self.packings[node.name] = packing
        self.of_group.setdefault(self.group.get(node.name, node.name), packing)

    def _view(self, node: Node) -> None:
        shape, group = self.graph.shapes[node.name], self.group[node.name]
        packing, _ = view(node.op, [self.packings[name] for name in node.inputs], shape)
        wanted = self.of_group.get(group)
        alone = len(self.members[group]) == 1  # else a factor or term may differ between elements that share a slot
        written = any(isinstance(member.op, IMAGES) for member in self.members[group])  # in regular rows and columns
        kept = (packing.distinct or alone) and (packing.is_image or not written)
        if (wanted is None and kept) or wanted == packing:
            self._add(node, packing)
        else:
            before = f"{node.name}/view"
            self.nodes.append(replace(node, name=before))
            self.packings[before] = packing
            target = wanted or grid_packing(shape, self.slots)
            self._add(Node(node.name, ops.Repack(), (before,), module=node.module), target)

    def _regular(self, node: Node) -> str:
        """The input of a node, repacked where it has no regular rows and columns."""
        (source,) = node.inputs
        packing = self.packings[source]
        if summable(packing) if isinstance(node.op, ops.SumPool) else packing.is_image:
            return source
        name = f"{source}/regular"
        if name not in self.packings:
            self._add(Node(name, ops.Repack(), (source,), module=node.module), grid_packing(packing.shape, self.slots))
        return name

    def _chosen(self, node: Node) -> Packing:
        found = list(self._candidates(node, self.packings[node.inputs[0]]))
        if len(found) == 1:
            return found[0]
        return min(found, key=lambda packing: self._seconds(node, packing))

    def _candidates(self, node: Node, source: Packing) -> Iterator[Packing]:
        """Where the output of a linear layer may be; the first is preferred among equals."""
        shape, slots = self.graph.shapes[node.name], self.slots
        fresh = grid_packing(shape, slots)
        kept = kept_grid(node.op, source, shape, slots)
        if kept is not None:
            yield kept
        if kept is None or (kept != fresh and self._terms(node, source) <= MAX_TERMS):
            yield fresh

    def _terms(self, node: Node, source: Packing) -> int:
        """Weights times pixels: what a map between packings of different strides is made of."""
        weight = self.program.constants.get(getattr(node.op, "weight", ""))
        return (1 if weight is None else weight.size) * math.prod(source.grid[1:])

    def _seconds(self, node: Node, packing: Packing) -> float:
        """Of a layer that writes to this packing, of those that read its group, and of what the group does."""
        total = self.prices.layer(node, self.packings[node.inputs[0]], packing)
        activations = set()
        for member in self.members[self.group[node.name]]:
            if member.activation:
                activations.add(member.activation)
            total += self.prices.slotwise(member) * packing.ciphertexts
            for user in self.graph.users(member.name):
                if isinstance(user.op, LINEAR):
                    source = replace(packing, shape=self.graph.shapes[member.name])
                    if source.is_image or not isinstance(user.op, IMAGES):
                        total += min(
                            self.prices.layer(user, source, target) for target in self._candidates(user, source)
                        )
        return total + self.prices.bootstrap * len(activations) * packing.ciphertexts


def kept_grid(op: ops.Op, source: Packing, shape: Sequence[int], slots: int) -> Packing | None:
    """The grid of the input with the gap that the output's size asks for; None where there is no such grid."""
    if source.gap is None or isinstance(op, ops.Linear):
        return None
    (_, *size), (_, *out) = source.grid, canonical(shape)
    down, up = [1, 1], [1, 1]
    if isinstance(op, ops.Conv2d):
        down = list(op.stride)
    elif isinstance(op, ops.ConvTranspose2d):
        up = list(op.stride)
    elif isinstance(op, ops.Resample):
        down = [max(1, round(n / m)) for n, m in zip(size, out, strict=True)]
        up = [max(1, round(m / n)) for n, m in zip(size, out, strict=True)]
    gap = [g * d / u for g, d, u in zip(source.gap, down, up, strict=True)]
    height = max(source.block // source.width, rounded_up(size[0] * source.gap[0]))
    fits = out[0] * gap[0] <= height and out[1] * gap[1] <= source.width
    if not fits or any(g != int(g) or int(g) & (int(g) - 1) for g in gap):
        return None
    return grid_packing(shape, slots, gap=(int(gap[0]), int(gap[1])), height=height, width=source.width)


def groups(graph: Graph) -> dict[str, str]:
    """Node -> the first node of its group: what has to be in the same slots."""
    group: dict[str, str] = {}
    for node in graph:
        if isinstance(node.op, (ops.Input, ops.SumPool, *LINEAR, *VIEWS)):
            group[node.name] = node.name
            continue
        first, *others = dict.fromkeys(group[name] for name in node.inputs)
        group[node.name] = first
        group = {name: first if g in others else g for name, g in group.items()}
    return group


def where(node: Node) -> str:
    """A node as messages name it."""
    return f"node {node.name!r} ({node.op.kind}{', ' + node.module if node.module else ''})"
