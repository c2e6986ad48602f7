"""The same network on OpenFHE's evaluator: the reference, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.manifest import FILE_NAME, Manifest
from fheinfer.errors import MismatchError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.model.model import Model

F64 = NDArray[np.float64]
REFERENCE = "insecure-tiny-openfhe"


@pytest.fixture(scope="module")
def plan(tiny_model: Model) -> Plan:
    return fheinfer.compile(tiny_model, REFERENCE)


@pytest.fixture(scope="module")
def keys(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "keys"
    fheinfer.keygen(plan.client, folder)
    return folder


def test_openfhe_and_our_kernels_agree_on_an_image(
    plan: Plan, keys: Path, tiny_image: F64, tiny_client: fheinfer.Client, result_bytes: bytes, input_bytes: bytes
) -> None:
    assert plan.backend.name == "openfhe"
    client = fheinfer.Client(keys, plan.client)
    encrypted = client.encrypt(tiny_image)
    result = fheinfer.Server().session(plan, keys / "server").evaluate(encrypted)
    outputs = client.decrypt(result, request=encrypted)
    clear = fheinfer.run_slots(plan, tiny_image)
    assert precision_bits(clear, outputs).minimum > 8
    native = tiny_client.decrypt(result_bytes, request=input_bytes)
    assert precision_bits(native, outputs).minimum > 8
    with pytest.raises(MismatchError, match="another parameter set or backend"):
        tiny_client.decrypt(result)


def test_keys_of_one_backend_do_not_serve_the_other(plan: Plan, keys: Path, tiny_plan: Plan, tiny_keys: Path) -> None:
    for wanted, wrong in ((plan, tiny_keys), (tiny_plan, keys)):
        with pytest.raises(MismatchError, match="another parameter set or backend"):
            fheinfer.Server().session(wanted, wrong / "server")
        with pytest.raises(MismatchError, match="needs keys of set"):
            fheinfer.Client(wrong, wanted.client)


def test_one_rotation_one_key_for_openfhe(keys: Path) -> None:
    """Its evaluator finds a key by rotation alone; ours takes the lowest that is high enough."""
    manifest = Manifest.load(keys / "server" / FILE_NAME)
    assert len({k for k, _ in manifest.rotations}) == len(manifest.rotations) > 10
    assert all((keys / "server" / f"rotation_{k}_{limbs}.key").is_file() for k, limbs in manifest.rotations)


def test_a_plan_on_openfhe_takes_one_input_at_a_time(plan: Plan, keys: Path) -> None:
    session: Any = fheinfer.Server().session(plan, keys / "server")
    assert not session.two_inputs
