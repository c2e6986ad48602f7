"""The polynomials of one activation as nodes of a graph: series, gates, quadratics and their sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fheinfer.approx.composition import F64, Composition
from fheinfer.approx.forms import Gate
from fheinfer.approx.piecewise import Approximation
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, AddConstant, Chebyshev, Multiply, MultiplyConstant, Op, Quadratic, Shape

Constants = dict[str, F64]


class Pieces:
    """Collects the nodes of one activation. Names of all but the last begin with that of the activation.

    Attributes:
        node: the activation.
        x: what it reads.
        nodes: what it has become so far.
        error: of its largest output; 0 where it is exact.
        kinked: whether that is the typical error of a function with kinks, and not the largest of a smooth one.
    """

    def __init__(self, node: Node, shape: Shape, constants: Constants) -> None:
        self.node, self.shape, self.constants = node, shape, constants
        self.x = node.inputs[0] if node.inputs else ""
        self.nodes: list[Node] = []
        self.error, self.kinked = 0.0, False

    def finish(self) -> None:
        """Gives the last node the name of the activation."""
        self.nodes[-1] = replace(self.nodes[-1], name=self.node.name)

    def add(self, name: str, op: Op, *inputs: str) -> str:
        """Appends a node; returns its name."""
        made = Node(self._named(name), op, inputs, activation=self.node.name, module=self.node.module)
        self.nodes.append(made)
        return made.name

    def series(self, x: str, coefficients: F64, bound: float, unit: float, name: str = "") -> str:
        """unit * series(x / bound)."""
        tensor = f"{self._named(name)}/coefficients"
        self.constants[tensor] = coefficients
        return self.add(name, Chebyshev(tensor, bound, unit), x)

    def gate(self, x: str, step: Composition, bound: float, name: str = "", factor: str = "") -> str:
        """`factor`, or x, times a composite of x / bound."""
        last, prefix = x, f"{name}/" if name else ""
        for number, coefficients in enumerate(step.stages, start=1):
            last = self.series(last, coefficients, bound if number == 1 else 1.0, 1.0, f"{prefix}p{number}")
        return self.add(f"{prefix}product", Multiply(bound), factor or x, last)

    def quadratic(self, x: str, powers: F64, bound: float, name: str = "") -> str:
        """c0 + c1 x + c2 x^2 with `powers` (3, channels), those of 1, x and x^2 by channel."""
        prefix = self._named(name)
        op = Quadratic(f"{prefix}/c0", f"{prefix}/c1", f"{prefix}/c2", bound)
        self.constants.update(zip(op.tensors.values(), powers, strict=True))
        return self.add(name, op, x)

    def scaled(self, x: str, factor: F64, name: str) -> str:
        """Every channel of x times its factor."""
        tensor, shape = f"{self._named(name)}/factor", (len(factor), *[1] * (len(self.shape) - 1))
        self.constants[tensor] = factor.reshape(shape)
        return self.add(name, MultiplyConstant(tensor, shape), x)

    def plus(self, x: str, constant: float, name: str) -> str:
        """x + constant, for no level."""
        tensor, ones = f"{self._named(name)}/value", (1,) * len(self.shape)
        self.constants[tensor] = np.full(ones, constant)
        return self.add(name, AddConstant(tensor, ones), x)

    def approximation(self, made: Approximation, largest: float) -> str:
        """A function by its polynomials; `largest` is its largest |value| on the range."""
        gate = made.gate
        if gate is None:
            return self.series(self.x, made.series / largest, made.bound, largest)
        if made.alone:
            slope = float(made.series[1]) / made.radius if made.degree else 0.0
            return self._kink(gate, made.radius, self.x, slope, made.kinks[0].jump, "")
        parts = []
        if made.degree:
            size = float(np.abs(made.series).sum())
            parts.append(self.series(self.x, made.series / size, made.radius, size, "rest"))
        for number, kink in enumerate(made.kinks):
            name = f"kink{number}"
            x = self.plus(self.x, -kink.at, f"{name}/shifted") if kink.at else self.x
            parts.append(self._kink(gate, made.radius, x, 0.0, kink.jump, name))
        total = parts[0]
        for number, part in enumerate(parts[1:]):
            total = self.add(f"sum{number}", Add(), total, part)
        if not made.degree and made.series[0]:
            total = self.plus(total, float(made.series[0]), "constant")
        return total

    def _named(self, name: str) -> str:
        return f"{self.node.name}/{name}" if name else self.node.name

    def _kink(self, gate: Gate, radius: float, x: str, slope: float, jump: float, name: str) -> str:
        """slope * x + jump * relu(x)."""
        return self.gate(x, gate.polynomials.affine(jump / 2, slope + jump / 2), radius, name)
