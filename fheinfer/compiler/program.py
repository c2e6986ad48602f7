"""What passes hand on: a graph, the arrays that it names, and what is known of every node so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fheinfer import _core
from fheinfer.approx import Activation
from fheinfer.compiler.cost import CostModel, cost_model
from fheinfer.compiler.maps import LINEAR, shape_key, shape_map
from fheinfer.compiler.steps import Step
from fheinfer.compiler.values import Arrays, Scale
from fheinfer.compiler.work import Work
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.key_policy import KeyPolicy, core_policy
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import PlanError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Chebyshev, Multiply, MultiplyConstant, Quadratic, Square
from fheinfer.packing import Packing

PLACED_UNDER: KeyPolicy = "fast"
"""The keys by whose cost bootstraps and levels are placed, whatever the policy: so that a plan serves them all."""


@dataclass(frozen=True)
class Program:
    """A graph on its way to a plan.

    constants    tensor name -> array; passes rewrite these, never the tensors of the model
    ranges       activation -> largest |input| that it must be valid for, margin included
    relu         what approximates a ReLU, unless `bits` say how exact it has to be
    input_bound  largest |value| of a normalised input
    bits         that outputs are to keep against PyTorch (`fheinfer.approx.fidelity`); None for those of `relu`
    measured     bits that outputs keep by what approximates ReLUs, where calibration measured it (`Model.kept_bits`)
    kept         bits of the outputs that the polynomials leave of PyTorch's, at least; infinite where all are exact
    bounds       node -> largest |value| of its output, where more is known than sums and products say
    packings, scales, levels, works  by node, once the pass that decides them has run; `levels` are of outputs
    """

    graph: Graph
    constants: Arrays
    ranges: Mapping[str, float]
    params: ParameterSet
    backend: Backend
    relu: Activation
    input_bound: float
    bits: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    kept: float = math.inf
    bounds: Mapping[str, float] = field(default_factory=dict)
    packings: Mapping[str, Packing] = field(default_factory=dict)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)
    works: Mapping[str, Work] = field(default_factory=dict)

    @property
    def cost(self) -> CostModel:
        """By which bootstraps and levels are placed."""
        return self.cost_under(PLACED_UNDER)

    def cost_under(self, policy: KeyPolicy) -> CostModel:
        """Costs with the rotation keys of a policy."""
        return _cost(self.params, self.backend, policy)

    @property
    def level_model(self) -> _core.LevelModel:
        """Levels of this set on this backend."""
        return self.backend.level_model(self.params)

    def depth(self, node: Node) -> int:
        """Levels that a node consumes."""
        op = node.op
        if isinstance(op, Chebyshev):
            return self.level_model.chebyshev_depth(len(self.constants[op.coefficients]) - 1)
        return int(isinstance(op, (*LINEAR, Multiply, MultiplyConstant, Quadratic, Square)))

    def step(self, node: Node) -> Step:
        """A node as a step; before the levels are known, one at the top of the chain."""
        depth = self.depth(node)
        return Step(
            name=node.name,
            op=node.op,
            inputs=node.inputs,
            level=self.levels.get(node.name, self.params.top_level - depth),
            depth=depth,
            scale=self.scales[node.name],
            packing=self.packings[node.name],
            in_packings=tuple(self.packings[name] for name in node.inputs),
            activation=node.activation,
        )

    def trace(self, step: Step, policy: KeyPolicy = PLACED_UNDER) -> Work:
        """What a step takes with the keys of a policy, on as many limbs as its level says; needs none.

        Levels and keys follow from this, and are settled before weights are known: so none of a convolution is zero.

        Raises:
            PlanError: the kernels consume another number of levels than the step's depth.
        """
        if not isinstance(step.op, LINEAR):
            return step.trace(self.params.slots, self.level_model, self.constants, policy)
        packings = *step.in_packings, step.packing
        key = (
            shape_key(step.op, self.constants),
            packings,
            step.level,
            step.depth,
            self.params,
            self.backend.name,
            policy,
        )
        if key not in _TRACES:
            evaluator = _core.TraceEvaluator(self.params.slots, self.level_model, core_policy(policy))
            xs = [evaluator.encrypt(step.level + step.depth)] * step.in_packings[0].ciphertexts
            _core.linear_map(evaluator, xs, shape_map(step.op, self.constants, *packings))
            _TRACES[key] = Work.of(evaluator.report())
        return _TRACES[key]

    def with_nodes(self, nodes: Sequence[Node], constants: Arrays | None = None) -> Program:
        """The same with other nodes, and with other constants where given."""
        graph = Graph(self.graph.name, tuple(nodes), self.graph.outputs)
        return replace(self, graph=graph, constants=self.constants if constants is None else constants)

    def range_of(self, name: str) -> float:
        """The range of an activation; 1 where its input is always zero.

        Raises:
            PlanError: it was never measured.
        """
        if name not in self.ranges:
            raise PlanError(
                f"no range is known for the activation {name!r}; measure it with `fheinfer calibrate`, in Python with "
                "model.calibrate(data)"
            )
        return self.ranges[name] or 1.0


_TRACES: dict[tuple[object, ...], Work] = {}
"""Layers that were traced: a network repeats few shapes, and finding diagonals to count them takes a while."""


@lru_cache(maxsize=16)
def _cost(params: ParameterSet, backend: Backend, policy: KeyPolicy) -> CostModel:
    return cost_model(params, backend, policy)
