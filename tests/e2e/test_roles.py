"""Client and server in separate folders, meeting only in bytes; on the small network and ring."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer import ClientSpec, _core
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.manifest import FILE_NAME, Manifest
from fheinfer.errors import KeyStoreError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.model.model import Model
from tests.e2e.conftest import BITS, F64, Parties


@pytest.fixture(scope="session")
def outputs(tiny_client: fheinfer.Client, result_bytes: bytes, input_bytes: bytes) -> F64:
    return np.asarray(tiny_client.decrypt(result_bytes, request=input_bytes))


def test_an_image_is_classified_by_a_server_that_has_no_secret(parties: Parties, tiny_image: F64, clear: F64) -> None:
    """Two folders; what crosses is bytes. While the server works there is no secret anywhere."""
    spec = ClientSpec.load(parties.client)
    encrypted = fheinfer.Client(parties.client, spec).encrypt(tiny_image)
    away = parties.client.parent / "moved away"
    (parties.client / "secret").rename(away)
    result = fheinfer.Server().session(parties.plan, parties.server).evaluate(encrypted)
    with pytest.raises(KeyStoreError, match="no secret key here"):
        fheinfer.Client(parties.client, spec).decrypt(result)
    away.rename(parties.client / "secret")
    outputs = fheinfer.Client(parties.client, spec).decrypt(result, request=encrypted)
    assert precision_bits(clear, outputs).minimum > BITS
    assert outputs.argmax() == clear.argmax()
    assert not (parties.server.parent / "secret").exists()


def test_the_result_agrees_with_pytorch(outputs: F64, tiny_model: Model, tiny_image: F64) -> None:
    pytest.importorskip("torch")
    assert precision_bits(fheinfer.plain_outputs(tiny_model, tiny_image), outputs).minimum > 4


def test_the_result_holds_the_outputs_and_nothing_else(
    tiny_client: fheinfer.Client, tiny_plan: Plan, result_bytes: bytes
) -> None:
    (decrypted,) = tiny_client.decrypt_slots(result_bytes)
    slots = decrypted.reshape(-1, tiny_plan.steps[-1].packing.period)
    assert np.abs(slots[:, 10:]).max() < 2**-10 * np.abs(slots[:, :10]).max()
    assert np.abs(slots - slots[0]).max() < 2**-10 * np.abs(slots).max()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    yield _core.set_threads
    _core.set_threads(len(os.sched_getaffinity(0)))


def test_one_core_and_two_compute_the_same(
    tiny_session: Any, input_bytes: bytes, result_bytes: bytes, threads: Callable[[int], None]
) -> None:
    """To the last bit, over a whole network."""
    for n in (1, 2):
        threads(n)
        assert tiny_session.evaluate(input_bytes) == result_bytes


def test_minimal_keys_give_the_same_outputs(
    minimal_keys: Path, tiny_keys: Path, tiny_plan: Plan, tiny_image: F64, clear: F64
) -> None:
    client = fheinfer.Client(minimal_keys, tiny_plan.client)
    session = fheinfer.Server().session(tiny_plan, minimal_keys / "server")
    assert session.keys.manifest.policy == "minimal"
    encrypted = client.encrypt(tiny_image)
    assert precision_bits(clear, client.decrypt(session.evaluate(encrypted), request=encrypted)).minimum > BITS
    many = Manifest.load(tiny_keys / "server" / FILE_NAME)
    few = session.keys.manifest
    assert many.policy == "fast"
    assert few.total_bytes < 0.8 * many.total_bytes
    for manifest in (few, many):
        needs = tiny_plan.keys[manifest.policy]
        assert manifest.rotations == needs.rotations
        assert needs.key_bytes == pytest.approx(manifest.total_bytes, rel=0.02)


def test_keys_that_are_replaced_while_in_use_serve_on(
    parties: Parties, tiny_plan: Plan, tiny_client: fheinfer.Client, input_bytes: bytes, clear: F64
) -> None:
    """Key files are mapped: a folder that is moved away and made anew leaves the old files to who uses them."""
    session = fheinfer.Server().session(tiny_plan, parties.server)
    shutil.rmtree(parties.server)
    result = session.evaluate(input_bytes)
    assert precision_bits(clear, tiny_client.decrypt(result, request=input_bytes)).minimum > BITS


def test_two_servers_under_the_same_keys_work_in_one_process(
    tiny_session: Any, tiny_plan: Plan, tiny_keys: Path, input_bytes: bytes, result_bytes: bytes
) -> None:
    second = fheinfer.Server().session(tiny_plan, tiny_keys / "server")
    assert second.evaluate(input_bytes) == result_bytes
    del second
    assert tiny_session.evaluate(input_bytes) == result_bytes
