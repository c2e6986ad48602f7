"""Inserts bootstraps and gives every node the level of its output, and what it costs there.

A shortest path. Going through the nodes in order, all that matters of what was done so far is the level of every value
that is still read later; of two ways with the same levels only the cheaper can be part of the best plan, and one that
is costlier with no value higher cannot. Any value may drop to a lower level for nothing, which makes everything after
it cheaper. A bootstrap may come where a polynomial or a linear layer reads a value that is in [-1, 1]; its result
replaces the value for all that follows. The input costs what its limbs weigh on the way to the server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fheinfer.compiler.magnitudes import largest_slots, open_values
from fheinfer.compiler.maps import LINEAR
from fheinfer.compiler.program import PLACED_UNDER, Program
from fheinfer.compiler.steps import BOOTSTRAPPED
from fheinfer.compiler.work import Work
from fheinfer.crypto.key_policy import KeyPolicy
from fheinfer.crypto.params import ParameterSet, parameter_sets
from fheinfer.errors import PlanError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Bootstrap, Input

SLACK = 1e-9
"""Rounding of a value that fills its slots."""
SECONDS_PER_MEGABYTE = 1.0
"""What a client's time is worth while an input goes up: one more limb of it is 0.4 MB at N = 2^16."""

MOST_WAYS = 500
"""Ways that go on after a node, the cheapest: graphs with many values alive at once have more than can be looked at."""


@dataclass(frozen=True)
class _Choice:
    """One node: whether its input is bootstrapped before, and the level it works at (before it consumes its own)."""

    bootstrap: bool
    level: int


@dataclass(frozen=True)
class _Way:
    """A way to have computed all nodes so far."""

    seconds: float
    choice: _Choice
    before: _Way | None = None


Ways = dict[tuple[int, ...], _Way]
"""By the levels of the values that are still read."""


def levels(program: Program, traced: Mapping[str, Work] | None = None) -> Program:
    """Inserts bootstraps and gives every node its level, by the least predicted time.

    Args:
        traced: `at_top` of the same program, where that is known.

    Raises:
        PlanError: the set has too few levels for the network, or between two bootstraps.
    """
    traced = at_top(program) if traced is None else traced
    choices = _shortest(program, traced)
    nodes: list[Node] = []
    packings, scales = dict(program.packings), dict(program.scales)
    at, works = dict[str, int](), dict[str, Work]()
    current: dict[str, str] = {}  # value -> the node that has it now: itself, or a bootstrap of it
    for node in program.graph:
        choice = choices[node.name]
        if choice.bootstrap:
            source, fresh = node.inputs[0], f"{node.name}/bootstrap"
            nodes.append(Node(fresh, Bootstrap(), (current[source],)))
            packings[fresh], scales[fresh] = packings[source], scales[source]
            at[fresh] = program.params.levels
            works[fresh] = Work.of_bootstrap(packings[source].ciphertexts)
            current[source] = fresh
        current[node.name] = node.name
        if isinstance(node.op, Input):
            at[node.name] = choice.level
            nodes.append(node)
            continue
        nodes.append(replace(node, inputs=tuple(current[name] for name in node.inputs)))
        at[node.name] = choice.level - program.depth(node)
        works[node.name] = _at(traced[node.name], choice.level, program.params)
    return replace(program.with_nodes(nodes), packings=packings, scales=scales, levels=at, works=works)


def at_top(program: Program, policy: KeyPolicy = PLACED_UNDER) -> dict[str, Work]:
    """What every node takes at the top of the chain with the keys of a policy."""
    return {node.name: program.trace(program.step(node), policy) for node in program.graph.nodes[1:]}


def placed_works(program: Program, traced: Mapping[str, Work]) -> list[Work]:
    """What the steps of a levelled program take, where `traced` is what its nodes take at the top of the chain."""
    return [
        _at(traced[node.name], program.levels[node.name] + program.depth(node), program.params)
        if node.name in traced
        else program.works[node.name]
        for node in program.graph.nodes[1:]
    ]


def moved(traced: Mapping[str, Work], params: ParameterSet, other: ParameterSet) -> dict[str, Work]:
    """The same at the top of another chain of the same kind and slots, without tracing anything."""
    up = other.limbs(other.top_level) - params.limbs(params.top_level)
    return {name: work.higher(up) for name, work in traced.items()}


def total_depth(program: Program) -> int:
    """Levels from the input to the outputs without any bootstrap."""
    flat = replace(program.params, cts_budget=0, stc_budget=0, levels=program.params.top_level, bootstrap_levels=0)
    return _least(replace(program, params=flat), ())[program.graph.input.name]


