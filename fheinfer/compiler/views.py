"""Views: operations that only give other numbers to the same slots, for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.view_arrays import VIEWS_OF_ONE, viewed
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.packing import Packing, Shape, of_places

VIEWS = (*VIEWS_OF_ONE, ops.Concat)


def rearranged(op: ops.Op, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """What a view makes of arrays in the shapes of its inputs: numbers of places, scales, constants."""
    return np.concatenate(arrays, axis=op.axis) if isinstance(op, ops.Concat) else viewed(op, arrays[0])


def view(op: ops.Op, sources: Sequence[Packing], shape: Shape) -> tuple[Packing, tuple[int, ...]]:
    """The packing of a view, and which ciphertexts of its inputs, counted one input after the other, it has.

    Raises:
        PlanError: inputs with rotated replicas.
    """
    if any(source.rotation for source in sources):
        raise PlanError(f"a {op.kind} reads equal replicas")
    period, before = max(source.period for source in sources), 0
    places = []
    for source in sources:
        ciphertext, slot = np.divmod(source.places(), source.period)
        places.append((ciphertext + before) * period + slot)
        before += source.ciphertexts
    ciphertext, slot = np.divmod(rearranged(op, places), period)
    used, number = np.unique(ciphertext, return_inverse=True)
    found = number.reshape(ciphertext.shape) * period + slot
    block, width = min((source.block, source.width) for source in sources)
    return of_places(found, period, len(used), shape, block, width), tuple(used.tolist())
