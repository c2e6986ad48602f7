"""Client and server in separate folders, meeting only in bytes; on the small network and ring."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import fheinfer
from fheinfer import _core
from fheinfer.crypto.keystore import Manifest
from fheinfer.errors import (
    KeyStoreError,
)
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.model.model import Weights
from tests.e2e.conftest import BITS, F64, Parties


@pytest.fixture(scope="session")
def logits(tiny_client: fheinfer.Client, result_bytes: bytes) -> F64:
    return tiny_client.decrypt(result_bytes)


def test_a_picture_is_classified_by_a_server_that_has_no_secret(
    parties: Parties, tiny_weights: Weights, tiny_plan: fheinfer.Plan, tiny_picture: F64, clear: F64
) -> None:
    """Two folders; what crosses is bytes. While the server works there is no secret anywhere."""
    encrypted = fheinfer.Client(parties.client).encrypt(tiny_picture, tiny_plan.client)
    away = parties.client.parent / "moved away"
    (parties.client / "secret").rename(away)
    result = fheinfer.Server(parties.server, tiny_weights).evaluate(encrypted)
    with pytest.raises(KeyStoreError):
        fheinfer.Client(parties.client)
    away.rename(parties.client / "secret")
    logits = fheinfer.Client(parties.client).decrypt(result)
    assert precision_bits(clear, logits).minimum > BITS
    assert logits.argmax() == clear.argmax()
    assert not (parties.server.parent / "secret").exists()


def test_the_result_agrees_with_pytorch(logits: F64, tiny_weights: Weights, tiny_picture: F64) -> None:
    pytest.importorskip("torch")
    from fheinfer.evaluation.plain import plain_logits

    assert precision_bits(plain_logits(tiny_weights, tiny_picture), logits).minimum > 4


def test_the_result_holds_the_logits_and_nothing_else(
    tiny_client: fheinfer.Client, tiny_plan: fheinfer.Plan, result_bytes: bytes
) -> None:
    slots = tiny_client.decrypt_slots(result_bytes).reshape(-1, tiny_plan.steps[-1].layout.period)
    assert np.abs(slots[:, 10:]).max() < 2**-10 * np.abs(slots[:, :10]).max()
    assert np.abs(slots - slots[0]).max() < 2**-10 * np.abs(slots).max()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    yield _core.set_threads
    _core.set_threads(len(os.sched_getaffinity(0)))


def test_one_core_and_two_compute_the_same(
    tiny_server: fheinfer.Server,
    picture_bytes: bytes,
    threads: Callable[[int], None],
) -> None:
    """To the last bit, over a whole network."""
    results = []
    for n in (1, 2):
        threads(n)
        results.append(tiny_server.evaluate(picture_bytes))
    assert results[0] == results[1]


def test_minimal_keys_give_the_same_logits(
    minimal_keys: Path, tiny_keys: Path, tiny_weights: Weights, tiny_plan: fheinfer.Plan, tiny_picture: F64, clear: F64
) -> None:
    client, server = fheinfer.Client(minimal_keys), fheinfer.Server(minimal_keys / "server", tiny_weights)
    assert server.plan.keys == server.keys.manifest.policy == "minimal"
    result = server.evaluate(client.encrypt(tiny_picture, tiny_plan.client))
    assert precision_bits(clear, client.decrypt(result)).minimum > BITS
    many = Manifest.load(tiny_keys / "setinsecure-tiny" / "server" / "manifest.json")
    assert server.keys.total_bytes < 0.8 * many.total_bytes
    assert server.keys.manifest.rotations == list(server.plan.rotations)
    evaluation = server.keys.total_bytes - server.keys.manifest.files["public.key"].bytes
    assert server.plan.prediction.key_bytes == pytest.approx(evaluation, rel=0.02)


def test_keys_that_are_replaced_while_in_use_serve_on(
    parties: Parties, tiny_weights: Weights, tiny_client: fheinfer.Client, picture_bytes: bytes, clear: F64
) -> None:
    """Key files are mapped: a folder that is moved away and made anew leaves the old files to who uses them."""
    server = fheinfer.Server(parties.server, tiny_weights)
    shutil.rmtree(parties.server)
    assert precision_bits(clear, tiny_client.decrypt(server.evaluate(picture_bytes))).minimum > BITS


def test_two_servers_under_the_same_keys_work_in_one_process(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    tiny_keys: Path,
    tiny_weights: Weights,
    picture_bytes: bytes,
    clear: F64,
) -> None:
    second = fheinfer.Server(tiny_keys / "setinsecure-tiny" / "server", tiny_weights)
    assert precision_bits(clear, tiny_client.decrypt(second.evaluate(picture_bytes))).minimum > BITS
    del second
    assert precision_bits(clear, tiny_client.decrypt(tiny_server.evaluate(picture_bytes))).minimum > BITS
