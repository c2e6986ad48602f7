"""Several plans and clients on the evaluators of one server."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto import keygen as keygens
from fheinfer.crypto.keygen import add_keys, keygen, missing_keys
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.errors import MismatchError
from fheinfer.runtime.loaded_keys import shared_by
from tests.conftest import TINY, random_model


@pytest.fixture(scope="module")
def plans() -> tuple[Plan, Plan]:
    """One that bootstraps, and one whose rotations are at other heights."""
    made = []
    for name in ("resnet8-tiny", "resnet8-tiny-herpn"):
        model = random_model(name, 3)
        model = dataclasses.replace(model, ranges={node.name: 8.0 for node in model.graph.activations})
        made.append(fheinfer.compile(model, TINY))
    return made[0], made[1]


@pytest.fixture
def keys(plans: tuple[Plan, Plan], tmp_path: Path) -> Path:
    keygen(plans[0].client, tmp_path / "keys", policy="fast")
    return tmp_path / "keys"


def answers(server: fheinfer.Server, plan: Plan, keys: Path) -> None:
    """Encrypts, evaluates and decrypts, and compares with the plan on slots."""
    client = fheinfer.Client(keys, plan.client)
    x = np.random.default_rng(5).uniform(-1, 1, plan.client.input_shape)
    encrypted = client.encrypt(x)
    result = server.session(plan, keys / "server").evaluate(encrypted)
    assert np.abs(client.decrypt(result, request=encrypted) - fheinfer.run_slots(plan, x)).max() < 1e-3


def test_a_running_server_takes_keys_that_were_added_meanwhile(plans: tuple[Plan, Plan], keys: Path) -> None:
    first, second = plans
    server = fheinfer.Server()
    answers(server, first, keys)
    with pytest.raises(MismatchError, match="keygen --add"):
        server.session(second, keys / "server")
    assert missing_keys(second.client, ServerKeys(keys / "server").manifest)
    add_keys(second.client, keys)
    answers(server, second, keys)
    answers(server, first, keys)


@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0, 1)])
def test_plans_of_different_heights_do_not_meet_in_one_evaluator(
    plans: tuple[Plan, Plan], keys: Path, order: tuple[int, ...]
) -> None:
    add_keys(plans[1].client, keys)
    opened, server = ServerKeys(keys / "server"), fheinfer.Server()
    assert shared_by(plans[0], opened) != shared_by(plans[1], opened)
    for index in order:
        answers(server, plans[index], keys)
    assert len(server.keys) == 2
    assert server.keys.drop(opened.key_id)
    assert len(server.keys) == 0
    assert not server.keys.drop(opened.key_id)


def test_whoever_claims_the_key_id_of_another_gets_no_keys_of_theirs(
    plans: tuple[Plan, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keygens, "new_key_id", lambda: "ab" * 16)
    server = fheinfer.Server()
    for name in ("victim", "thief"):
        keygen(plans[0].client, tmp_path / name, policy="fast")
    for name in ("thief", "victim", "thief"):
        answers(server, plans[0], tmp_path / name)


def test_copies_of_keys_are_never_loaded_into_the_evaluator_of_the_first(
    plans: tuple[Plan, Plan], keys: Path, tmp_path: Path
) -> None:
    """Threat: key ids and checksums are public, so another folder with the same ones may hold other rotation keys."""
    shutil.copytree(keys, tmp_path / "copy")
    server = fheinfer.Server()
    for place in (keys, tmp_path / "copy", keys):
        answers(server, plans[0], place)
    assert len(server.keys) == 2
