"""Max pools become comparisons: max(a, b) = a + relu(b - a), first along rows of pixels, then along columns.

max_pool   =>   for each two places of a window: resample (b - a) ; relu ; add a

Every value has the pixels of the output along an axis already: of k places in a window the first round compares place 0
with 1, 2 with 3, ..., the next one what won, and so on. That is ceil(log2(k)) rounds of as many levels as a ReLU, and
one for each round that has a difference to form, which is the first of 2 or 3 places. Where a place lies outside the
image, another place of the same window takes its part, which changes no maximum. The ReLUs are approximated as all
others are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.passes.sizes import interval_of
from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, MaxPool, Op, Relu, Resample, Shape, Slice

OVERSHOOT = 1.1
"""How much larger than its range the output of a polynomial may be: differences need no more than that."""

Places = NDArray[np.intp]
"""For each output along an axis, the input that one place of its window holds."""


def max_pools(program: Program) -> Program:
    """Replaces every max pool by comparisons, each a ReLU of a difference.

    Raises:
        PlanError: a max pool whose range is not known, or a window without a pixel.
    """
    constants, ranges, bounds = dict(program.constants), dict(program.ranges), dict(program.bounds)
    nodes: list[Node] = []
    for node in program.graph:
        if not isinstance(node.op, MaxPool):
            nodes.append(node)
            continue
        bound = _range(program, node)
        made = _Comparisons(node, program.graph.shapes[node.inputs[0]], constants).nodes_of(node.op)
        ranges |= {n.name: bound for n in made if isinstance(n.op, Relu)}
        largest = max(map(abs, interval_of(program, node.inputs[0])))
        bounds |= {n.name: largest for n in made if isinstance(n.op, Add) and n.name.rpartition("/")[2] != "less"}
        nodes += made
    return replace(program.with_nodes(nodes, constants), ranges=ranges, bounds=bounds)


def _range(program: Program, pool: Node) -> float:
    """How large a difference of two inputs may be, by what the pool reads or what was measured of it."""
    low, high = interval_of(program, pool.inputs[0])
    measured = program.ranges.get(pool.name, math.inf)
    spread = min(high, measured) - max(low, -measured)
    if not spread < math.inf:
        raise PlanError(
            f"no range is known for the max pool {pool.name!r}; measure it with `fheinfer calibrate`, in Python with "
            "model.calibrate(data), or replace max pools by mean pools and train the network again"
        )
    return spread * OVERSHOOT or 1.0


@dataclass(frozen=True)
class _Contender:
    """One value per output pixel: a node that has it, or places of what the axis began with."""

    node: str = ""
    places: Places | None = None


class _Comparisons:
    """The nodes that one pool becomes, along one axis after the other."""

    def __init__(self, pool: Node, shape: Shape, constants: dict[str, NDArray[np.float64]]) -> None:
        self.pool, self.constants = pool, constants
        self.size = list(shape[1:])
        self.x = pool.inputs[0]
        self.nodes: list[Node] = []
        self.count = 0  # outputs along the axis that is compared

    def nodes_of(self, op: MaxPool) -> list[Node]:
        """Returns them; the last one has the name of the pool."""
        for axis in (1, 0):
            before, after = op.padding[2 * axis : 2 * axis + 2]
            places = self._places(axis, op.kernel[axis], op.stride[axis], op.dilation[axis], before, after)
            self.x = self._along(axis, places)
            self.size[axis] = len(places[0])
        if not self.nodes or self.nodes[-1].name != self.x:
            self._add("out", Slice(1, 0, self.size[0]), self.x)
        self.nodes[-1] = replace(self.nodes[-1], name=self.pool.name)
        return self.nodes

    def _places(self, axis: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> list[Places]:
        length = self.size[axis]
        count = (length + before + after - dilation * (kernel - 1) - 1) // stride + 1
        where = stride * np.arange(count)[:, None] + dilation * np.arange(kernel) - before
        inside = (where >= 0) & (where < length)
        if not inside.any(axis=1).all():
            raise PlanError(f"max_pool {self.pool.name!r} has a window without a pixel; give it less padding")
        first = where[np.arange(count), inside.argmax(axis=1)]
        where = np.where(inside, where, first[:, None])
        return [np.asarray(column) for column in dict.fromkeys(map(tuple, where.T.tolist()))]

    def _along(self, axis: int, places: list[Places]) -> str:
        """The rounds along one axis; returns the node that has the largest value of every window."""
        direction = "rows" if axis else "columns"
        self.count = len(places[0])
        contenders, number = [_Contender(places=p) for p in places], 0
        while len(contenders) > 1:
            winners = []
            for a, b in zip(contenders[::2], contenders[1::2], strict=False):
                winners.append(self._larger(axis, a, b, f"{direction}{number}"))
                number += 1
            contenders = winners + contenders[2 * len(winners) :]
        return self._value(axis, contenders[0], direction)

    def _larger(self, axis: int, a: _Contender, b: _Contender, name: str) -> _Contender:
        """a + relu(b - a). Of one that won before and one that the axis began with, the second is a: -a takes no level
        beside the comparison that the first came from."""
        if a.places is None and b.places is not None:
            a, b = b, a
        if a.places is None:
            taken = self._resample(f"{name}/negative", axis, -np.eye(self.count), a.node)
        else:
            matrix = -self._matrix(axis, a.places)
            matrix += 0 if b.places is None else self._matrix(axis, b.places)
            taken = self._resample(f"{name}/difference", axis, matrix, self.x)
        difference = self._add(f"{name}/less", Add(), b.node, taken) if b.places is None else taken
        positive = self._add(f"{name}/relu", Relu(), difference)
        return _Contender(self._add(name, Add(), self._value(axis, a, f"{name}/first"), positive))

    def _value(self, axis: int, contender: _Contender, name: str) -> str:
        """The node of a contender: a view where its places are evenly spaced, else a linear map."""
        places = contender.places
        if places is None:
            return contender.node
        start, stop = int(places[0]), int(places[-1]) + 1
        step = int(places[1]) - start if len(places) > 1 else 1
        if step < 1 or not np.array_equal(places, np.arange(start, stop, step)):
            return self._resample(name, axis, self._matrix(axis, places), self.x)
        if (start, stop, step) == (0, self.size[axis], 1):
            return self.x
        return self._add(name, Slice(axis + 1, start, stop, step), self.x)

    def _matrix(self, axis: int, places: Places) -> NDArray[np.float64]:
        """1 where an output takes an input."""
        return np.eye(self.size[axis])[places]

    def _resample(self, name: str, axis: int, matrix: NDArray[np.float64], x: str) -> str:
        """A linear map of every channel along one axis."""
        full = f"{self.pool.name}/{name}"
        other = np.eye(self.size[1 - axis])
        rows, columns = (matrix, other) if axis == 0 else (other, matrix)
        self.constants[f"{full}/rows"], self.constants[f"{full}/columns"] = rows, columns
        return self._add(name, Resample((len(rows), len(columns)), f"{full}/rows", f"{full}/columns"), x)

    def _add(self, name: str, op: Op, *inputs: str) -> str:
        self.nodes.append(Node(f"{self.pool.name}/{name}", op, inputs, module=self.pool.module))
        return self.nodes[-1].name
