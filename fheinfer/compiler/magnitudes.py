"""How large the slots of every value can get, as far as what an output may hold depends on it.

Scales are such that linear layers and polynomials fill at most `max_slot`, but sums and constants keep the scale of
what they add to: their slots are as large as those of all addends together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import numpy as np

from fheinfer.compiler.maps import LAYERS, LINEAR
from fheinfer.compiler.program import Program
from fheinfer.compiler.views import VIEWS, view
from fheinfer.model import ops
from fheinfer.packing import Packing


def largest_slots(program: Program) -> dict[str, float]:
    """|slot| that no value exceeds while activations stay in their ranges, by node."""
    usual, found = program.params.max_slot**2, dict[str, float]()
    for node in program.graph:
        inputs = [found[name] for name in node.inputs]
        numbers = [program.constants[name] for name in node.op.tensors.values()]
        constant = max((float(np.abs(array).max(initial=0)) for array in numbers), default=0.0)
        if isinstance(node.op, ops.Add):
            found[node.name] = sum(inputs)
        elif isinstance(node.op, ops.AddConstant):
            found[node.name] = inputs[0] + constant
        elif isinstance(node.op, ops.Square):
            found[node.name] = usual + constant
        elif isinstance(node.op, ops.MultiplyConstant):
            found[node.name] = inputs[0] * constant
        elif isinstance(node.op, ops.SumPool):
            found[node.name] = inputs[0] * prod(program.packings[node.inputs[0]].shape[1:])
        elif isinstance(node.op, ops.Repack):
            ratio = np.abs(program.scales[node.inputs[0]]) / np.abs(program.scales[node.name])
            found[node.name] = max(usual, inputs[0] * float(np.max(ratio)))
        elif isinstance(node.op, VIEWS):
            found[node.name] = max(inputs)
        elif isinstance(node.op, LAYERS):
            found[node.name] = max(usual, *inputs, -inf)  # a sum may have left more than the layer reckons with
        else:
            found[node.name] = usual
        if (bound := program.bounds.get(node.name)) is not None:
            found[node.name] = min(found[node.name], bound / float(np.abs(program.scales[node.name]).min()))
    return found


def is_open(op: ops.Op, sources: Sequence[Packing], packing: Packing, inputs_open: Sequence[bool]) -> bool:
    """Whether slots beside the elements of a value may hold more than its elements do.

    A view leaves elements of other values in its ciphertexts, a sum of pixels parts of sums. Layers and products with
    constants leave zeros.
    """
    if isinstance(op, (ops.Input, ops.MultiplyConstant, *LINEAR)):
        return False
    if isinstance(op, ops.SumPool):
        return True
    if isinstance(op, VIEWS):
        return any(inputs_open) or _leaves_elements(op, sources, packing)
    return any(inputs_open)


def open_values(program: Program) -> set[str]:
    """The values of which `is_open` holds."""
    found: set[str] = set()
    for node in program.graph:
        sources = [program.packings[name] for name in node.inputs]
        if is_open(node.op, sources, program.packings[node.name], [name in found for name in node.inputs]):
            found.add(node.name)
    return found


def _leaves_elements(op: ops.Op, sources: Sequence[Packing], packing: Packing) -> bool:
    _, chosen = view(op, sources, packing.shape)
    first, held = 0, 0
    for source in sources:
        ciphertexts = source.places() // source.period + first
        held += int(np.isin(ciphertexts, chosen).sum())
        first += source.ciphertexts
    return held > len(np.unique(packing.places()))
