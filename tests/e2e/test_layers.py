"""Precision layer by layer, from the ciphertexts that a run keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fheinfer
from fheinfer.errors import (
    CorruptArtifactError,
    InputError,
)
from fheinfer.evaluation.precision import compare, encrypted_layers, layer_bits
from fheinfer.model.model import Weights
from fheinfer.runtime.executor import StepDone
from tests.e2e.conftest import F64, Interruption


def test_precision_is_reported_for_every_step(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    tiny_weights: Weights,
    tiny_picture: F64,
    picture_bytes: bytes,
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    from fheinfer.evaluation.plain import plain_layers

    tiny_server.evaluate(picture_bytes, checkpoints=tmp_path, keep_layers=True)
    layers: dict[str, F64] = {}
    plan = tiny_server.plan
    fheinfer.run_slots(plan, tiny_picture, layers=layers)
    rows = compare(plan, tiny_client, tmp_path, layers, plain_layers(tiny_weights, tiny_picture))
    assert [(row.step, row.op, row.level) for row in rows] == [(s.name, s.op, s.level) for s in plan.steps]
    assert all(np.isfinite([row.slots_minimum, row.slots_median, row.largest]).all() for row in rows)
    assert all(row.slots_median >= row.slots_minimum > 12 for row in rows)
    assert all(row.seconds > 0 for row in rows if row.op != "add")
    # PyTorch has every layer but bootstraps, and differs from slots by the polynomials.
    assert all((row.torch_minimum is None) == (row.op == "bootstrap") for row in rows)
    first = rows[0]
    assert first.torch_minimum == pytest.approx(first.slots_minimum, abs=0.1)
    assert first.slots_minimum > 20
    decrypted = encrypted_layers(plan, tiny_client, tmp_path)
    bits = layer_bits(plan, decrypted, layers)
    assert list(bits) == [row.step for row in rows]  # decryption adds noise of its own, another every time
    assert [p.median for p in bits.values()] == pytest.approx([row.slots_median for row in rows], abs=1)
    bits = layer_bits(plan, decrypted, plain_layers(tiny_weights, tiny_picture))
    expected = [row.torch_median for row in rows if row.torch_median is not None]
    assert [p.median for p in bits.values()] == pytest.approx(expected, abs=1)


def test_layers_of_another_plan_are_not_compared(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    tiny_weights: Weights,
    tmp_path: Path,
    picture_bytes: bytes,
) -> None:
    def stop(done: StepDone) -> None:
        raise Interruption

    with pytest.raises(Interruption):
        tiny_server.evaluate(picture_bytes, checkpoints=tmp_path, keep_layers=True, observer=stop)
    other = fheinfer.compile(tiny_weights, tiny_server.params, margin=1.5)
    with pytest.raises(CorruptArtifactError, match="is not layer 'bn1' of this plan"):
        compare(other, tiny_client, tmp_path, {}, {})
    with pytest.raises(InputError, match=r"layer_001\.ct: no such ciphertext"):
        compare(tiny_server.plan, tiny_client, tmp_path, {"bn1": np.ones((4, 8, 8))}, {})
