"""Rotates replicas of tensors that leave slots idle, where that makes convolutions cheaper.

A tensor of B blocks that a ciphertext holds K times may have each replica rotated by B / K blocks against the one
before. A convolution from rotated replicas to equal ones takes a K-th of the diagonals, one from equal replicas to
rotated ones as many as before, so in a chain every second convolution is K times smaller (docs/explanation/packing.md):

    conv -> relu -> conv   =>   conv (to rotated replicas) -> relu -> conv (from rotated replicas, to equal ones)

What works slot by slot keeps an arrangement, so the values between convolutions form groups of one arrangement: both
inputs of an `add` are in one, and so are an activation's input and output. The input, and what a linear layer reads,
have equal replicas. Among all choices this is the one of the least predicted time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from fheinfer.compiler.maps import LINEAR
from fheinfer.compiler.passes.pack import groups
from fheinfer.compiler.prices import Prices
from fheinfer.compiler.program import Program
from fheinfer.compiler.views import VIEWS
from fheinfer.model import ops
from fheinfer.packing import Packing

Choice = dict[str, int]
"""Group -> slots by which each replica is rotated against the one before."""


def replicas(program: Program) -> Program:
    """Rotates replicas in the packings where convolutions become cheaper by that; consumes no level."""
    graph, packings = program.graph, program.packings
    group = groups(graph)
    options = {g: _rotations(packings[g], program.params.slots) for g in set(group.values())}
    for node in graph:
        if isinstance(node.op, ops.Conv2d):
            continue
        if isinstance(node.op, (ops.Input, ops.SumPool, *LINEAR, *VIEWS)):
            options |= {group[name]: (0,) for name in (node.name, *node.inputs)}
    for name in graph.outputs:
        options[group[name]] = (0,)

    layers = [node for node in graph if isinstance(node.op, ops.Conv2d)]
    if not layers:
        return program
    last = {g: i for i, n in enumerate(layers) for g in (group[n.inputs[0]], group[n.name])}
    prices = Prices(program)
    # Convolution by convolution; of the choices that agree in all groups still to be read, only the best goes on.
    best: dict[frozenset[tuple[str, int]], tuple[float, Choice]] = {frozenset(): (0.0, {})}
    for index, node in enumerate(layers):
        source, target = group[node.inputs[0]], group[node.name]
        after: dict[frozenset[tuple[str, int]], tuple[float, Choice]] = {}
        for total, chosen in best.values():
            for choice in _extended(chosen, (source, target), options):
                before = packings[node.inputs[0]].rotated(choice[source])
                cost = total + prices.layer(node, before, packings[node.name].rotated(choice[target]))
                alive = frozenset((g, s) for g, s in choice.items() if last[g] > index)
                if alive not in after or cost < after[alive][0]:
                    after[alive] = cost, choice
        best = after
    _, choice = min(best.values(), key=lambda found: found[0])
    arranged = {name: packing.rotated(choice.get(group[name], 0)) for name, packing in packings.items()}
    return replace(program, packings=arranged)


def _rotations(packing: Packing, slots: int) -> tuple[int, ...]:
    if packing.ciphertexts > 1 or packing.gap is None:
        return (0,)
    blocks = packing.period // packing.block
    copies = [2**i for i in range(1, min(blocks, slots // packing.period).bit_length())]
    return (0, *(blocks // k * packing.block for k in copies))


def _extended(chosen: Choice, groups: Iterable[str], options: Mapping[str, tuple[int, ...]]) -> Iterator[Choice]:
    """The choice with a rotation for each of these groups that lacks one, in every way."""
    open_groups = [g for g in dict.fromkeys(groups) if g not in chosen]
    for found in product(*(options[g] for g in open_groups)):
        yield chosen | dict(zip(open_groups, found, strict=True))