def _shortest(program: Program, works: Mapping[str, Work]) -> dict[str, _Choice]:
    graph, params = program.graph, program.params
    seconds = _prices(program, works)
    bootstrap = program.cost.seconds(Work.of_bootstrap()) if params.bootstraps else 0.0
    places = bootstrap_places(program)
    least = _least(program, places)
    alive: tuple[str, ...] = (graph.input.name,)
    limb = (params.scale_bits << params.log_n) / 8 * SECONDS_PER_MEGABYTE / 1e6
    limb *= program.packings[graph.input.name].ciphertexts
    # Higher, and a layer's rotation keys would have to be taller for the first one alone.
    highest = min(params.levels + 1, params.top_level)
    ways: Ways = {
        (level,): _Way(limb * level, _Choice(False, level))
        for level in range(least[graph.input.name], highest + 1)
        if params.encrypts_at(level)
    }
    for index, node in enumerate(graph.nodes[1:], start=1):
        kept = tuple(name for name in alive if any(name in later.inputs for later in graph.nodes[index + 1 :]))
        depth = program.depth(node)
        found: Ways = {}
        for levels_, way in ways.items():
            have = dict(zip(alive, levels_, strict=True))
            for bootstraps, given in _inputs(program, node, have, places):
                highest = min(given[name] for name in node.inputs)
                rest = tuple(given[name] for name in kept)
                for level in range(least[node.name] + depth, highest + 1):
                    total = way.seconds + seconds[node.name][level]
                    if bootstraps:
                        total += bootstrap * program.packings[node.inputs[0]].ciphertexts
                    key = (*rest, level - depth)
                    if key not in found or total < found[key].seconds:
                        found[key] = _Way(total, _Choice(bootstraps, level), way)
        if not found:
            raise _too_short(program, node, least)
        ways, alive = _undominated(found), (*kept, node.name)
    return _read_back(graph, min(ways.values(), key=lambda way: way.seconds))


def bootstrap_places(program: Program) -> frozenset[str]:
    """The nodes before which a bootstrap may come: what they read is in [-1, 1].

    It is no input of the network, which a client encrypts at any level.
    """
    if not program.params.bootstraps:
        return frozenset()
    entry = program.graph.input.name
    small = {name for name, slot in largest_slots(program).items() if slot <= 1 + SLACK} - open_values(program)
    return frozenset(
        node.name
        for node in program.graph.nodes[1:]
        if isinstance(node.op, BOOTSTRAPPED)
        or (isinstance(node.op, LINEAR) and node.inputs[0] != entry and node.inputs[0] in small)
    )


def _inputs(
    program: Program, node: Node, have: dict[str, int], places: Collection[str]
) -> Iterator[tuple[bool, dict[str, int]]]:
    """The levels of all values as they are, and with a bootstrap of the node's input."""
    yield False, have
    params, source = program.params, node.inputs[0]
    reaches = program.backend.bootstrap_input(params) <= have[source] < params.levels
    if node.name in places and reaches:
        yield True, {**have, source: params.levels}


def _prices(program: Program, works: Mapping[str, Work]) -> dict[str, list[float]]:
    """Seconds of every node by the level it works at; two nodes of the same work are priced once."""
    params, cost, known = program.params, program.cost, dict[str, list[float]]()
    out = {}
    for name, work in works.items():
        key = repr(work)
        if key not in known:
            depth = program.depth(program.graph[name])
            known[key] = [
                cost.seconds(_at(work, level, params)) if level >= depth else 0.0
                for level in range(params.top_level + 1)
            ]
        out[name] = known[key]
    return out


def _at(work: Work, level: int, params: ParameterSet) -> Work:
    """What was traced at the top of the chain, at this level."""
    return work.higher(params.limbs(level) - params.limbs(params.top_level))


def _least(program: Program, places: Collection[str]) -> dict[str, int]:
    """The lowest level a node's output may have so that everything after it reaches the next place for a bootstrap.

    A bootstrap lifts a value for all that read it from there on; those before need their levels.
    """
    least: dict[str, int] = {}
    graph, lowest = program.graph, program.backend.bootstrap_input(program.params) if places else 0
    for node in reversed(graph.nodes):
        before, ways = 0, list[int]()
        for user in graph.users(node.name):  # in the order of the graph
            if user.name in places and node.name == user.inputs[0]:
                ways.append(max(before, lowest))
            before = max(before, least[user.name] + program.depth(user))
        least[node.name] = min(before, *ways) if ways else before
    return least


def _undominated(ways: Ways) -> Ways:
    order = sorted(ways, key=lambda key: (ways[key].seconds, [-level for level in key]))
    known = np.zeros((MOST_WAYS, len(order[0])), np.int16)
    kept: Ways = {}
    for key in order:
        if len(kept) == MOST_WAYS:
            break
        if not (known[: len(kept)] >= key).all(axis=1).any():
            known[len(kept)] = key
            kept[key] = ways[key]
    return kept


def _read_back(graph: Graph, last: _Way) -> dict[str, _Choice]:
    taken: list[_Choice] = []
    way: _Way | None = last
    while way is not None:
        taken.append(way.choice)
        way = way.before
    return dict(zip((node.name for node in reversed(graph.nodes)), taken, strict=True))


def _sets_of(program: Program, needed: int) -> str:
    """Names of the sets that have so many levels, or bootstraps of the program's backend."""
    names = []
    for params in parameter_sets():
        fits = params.bootstrap_levels == program.backend.bootstrap_levels(params)
        if fits if params.bootstraps else params.top_level >= needed:
            names.append(params.name)
    return ", ".join(names)


def _too_short(program: Program, node: Node, least: dict[str, int]) -> PlanError:
    params = program.params
    what = f"activation {node.activation!r}" if node.activation else f"node {node.name!r}"
    needs = program.depth(node) + least[node.name]
    if not params.bootstraps:
        total = least[program.graph.input.name]
        return PlanError(
            f"set {params.name} has {params.top_level} levels and no bootstrapping; too few for {what}, as the whole "
            f"network needs {total}; choose a set that has as many, or one with bootstraps: {_sets_of(program, total)}"
        )
    return PlanError(
        f"set {params.name} leaves {params.levels} levels after a bootstrap; {what} ({program.relu.name}) and what "
        f"follows it up to the next bootstrap need {needs}; choose a set of more levels or an activation of fewer"
    )
