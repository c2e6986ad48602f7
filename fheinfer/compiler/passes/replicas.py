"""Rotates replicas of tensors that leave slots idle, where that makes convolutions cheaper.

A tensor of B blocks that a ciphertext holds K times may have each replica rotated by B / K blocks against the one
before. A convolution from rotated replicas to equal ones takes a K-th of the diagonals, one from equal replicas to
rotated ones as many as before, so in a chain every second convolution is K times smaller (docs/packing.md):

    conv -> relu -> conv   =>   conv (to rotated replicas) -> relu -> conv (from rotated replicas, to equal ones)

What works slot by slot keeps an arrangement, so the values between convolutions form groups of one arrangement: both
inputs of an `add` are in one, and so are an activation's input and output. The input, and what a linear layer reads,
have equal replicas. Among all choices this is the one of the least predicted time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from fheinfer import _core
from fheinfer.compiler.program import Program
from fheinfer.compiler.steps import conv_of
from fheinfer.compiler.work import Work
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Conv2d, Input, Linear
from fheinfer.packing import Layout, rotated

Choice = dict[str, int]
"""Group -> blocks by which each replica is rotated against the one before."""


def replicas(program: Program) -> Program:
    """Rotates replicas in the layouts where convolutions become cheaper by that; consumes no level."""
    graph, layouts = program.graph, program.layouts
    group = _groups(graph)
    options = {g: _rotations(layouts[g], program.params.slots) for g in set(group.values())}
    for node in graph:
        if isinstance(node.op, Input | Linear):
            options[group[node.name]] = (0,)
            options |= {group[i]: (0,) for i in node.inputs}

    convolutions = [(n, n.op) for n in graph if isinstance(n.op, Conv2d)]
    last = {g: i for i, (n, _) in enumerate(convolutions) for g in (group[n.inputs[0]], group[n.name])}
    prices = _Prices(program)
    # Convolution by convolution; of the choices that agree in all groups still to be read, only the best goes on.
    best: dict[frozenset[tuple[str, int]], tuple[float, Choice]] = {frozenset(): (0.0, {})}
    for index, (node, op) in enumerate(convolutions):
        source, target = group[node.inputs[0]], group[node.name]
        after: dict[frozenset[tuple[str, int]], tuple[float, Choice]] = {}
        for total, chosen in best.values():
            for choice in _extended(chosen, (source, target), options):
                cost = total + prices.seconds(node, op, choice[source], choice[target])
                alive = frozenset((g, s) for g, s in choice.items() if last[g] > index)
                if alive not in after or cost < after[alive][0]:
                    after[alive] = cost, choice
        best = after
    _, choice = min(best.values(), key=lambda found: found[0])
    arranged = {name: rotated(layout, choice.get(group[name], 0)) for name, layout in layouts.items()}
    return replace(program, layouts=arranged)


def _groups(graph: Graph) -> dict[str, str]:
    """Node -> the first node of its group."""
    group: dict[str, str] = {}
    for node in graph:
        if isinstance(node.op, Input | Conv2d | Linear):
            group[node.name] = node.name
            continue
        first, *others = (group[i] for i in node.inputs)
        group[node.name] = first
        group = {name: first if g in others else g for name, g in group.items()}
    return group


def _rotations(layout: Layout, slots: int) -> tuple[int, ...]:
    copies = [2**i for i in range(1, min(layout.blocks, slots // layout.period).bit_length())]
    return (0, *(layout.blocks // k for k in copies))


def _extended(chosen: Choice, groups: Iterable[str], options: Mapping[str, tuple[int, ...]]) -> Iterator[Choice]:
    """The choice with a rotation for each of these groups that lacks one, in every way."""
    open_groups = [g for g in dict.fromkeys(groups) if g not in chosen]
    for found in product(*(options[g] for g in open_groups)):
        yield chosen | dict(zip(open_groups, found, strict=True))


class _Prices:
    """Predicted seconds of a convolution, once for each shape."""

    def __init__(self, program: Program) -> None:
        self._program, params = program, program.params
        # Levels are given later, and move all prices alike: where a bootstrap is near, or halfway down.
        lowest = program.backend.bootstrap_input(params)
        self._level = lowest + 1 if params.bootstraps else params.top_level // 2
        self._evaluator = _core.TraceEvaluator(program.params.slots, program.level_model)
        self._known: dict[tuple[object, ...], float] = {}

    def seconds(self, node: Node, op: Conv2d, source_rotation: int, rotation: int) -> float:
        """Predicted time of a convolution between replicas rotated by so many blocks."""
        layouts = self._program.layouts
        before, after = rotated(layouts[node.inputs[0]], source_rotation), rotated(layouts[node.name], rotation)
        key = (repr(before), repr(after), op.kernel, op.padding)
        if key not in self._known:
            self._evaluator.reset()
            x, shape = self._evaluator.encrypt(self._level), self._program.constants[op.weight].shape
            _core.conv2d(self._evaluator, x, np.ones(shape), np.zeros(0), before, after, conv_of(op))
            self._known[key] = self._program.cost.seconds(Work.of(self._evaluator.report()))
        return self._known[key]
