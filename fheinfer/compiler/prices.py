"""What a layer is predicted to take between two packings, before its level is known."""

from __future__ import annotations

from fheinfer import _core
from fheinfer.compiler.maps import shape_key, shape_map
from fheinfer.compiler.program import Program
from fheinfer.compiler.work import Work
from fheinfer.model import ops
from fheinfer.model.graph import Node
from fheinfer.packing import Packing


class Prices:
    """Predicted seconds of layers at a typical level, once for each kind.

    Levels are given later, and move all prices alike: where a bootstrap is near, or halfway down.
    """

    def __init__(self, program: Program) -> None:
        self.program, params = program, program.params
        lowest = program.backend.bootstrap_input(params) if params.bootstraps else 0
        self.level = lowest + 1 if params.bootstraps else max(1, params.top_level // 2)
        self.bootstrap = program.cost.seconds(Work.of_bootstrap()) if params.bootstraps else 0.0
        self._known: dict[tuple[object, ...], float] = {}

    def layer(self, node: Node, source: Packing, target: Packing) -> float:
        """Of a linear layer between two packings."""
        key = (shape_key(node.op, self.program.constants), source, target)
        if key not in self._known:
            found = shape_map(node.op, self.program.constants, source, target)
            evaluator = _core.TraceEvaluator(self.program.params.slots, self.program.level_model)
            _core.linear_map(evaluator, [evaluator.encrypt(self.level)] * source.ciphertexts, found)
            self._known[key] = self.program.cost.seconds(Work.of(evaluator.report()))
        return self._known[key]

    def slotwise(self, node: Node) -> float:
        """Of what a node does to one ciphertext."""
        op, key = node.op, (node.op.kind, len(self.program.constants.get(getattr(node.op, "coefficients", ""), ())))
        if key not in self._known:
            evaluator = _core.TraceEvaluator(self.program.params.slots, self.program.level_model)
            x = evaluator.encrypt(self.program.params.top_level)
            if isinstance(op, ops.Chebyshev) and key[1] > 1:
                evaluator.chebyshev(x, list(self.program.constants[op.coefficients]))
            elif isinstance(op, ops.Multiply | ops.Quadratic | ops.Product):
                evaluator.multiply(x, x)
            self._known[key] = self.program.cost.seconds(Work.of(evaluator.report()))
        return self._known[key]
