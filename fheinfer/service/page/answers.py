"""Decrypted outputs as the page shows them: rounded, so that a screenshot of it tells nothing about the secret key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.client_tensors import OutputSpec, class_logits
from fheinfer.evaluation.metrics import class_names, probabilities, top_class

F64 = NDArray[np.float64]
BARS = 10
"""Classes that are shown at most."""
DECIMALS = 3
"""Of probabilities: a tenth of a percent."""
DIGITS = 3
"""Significant ones of all other values."""


def answers(outputs: Mapping[str, F64], spec: ClientSpec, plain: Mapping[str, F64] | None) -> list[dict[str, Any]]:
    """What the page shows of each output, in JSON's types.

    Args:
        outputs: by name, before a last softmax, as `Client.outputs` returns them.
        plain: the same of the network in clear, where that was computed.
    """
    return [_answer(outputs[one.name], one, None if plain is None else plain[one.name]) for one in spec.outputs]


def _answer(values: F64, spec: OutputSpec, plain: F64 | None) -> dict[str, Any]:
    if not spec.scores:
        found = spec.finish(values)
        low, high = (float(f"{value:.{DIGITS}g}") for value in (found.min(), found.max()))
        return {"output": spec.name, "shape": list(spec.shape), "low": low, "high": high}
    names, parts = class_names(spec), _parts(values, spec)
    clear = None if plain is None else _parts(plain, spec)
    order = np.argsort(-class_logits(values), kind="stable")[:BARS]
    bars = [
        {"class": names[i], "part": parts[i]} | ({} if clear is None else {"plain": clear[i]}) for i in map(int, order)
    ]
    agrees = {} if plain is None else {"agrees": top_class(class_logits(plain)) == int(order[0])}
    return {"output": spec.name, "bars": bars, "others": len(names) - len(bars), **agrees}


def _parts(values: F64, spec: OutputSpec) -> list[float]:
    return [float(part) for part in np.round(probabilities(values, spec), DECIMALS)]
