"""The ONNX project's own tests on slots: what is imported is also computed as a plan computes it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

import fheinfer
from fheinfer.errors import PlanError
from fheinfer.model.model import Model
from fheinfer.runtime.slots import slots_outputs
from tests.frontends import onnx_table
from tests.frontends.onnx_cases import KINDS, Case, prepare

pytest.importorskip("torch")

from fheinfer.frontends.comparing import evaluate

SET = "insecure-tiny"
LARGEST = 4096
"""Values of the tensors of what is tried: eight ciphertexts of the small ring."""
EXACT = ("power", "product")
"""Operations that need a range and are no approximation."""
MOST_LEVELS = "leaves 9 levels after a bootstrap"


def passing() -> Iterator[tuple[Case, str]]:
    """Cases that are imported, with the way in which; values of 1e38 are no data for a network."""
    for kind in KINDS:
        for case, outcome in onnx_table.outcomes(kind):
            if outcome.way and all(np.abs(np.asarray(x, np.float64)).max(initial=0) < 1e6 for x in case.inputs):
                yield case, outcome.way


def check(case: Case, way: str) -> str:
    """Compares a case on slots with the plain reference: to 1e-9, or to what an approximation leaves.

    Returns:
        "" where it was run, else why not.
    """
    translated, x = prepare(case, way)
    graph = translated.graph
    if max(math.prod(shape) for shape in graph.shapes.values()) > LARGEST:
        return "large"
    zeros, ones = (0.0,) * graph.input_shape[0], (1.0,) * graph.input_shape[0]
    model = Model(graph, translated.tensors, zeros, ones)
    seen = x if np.any(x) else np.ones_like(x)  # zeros alone measure no range
    model = model.calibrate(seen.astype(np.float32).reshape(len(x), *graph.input_shape))
    try:
        plan = fheinfer.compile(model, SET)
    except PlanError as error:
        return str(error)
    exact = all(not node.op.ranged or node.op.kind in EXACT for node in graph)
    for i, item in enumerate(x[:2]):
        got = slots_outputs(plan, item.reshape(graph.input_shape))
        for name, want in zip(graph.outputs, evaluate(graph, translated.tensors, x), strict=True):
            largest = np.abs(got[name].ravel() - want[i].ravel()).max()
            assert largest <= (1e-9 if exact else 0.05) * max(1.0, np.abs(want).max()), case.name
    return ""


def test_one_case_of_each_operation_runs_on_slots() -> None:
    first = {case.operation: (case, way) for case, way in reversed(list(passing()))}
    assert len(first) > 100
    left = {name: why for name, (case, way) in first.items() if (why := check(case, way))}
    assert all(why == "large" or MOST_LEVELS in why for why in left.values()), left
    assert len(left) < 12


@pytest.mark.slow
def test_every_case_runs_on_slots() -> None:
    """470 of 2023; the set has too few levels for 17 of max pools."""
    ran = [check(case, way) for case, way in passing()]
    assert all(why in ("", "large") or MOST_LEVELS in why for why in ran)
    assert ran.count("") > 450
