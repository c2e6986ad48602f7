"""Decides by how much each node's slots are smaller than its values (value = slot * scale, one number or one per
channel), and folds every factor into weights and coefficients, so that no level is spent on scaling.

A polynomial needs its input in [-1, 1]: the node before it gets scale B, its range. Its output may have any scale for
free, by its coefficients; so may that of a product, by those of its second factor. Both addends of a sum need the scale
of the sum.

c2 x^2 + c1 x + c0 = c2 (x + h)^2 + k, so with x / R + h / R in the slots a quadratic is one square and one constant,
and its output has the scale c2 R^2 of its own, negative or not. R makes slots as large as the set allows
(`ParameterSet.max_slot`), because noise is as large whatever the slots are. Where a sum asks for another scale, the
addend gets its channels scaled: one level, beside the convolution on the other branch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.compiler.values import F64, Scale
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.model.graph import Node


def scales(program: Program) -> Program:
    """Gives every value its scale and folds the factors into constants; one level where an addend has to be scaled.

    Raises:
        PlanError: a value that feeds activations of different ranges, or a quadratic with a channel that is linear.
    """
    return _Scales(program).run()


def same(a: Scale, b: Scale) -> bool:
    """Whether two scales are equal to within rounding."""
    return bool(np.allclose(a, b, rtol=1e-12, atol=0))


class _Scales:
    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, program.graph
        self.constants = dict(program.constants)
        self.layouts = dict(program.layouts)
        self.nodes: list[Node] = []
        self.of: dict[str, Scale] = {}
        self.max_slot = program.params.max_slot
        self.largest: dict[str, float] = {}  # slot of each node
        self._visits: dict[type[ops.Op], Callable[[Node, Any], tuple[Node, Scale]]] = {
            ops.Input: self._input,
            ops.Conv2d: self._linear_map,
            ops.Linear: self._linear_map,
            ops.Chebyshev: self._chebyshev,
            ops.Multiply: self._multiply,
            ops.Quadratic: self._quadratic,
            ops.Add: self._add,
        }

    def run(self) -> Program:
        for node in self.graph:
            visit = self._visits.get(type(node.op), self._unchanged)
            node, self.of[node.name] = visit(node, node.op)
            self.largest[node.name] = self._largest(node)
            self.nodes.append(node)
        program = self.program.with_nodes(self.nodes, self.constants)
        return replace(program, scales=self.of, layouts=self.layouts)

    def _largest(self, node: Node) -> float:
        if isinstance(node.op, ops.Input | ops.Chebyshev):
            return 1.0
        if isinstance(node.op, ops.Square):
            return self.max_slot**2
        unchanged = isinstance(node.op, ops.SumPool)
        return self.largest[node.inputs[0]] if unchanged else self.max_slot

    def _input(self, node: Node, op: ops.Input) -> tuple[Node, Scale]:
        return node, self.program.input_bound

    def _linear_map(self, node: Node, op: ops.Conv2d | ops.Linear) -> tuple[Node, Scale]:
        asked = self._required(node.name)
        out = self._bound(node, op) if asked is None else asked
        weight = self.constants[op.weight]
        axes = (1,) * (weight.ndim - 2)
        columns = _by_input(self.of[node.inputs[0]], weight.shape[1]).reshape(1, -1, *axes)
        rows = np.broadcast_to(out, weight.shape[0]).reshape(-1, 1, *axes)
        scaled = f"{node.name}/scaled_weight"
        self.constants[scaled] = weight * columns / rows
        bias = None
        if op.bias:
            bias = f"{node.name}/scaled_bias"
            self.constants[bias] = self.constants[op.bias] / out
        return replace(node, op=replace(op, weight=scaled, bias=bias)), out

    def _chebyshev(self, node: Node, op: ops.Chebyshev) -> tuple[Node, Scale]:
        asked = self._required(node.name)
        out = asked if isinstance(asked, float) else op.unit
        name = f"{node.name}/scaled_coefficients"
        self.constants[name] = self.constants[op.coefficients] * (op.unit / out)
        return replace(node, op=replace(op, coefficients=name)), out

    def _multiply(self, node: Node, op: ops.Multiply) -> tuple[Node, Scale]:
        return node, self.of[node.inputs[0]] * self.of[node.inputs[1]]

    def _quadratic(self, node: Node, op: ops.Quadratic) -> tuple[Node, Scale]:
        c0, c2 = self.constants[op.c0], self.constants[op.c2]
        h, unit = self._square(node.name, op)
        square = np.where(c2 != 0, c2 * np.where(c2 != 0, unit, 1) ** 2, 1.0)
        made = ops.Square(f"{node.name}/shift", f"{node.name}/constant", op.bound)
        self.constants[made.shift] = h / unit
        self.constants[made.constant] = (c0 - c2 * h**2) / square
        return replace(node, op=made), square

    def _add(self, node: Node, op: ops.Add) -> tuple[Node, Scale]:
        asked = self._required(node.name)
        out = self.of[node.inputs[0]] if asked is None else asked
        return replace(node, inputs=tuple(self._brought_to(name, out, node) for name in node.inputs)), out

    def _unchanged(self, node: Node, op: ops.Op) -> tuple[Node, Scale]:
        return node, self.of[node.inputs[0]]

    def _brought_to(self, name: str, out: Scale, user: Node) -> str:
        """The value itself where its scale is `out`, else a new node that scales its channels."""
        if same(self.of[name], out):
            return name
        scaled, factor = f"{user.name}/{name}", f"{user.name}/{name}/factor"
        channels = self.graph.shapes[name][0]
        self.constants[factor] = np.broadcast_to(self.of[name] / out, channels).copy()
        self.of[scaled], self.layouts[scaled] = out, self.layouts[user.name]
        self.nodes.append(Node(scaled, ops.ScaleChannels(factor), (name,)))
        return scaled

    def _required(self, name: str) -> Scale | None:
        """The scale that a node's users ask of it: that of the polynomial it feeds, directly or through sums."""
        asked = [s for user in self.graph.users(name) if (s := self._asked_by(user, name)) is not None]
        if any(not same(asked[0], other) for other in asked[1:]):
            raise PlanError(f"node {name!r} feeds activations of different ranges")
        return asked[0] if asked else None

    def _asked_by(self, user: Node, name: str) -> Scale | None:
        op = user.op
        if isinstance(op, ops.Chebyshev):
            return float(op.bound)
        if isinstance(op, ops.Quadratic):
            return self._square(user.name, op)[1]
        if isinstance(op, ops.Add):
            return self._required(user.name)
        if isinstance(op, ops.Multiply) and name == user.inputs[1]:
            asked = self._required(user.name)
            return asked / op.bound if isinstance(asked, float) else None
        return None

    def _bound(self, node: Node, op: ops.Conv2d | ops.Linear) -> float:
        """Scale of the output of a layer that feeds no activation: the largest row of |W| times the largest input is
        what slots reach."""
        weight = self.constants[op.weight]
        source = self.graph[node.inputs[0]]
        largest = self.largest[source.name] * np.abs(self.of[source.name])
        inputs = _by_input(largest, weight.shape[1])
        rows = np.einsum("oik,i->o", np.abs(weight).reshape(*weight.shape[:2], -1), inputs)
        if isinstance(source.op, ops.SumPool):  # sums `positions` values of that size
            _, height, width = self.graph.shapes[source.inputs[0]]
            rows = rows * height * width
        bias = np.abs(self.constants[op.bias]) if op.bias else 0.0
        return (float((rows + bias).max()) or 1.0) / self.max_slot**2

    def _square(self, name: str, op: ops.Quadratic) -> tuple[F64, F64]:
        """h, and R per channel: x + h is at most R times `max_slot`; infinite for a constant, whose weights become
        zero."""
        c1, c2 = self.constants[op.c1], self.constants[op.c2]
        if bool(((c2 == 0) & (c1 != 0)).any()):
            raise PlanError(f"a channel of quadratic activation {name!r} is linear, which no square can compute")
        h = np.divide(c1, 2 * c2, out=np.zeros_like(c1), where=c2 != 0)
        return h, np.where(c2 != 0, (op.bound + np.abs(h)) / self.max_slot, np.inf)


def _by_input(scale: Scale, columns: int) -> F64:
    """A scale per channel as one per column of a weight: a linear layer reads all pixels of a channel in a row."""
    values = np.atleast_1d(np.asarray(scale, np.float64))
    return np.repeat(values, columns // len(values))
