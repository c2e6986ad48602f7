"""Decides by how much each node's slots are smaller than its values (attribute `scale`: value = slot * scale, one
number or one a channel), and folds every factor into weights and coefficients, so that no level is spent on scaling.

A polynomial wants its input in [-1, 1]: the node before it gets scale B, its range. Its output may have any scale for
free, by its coefficients; so may that of a product, by those of its second factor. Both addends of a sum need the scale
of the sum.

c2 x^2 + c1 x + c0 = c2 (x + h)^2 + k, so with x / R + h / R in the slots a quadratic is one square and one constant,
and its output has the scale c2 R^2 of its own, negative or not. R makes slots as large as the set allows
(`ParameterSet.reach`), because noise is as large whatever the slots are. Where a sum asks for another, the addend gets
a `gain`: one level, beside the convolution on the other branch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node

F64 = NDArray[np.float64]
Scale = float | F64


def scales(program: Program) -> Program:
    return _Scales(program).run()


def same(a: Scale, b: Scale) -> bool:
    return bool(np.allclose(a, b, rtol=1e-12, atol=0))


class _Scales:
    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, program.graph
        self.constants = dict(program.constants)
        self.nodes: list[Node] = []
        self.of: dict[str, Scale] = {}
        self.reach = program.params.reach
        self.largest: dict[str, float] = {}  # slot of each node

    def run(self) -> Program:
        for node in self.graph:
            visit = getattr(self, f"_{node.op}", self._unchanged)
            node, self.of[node.name] = visit(node)
            self.largest[node.name] = self._largest(node)
            self.nodes.append(node.with_attrs(scale=self.of[node.name]))
        return self.program.with_nodes(self.nodes, self.constants)

    def _largest(self, node: Node) -> float:
        if node.op in ("input", "chebyshev"):
            return 1.0
        if node.op == "quadratic":
            return self.reach**2
        unchanged = getattr(self, f"_{node.op}", None) is None
        return self.largest[node.inputs[0]] if unchanged else self.reach

    def _input(self, node: Node) -> tuple[Node, Scale]:
        return node, self.program.input_bound

    def _conv2d(self, node: Node) -> tuple[Node, Scale]:
        asked = self._required(node.name)
        out = self._bound(node) if asked is None else asked
        weight = self.constants[node.weights["weight"]]
        axes = (1,) * (weight.ndim - 2)
        columns = np.broadcast_to(self.of[node.inputs[0]], weight.shape[1]).reshape(1, -1, *axes)
        rows = np.broadcast_to(out, weight.shape[0]).reshape(-1, 1, *axes)
        names = {"weight": f"{node.name}/scaled_weight"}
        self.constants[names["weight"]] = weight * columns / rows
        if "bias" in node.weights:
            names["bias"] = f"{node.name}/scaled_bias"
            self.constants[names["bias"]] = self.constants[node.weights["bias"]] / out
        return replace(node, weights=names), out

    _linear = _conv2d

    def _chebyshev(self, node: Node) -> tuple[Node, Scale]:
        asked = self._required(node.name)
        out = asked if isinstance(asked, float) else node.attrs["unit"]
        name = f"{node.name}/scaled_coefficients"
        self.constants[name] = self.constants[node.weights["coefficients"]] * (node.attrs["unit"] / out)
        return replace(node, weights={"coefficients": name}), out

    def _multiply(self, node: Node) -> tuple[Node, Scale]:
        return node, self.of[node.inputs[0]] * self.of[node.inputs[1]]

    def _quadratic(self, node: Node) -> tuple[Node, Scale]:
        c0, c1, c2 = (self.constants[node.weights[role]] for role in ("c0", "c1", "c2"))
        h, unit = self._square(node, c1, c2)
        square = np.where(c2 != 0, c2 * np.where(c2 != 0, unit, 1) ** 2, 1.0)
        names = {role: f"{node.name}/{role}" for role in ("shift", "constant")}
        self.constants[names["shift"]] = h / unit
        self.constants[names["constant"]] = (c0 - c2 * h**2) / square
        return replace(node, weights=names), square

    def _add(self, node: Node) -> tuple[Node, Scale]:
        asked = self._required(node.name)
        out = self.of[node.inputs[0]] if asked is None else asked
        return replace(node, inputs=tuple(self._brought_to(name, out, node) for name in node.inputs)), out

    def _unchanged(self, node: Node) -> tuple[Node, Scale]:
        return node, self.of[node.inputs[0]]

    def _brought_to(self, name: str, out: Scale, user: Node) -> str:
        """The value itself where its scale is `out`, else a new node that multiplies it."""
        if same(self.of[name], out):
            return name
        gain, factor = f"{user.name}/{name}", f"{user.name}/{name}/factor"
        channels = self.graph.shapes()[name][0]
        self.constants[factor] = np.broadcast_to(self.of[name] / out, channels).copy()
        self.of[gain] = out
        self.nodes.append(Node(gain, "gain", (name,), {"factor": factor}, {"scale": out, **_layout(user)}))
        return gain

    def _required(self, name: str) -> Scale | None:
        """The scale a node's users ask of it: that of the polynomial it feeds, directly or through sums."""
        asked = [s for user in self.graph.users(name) if (s := self._asked_by(user, name)) is not None]
        if any(not same(asked[0], other) for other in asked[1:]):
            raise PlanError(f"node {name!r} feeds activations of different ranges")
        return asked[0] if asked else None

    def _asked_by(self, user: Node, name: str) -> Scale | None:
        if user.op == "chebyshev":
            return float(user.attrs["range"])
        if user.op == "quadratic":
            return self._square(user, *(self.constants[user.weights[role]] for role in ("c1", "c2")))[1]
        if user.op == "add":
            return self._required(user.name)
        if user.op == "multiply" and name == user.inputs[1]:
            asked = self._required(user.name)
            return asked / user.attrs["range"] if isinstance(asked, float) else None
        return None

    def _bound(self, node: Node) -> float:
        """Scale of the output of a layer that feeds no activation: the largest row of |W| times the largest input is
        what slots reach."""
        weight = self.constants[node.weights["weight"]]
        largest = self.largest[node.inputs[0]] * np.abs(self.of[node.inputs[0]])
        inputs = np.broadcast_to(largest, weight.shape[1])
        rows = np.einsum("oik,i->o", np.abs(weight).reshape(*weight.shape[:2], -1), inputs)
        source = self.graph[node.inputs[0]]
        if source.op == "avg_pool":  # sums `positions` values of that size
            _, height, width = self.graph.shapes()[source.inputs[0]]
            rows = rows * height * width
        bias = np.abs(self.constants[node.weights["bias"]]) if "bias" in node.weights else 0.0
        return (float((rows + bias).max()) or 1.0) / self.reach**2

    def _square(self, node: Node, c1: F64, c2: F64) -> tuple[F64, F64]:
        """h, and R: x + h is at most R times `reach`, a channel; infinite for a constant, whose weights become zero."""
        if bool(((c2 == 0) & (c1 != 0)).any()):
            raise PlanError(f"a channel of quadratic activation {node.name!r} is linear, which no square can compute")
        h = np.divide(c1, 2 * c2, out=np.zeros_like(c1), where=c2 != 0)
        return h, np.where(c2 != 0, (node.attrs["range"] + np.abs(h)) / self.reach, np.inf)


def _layout(node: Node) -> dict[str, object]:
    return {"layout": node.attrs["layout"]} if "layout" in node.attrs else {}
