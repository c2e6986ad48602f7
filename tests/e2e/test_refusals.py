"""What a client and a server refuse: pictures, results and keys that are not what they should be."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer import local as inference
from fheinfer import machine as memory
from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.crypto.keystore import Manifest
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import (
    CorruptArtifactError,
    InputError,
    MismatchError,
    NotEnoughMemoryError,
    StorageError,
    UsageError,
)
from fheinfer.model.model import Weights
from tests.e2e.conftest import F64, Parties


def test_server_refuses_what_is_not_a_picture_for_its_network(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    tiny_weights: Weights,
    tiny_picture: F64,
    result_bytes: bytes,
) -> None:
    other = fheinfer.compile(tiny_weights, tiny_server.params, margin=1.5)
    for picture in (result_bytes, tiny_client.encrypt(tiny_picture, other.client)):
        with pytest.raises(MismatchError, match="not a picture encrypted for this network"):
            tiny_server.evaluate(picture)


def test_client_decrypts_results_only(
    tiny_client: fheinfer.Client, picture_bytes: bytes, tiny_plan: fheinfer.Plan
) -> None:
    with pytest.raises(MismatchError, match="an encrypted picture"):
        tiny_client.decrypt(picture_bytes)


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": 0},
        {"outputs": 513},
        {"outputs": 10.0},
        {"outputs": None},
        {"output_scale": 0.0},
        {"output_scale": -1.0},
        {"output_scale": "1"},
        {"output_scale": 1e999},
    ],
    ids=str,
)
def test_an_impossible_claim_about_a_result_is_corrupt(
    tiny_client: fheinfer.Client, result_bytes: bytes, change: dict[str, Any]
) -> None:
    params = tiny_client.params
    found = artifact.from_bytes(result_bytes, kind=Kind.CIPHERTEXT, max_payload=1 << 30)
    meta = {**found.meta, **change}
    if change.get("output_scale") == float("inf"):
        meta["output_scale"] = 10**400  # JSON can say it
    forged = artifact.to_bytes(Artifact(Kind.CIPHERTEXT, params.identity, tiny_client.key_id, meta, found.payload))
    with pytest.raises(CorruptArtifactError, match="claims"):
        tiny_client.decrypt(forged)


def test_a_client_refuses_a_network_of_another_set(
    tiny_client: fheinfer.Client, tiny_weights: Weights, tiny_picture: F64
) -> None:
    spec = fheinfer.compile(tiny_weights, 1).client
    with pytest.raises(MismatchError, match="compiled for set 1"):
        tiny_client.encrypt(tiny_picture, spec)


@pytest.mark.parametrize("shape", [(3, 9, 9), (8, 8, 3), (1, 8, 8), (3, 8), ()], ids=str)
def test_a_picture_of_the_wrong_shape_is_refused(
    tiny_client: fheinfer.Client, tiny_plan: fheinfer.Plan, shape: Any
) -> None:
    with pytest.raises(InputError, match="takes inputs of"):
        tiny_client.encrypt(np.zeros(shape), tiny_plan.client)
    with pytest.raises(InputError, match="takes inputs of"):
        fheinfer.run_slots(tiny_plan, np.zeros(shape))


def test_a_picture_that_is_not_finite_is_refused(tiny_client: fheinfer.Client, tiny_plan: fheinfer.Plan) -> None:
    with pytest.raises(UsageError, match="finite"):
        tiny_client.encrypt(np.full((3, 8, 8), np.nan), tiny_plan.client)


def test_keys_that_lack_a_rotation_are_refused_before_they_are_loaded(parties: Parties, tiny_weights: Weights) -> None:
    path = parties.server / "manifest.json"
    manifest = Manifest.load(path)
    rotations = [need for need in manifest.rotations if need[0] != manifest.rotations[0][0]]
    path.write_text(manifest.model_copy(update={"rotations": rotations}).model_dump_json())
    with pytest.raises(MismatchError, match=rf"lack {len(manifest.rotations) - len(rotations)} rotations"):
        fheinfer.Server(parties.server, tiny_weights)


@pytest.mark.parametrize(("made", "claimed"), [("minimal", "fast"), ("fast", "minimal")])
def test_keys_of_another_policy_than_their_manifest_says_are_refused(
    minimal_keys: Path, parties: Parties, tiny_weights: Weights, made: str, claimed: str
) -> None:
    if made == "minimal":
        shutil.rmtree(parties.server)
        shutil.copytree(minimal_keys / "server", parties.server)
    path = parties.server / "manifest.json"
    path.write_text(Manifest.load(path).model_copy(update={"policy": claimed}).model_dump_json())
    with pytest.raises(MismatchError, match=rf"these {claimed} keys .* lack .* run `fheinfer keygen"):
        fheinfer.Server(parties.server, tiny_weights)


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal here")
def test_a_server_that_loses_its_keys_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -BUS $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(StorageError, match=r"lost a key file .*fheinfer keygen --force"):
        inference._run_server([], lambda event: None)


def test_memory_is_asked_for_before_a_real_set_is_loaded(
    parties: Parties, tiny_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of set 1 are not needed for that: a manifest that claims them is."""
    path = parties.server / "manifest.json"
    params = parameter_set(1)
    plan = fheinfer.compile(tiny_weights, params)
    claims = {"set_name": "set1", "params_hash": params.identity.hex(), "rotations": list(plan.rotations)}
    path.write_text(Manifest.load(path).model_copy(update=claims).model_dump_json())
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    with pytest.raises(NotEnoughMemoryError, match=r"set 1 needs about .* GiB of memory and 1\.0 GiB are free"):
        fheinfer.Server(parties.server, tiny_weights)
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # a system that does not say
    with pytest.raises(MismatchError):
        fheinfer.Server(parties.server, tiny_weights)
