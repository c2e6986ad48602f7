"""The same network on OpenFHE's evaluator: the reference, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.crypto.keystore import Manifest
from fheinfer.errors import MismatchError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.model.model import Weights

F64 = NDArray[np.float64]
REFERENCE = "insecure-tiny-openfhe"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reference")
    fheinfer.keygen(REFERENCE, root, network="resnet8-tiny")
    return root / f"set{REFERENCE}"


def test_openfhe_and_our_kernels_agree_on_a_picture(
    keys: Path,
    tiny_weights: Weights,
    tiny_picture: F64,
    tiny_client: fheinfer.Client,
    tiny_server: fheinfer.Server,
    tiny_plan: fheinfer.Plan,
) -> None:
    plan = fheinfer.compile(tiny_weights, REFERENCE)
    client = fheinfer.Client(keys)
    result = fheinfer.Server(keys / "server", tiny_weights).evaluate(client.encrypt(tiny_picture, plan.client))
    logits = client.decrypt(result)
    clear = fheinfer.run_slots(plan, tiny_picture)
    assert precision_bits(clear, logits).minimum > 8
    native = tiny_client.decrypt(tiny_server.evaluate(tiny_client.encrypt(tiny_picture, tiny_plan.client)))
    assert precision_bits(native, logits).minimum > 8
    with pytest.raises(MismatchError):
        tiny_client.decrypt(result)


def test_one_rotation_one_key_for_openfhe(keys: Path) -> None:
    """Its evaluator finds a key by rotation alone; ours takes the lowest that is high enough."""
    manifest = Manifest.load(keys / "server" / "manifest.json")
    assert len({k for k, _ in manifest.rotations}) == len(manifest.rotations) > 10
    assert all((keys / "server" / f"rotation_{k}_{limbs}.key").is_file() for k, limbs in manifest.rotations)
