"""A graph under change: what passes over network operations have in common.

A pass makes a `Rewriter` of its program, puts and rewires nodes, and takes the new program from `finish`, which sorts
the nodes and drops those that nobody reads any more, with their constants.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.model.graph import Node
from fheinfer.model.ops import Op, Shape

F64 = NDArray[np.float64]


class Rewriter:
    """The nodes of a program by name, with their users and shapes kept as they change.

    Attributes:
        nodes: name -> node, in no particular order.
        shapes: name -> shape of its value.
        constants: name -> array; new ones are added by `constant`.
        outputs: names that have to stay, with the values that they have.
    """

    def __init__(self, program: Program) -> None:
        graph = program.graph
        self.program = program
        self.nodes: dict[str, Node] = {node.name: node for node in graph}
        self.shapes: dict[str, Shape] = dict(graph.shapes)
        self.constants: dict[str, F64] = dict(program.constants)
        self.outputs = frozenset(graph.outputs)
        self._readers: dict[str, dict[str, None]] = {name: {} for name in self.nodes}
        for node in graph:
            self._connect(node)

    def __iter__(self) -> Iterator[Node]:
        """The nodes as they were when the walk began, without those that have gone since."""
        for name in list(self.nodes):
            if name in self.nodes:
                yield self.nodes[name]

    def until_stable(self, step: Callable[[Node], bool]) -> None:
        """Calls `step` with every node, again and again, until none of the calls says that it changed something."""
        changed = True
        while changed:
            changed = False
            for node in self:
                changed |= step(node)

    def users(self, name: str) -> list[Node]:
        """The nodes that read a value, each once."""
        return [self.nodes[user] for user in self._readers[name]]

    def only_user(self, name: str) -> Node | None:
        """The one node that reads a value, once; None where there are more, or where it is an output."""
        readers = self._readers[name]
        if len(readers) != 1 or name in self.outputs:
            return None
        (user,) = self.users(name)
        return user if user.inputs.count(name) == 1 else None

    def is_private(self, name: str) -> bool:
        """Whether a value has one reader, so that it may change with it."""
        return self.only_user(name) is not None

    def put(self, node: Node) -> str:
        """Adds a node, or replaces the one of its name; returns the name."""
        if old := self.nodes.get(node.name):
            for name in old.inputs:
                self._readers[name].pop(old.name, None)
        self.nodes[node.name] = node
        self._readers.setdefault(node.name, {})
        self._connect(node)
        self.shapes[node.name] = node.op.infer([self.shapes[name] for name in node.inputs])
        return node.name

    def add(self, name: str, op: Op, *inputs: str, like: Node | None = None) -> str:
        """A new node under that name, or one like it where it is taken; `like` gives what else a node has."""
        base = replace(like, activation="") if like is not None else Node(name, op, inputs)
        return self.put(replace(base, name=self.fresh(name, self.nodes), op=op, inputs=inputs))

    def turn(self, node: Node, op: Op, *inputs: str) -> None:
        """The node of that name becomes another operation on these values; what it no longer reads may go."""
        old = self.nodes[node.name].inputs
        self.put(replace(node, op=op, inputs=inputs))
        for name in old:
            self.drop(name)

    def take_over(self, old: str, new: str) -> None:
        """The node `old`, which nobody but `new` reads, becomes the node `new`."""
        node = self.nodes[old]
        self.put(replace(node, name=new))
        self.drop(old)

    def change(self, name: str, **fields: Any) -> None:
        """Replaces fields of the operation of a node."""
        node = self.nodes[name]
        self.put(replace(node, op=replace(node.op, **fields)))

    def rewire(self, old: str, new: str) -> None:
        """Whoever reads `old` reads `new` from now on; an output keeps its name, and so stays."""
        for user in self.users(old):
            self.put(replace(user, inputs=tuple(new if name == old else name for name in user.inputs)))

    def drop(self, name: str) -> None:
        """Removes a node that nobody reads, and those that only it has read."""
        if name not in self.nodes or self._readers[name] or name in self.outputs or not self.nodes[name].inputs:
            return
        node = self.nodes.pop(name)
        del self._readers[name], self.shapes[name]
        for source in dict.fromkeys(node.inputs):
            self._readers[source].pop(name, None)
            self.drop(source)

    def constant(self, name: str, array: F64) -> str:
        """Keeps an array under that name, or one like it where it is taken; returns the name."""
        free = self.fresh(name, self.constants)
        self.constants[free] = np.asarray(array, np.float64)
        return free

    @staticmethod
    def fresh(name: str, taken: Container[str]) -> str:
        """The name, with as many primes as make it new."""
        while name in taken:
            name += "'"
        return name

    def finish(self) -> Program:
        """The program of what outputs need, in an order in which it can be computed."""
        live = _sorted(self.nodes, [self.program.graph.input.name, *self.program.graph.outputs])
        used = {name for node in live for name in node.op.tensors.values()}
        return self.program.with_nodes(live, {n: a for n, a in self.constants.items() if n in used})

    def _connect(self, node: Node) -> None:
        for name in node.inputs:
            self._readers[name][node.name] = None


def _sorted(nodes: dict[str, Node], ends: list[str]) -> list[Node]:
    """What `ends` need, every node after its inputs, else in the order of `nodes`."""
    needed: set[str] = set()
    waiting = list(ends)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting.extend(nodes[name].inputs)
    done: dict[str, Node] = {ends[0]: nodes[ends[0]]}
    for name in nodes:
        stack = [name] if name in needed else []
        while stack:
            missing = [source for source in nodes[stack[-1]].inputs if source not in done]
            if missing:
                stack.append(missing[0])
            else:
                last = stack.pop()
                done[last] = nodes[last]
    return list(done.values())
