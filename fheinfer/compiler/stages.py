"""The stages of compiling, and what holds at each: checked after every pass."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

from fheinfer.compiler.maps import LINEAR
from fheinfer.compiler.program import Program
from fheinfer.compiler.views import VIEWS
from fheinfer.errors import GraphError
from fheinfer.model import ops
from fheinfer.model.ops import NETWORK, Op
from fheinfer.model.verify import verify as verify_graph


class Stage(IntEnum):
    """tensor: what the network means; polynomial: activations are polynomials; packed: every value has a packing;
    scaled: and a scale; leveled: and a level, with bootstraps in between."""

    TENSOR = 0
    POLYNOMIAL = 1
    PACKED = 2
    SCALED = 3
    LEVELED = 4


_COMMON: tuple[type[Op], ...] = (
    *(ops.Input, ops.SumPool, ops.Add, ops.AddConstant, ops.MultiplyConstant, ops.Chebyshev, ops.Multiply),
    *LINEAR,
    *VIEWS,
)
_POLYNOMIAL: tuple[type[Op], ...] = (*_COMMON, ops.Quadratic)
_SCALED: tuple[type[Op], ...] = (*_COMMON, ops.Square)
_LEVELED: tuple[type[Op], ...] = (*_SCALED, ops.Bootstrap)

OPERATIONS: dict[Stage, dict[str, type[Op]]] = {
    Stage.TENSOR: NETWORK | {op.kind: op for op in (ops.SumPool, ops.Quadratic)},
    Stage.POLYNOMIAL: {op.kind: op for op in _POLYNOMIAL},
    Stage.PACKED: {op.kind: op for op in _POLYNOMIAL},
    Stage.SCALED: {op.kind: op for op in _SCALED},
    Stage.LEVELED: {op.kind: op for op in _LEVELED},
}
"""The operations that there may be at each stage."""


def verify(program: Program, stage: Stage) -> Program:
    """Returns the program.

    Raises:
        GraphError: naming the first node that breaks a rule of its stage.
    """
    verify_graph(program.graph, OPERATIONS[stage])
    if stage >= Stage.PACKED:
        _complete(program, program.packings, "packing")
    if stage >= Stage.SCALED:
        _complete(program, program.scales, "scale")
    if stage >= Stage.LEVELED:
        _complete(program, program.levels, "level")
        _levels(program)
    for node in program.graph:
        for role, name in node.op.tensors.items():
            if name not in program.constants:
                raise GraphError(f"node {node.name!r} ({node.op.kind}): {role} {name!r} is no array of the program")
    return program


def _complete(program: Program, known: Collection[str], what: str) -> None:
    for node in program.graph:
        if node.name not in known:
            raise GraphError(f"node {node.name!r} ({node.op.kind}) has no {what}")


def _levels(program: Program) -> None:
    """Every node consumes its depth below its lowest input; only a bootstrap goes up."""
    for node in program.graph.nodes[1:]:
        level = program.levels[node.name]
        if isinstance(node.op, ops.Bootstrap):
            lowest, highest = program.params.levels, program.params.levels
        else:
            lowest = 0
            highest = min(program.levels[name] for name in node.inputs) - program.depth(node)
        if not lowest <= level <= highest:
            raise GraphError(f"node {node.name!r} ({node.op.kind}) is at level {level}, where at most {highest} can be")
