"""Precision layer by layer, from the ciphertexts that a run keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.errors import CorruptArtifactError, InputError
from fheinfer.evaluation.precision import compare, encrypted_layers, layer_bits
from fheinfer.model.model import Model
from fheinfer.model.ops import Add, Bootstrap
from fheinfer.runtime.executor import StepDone
from tests.e2e.conftest import F64, Interruption


def test_precision_is_reported_for_every_step(
    tiny_session: Any,
    tiny_client: fheinfer.Client,
    tiny_model: Model,
    tiny_image: F64,
    input_bytes: bytes,
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    tiny_session.evaluate(input_bytes, checkpoints=tmp_path, keep_layers=True)
    layers: dict[str, F64] = {}
    plan = tiny_session.plan
    fheinfer.run_slots(plan, tiny_image, layers=layers)
    exact = fheinfer.plain_layers(tiny_model, tiny_image)
    rows = compare(plan, tiny_client, tmp_path, layers, exact)
    assert [(row.step, row.op, row.level) for row in rows] == [(s.name, s.op.kind, s.level) for s in plan.steps]
    assert all(np.isfinite([row.slots_minimum, row.slots_median, row.largest]).all() for row in rows)
    assert all(row.slots_median >= row.slots_minimum > 12 for row in rows)
    assert all(row.seconds > 0 for row in rows if row.op != Add.kind)
    # PyTorch has every layer but bootstraps, and differs from slots by the polynomials.
    assert all((row.torch_minimum is None) == (row.op == Bootstrap.kind) for row in rows)
    first = rows[0]
    assert first.torch_minimum == pytest.approx(first.slots_minimum, abs=0.1)
    assert first.slots_minimum > 20
    decrypted = encrypted_layers(plan, tiny_client, tmp_path)
    bits = layer_bits(plan, decrypted, layers)
    assert list(bits) == [row.step for row in rows]  # decryption adds noise of its own, another every time
    assert [p.median for p in bits.values()] == pytest.approx([row.slots_median for row in rows], abs=1)
    bits = layer_bits(plan, decrypted, exact)
    expected = [row.torch_median for row in rows if row.torch_median is not None]
    assert [p.median for p in bits.values()] == pytest.approx(expected, abs=1)


def test_layers_of_another_plan_are_not_compared(
    tiny_session: Any, tiny_client: fheinfer.Client, other_plan: Plan, tmp_path: Path, input_bytes: bytes
) -> None:
    def stop(done: StepDone) -> None:
        raise Interruption

    with pytest.raises(Interruption):
        tiny_session.evaluate(input_bytes, checkpoints=tmp_path, keep_layers=True, observer=stop)
    with pytest.raises(CorruptArtifactError, match="is not layer 'bn1' of this plan"):
        compare(other_plan, tiny_client, tmp_path, {}, {})
    with pytest.raises(InputError, match=r"layer_001\.ct: no such ciphertext"):
        compare(tiny_session.plan, tiny_client, tmp_path, {"bn1": np.ones((4, 8, 8))}, {})
