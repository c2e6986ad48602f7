"""Client and server in separate folders, meeting only in bytes; on the small network and ring."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer import _core, artifact, inference
from fheinfer.artifact import Artifact, Kind
from fheinfer.errors import (
    CorruptArtifactError,
    InputError,
    KeyStoreError,
    MismatchError,
    NotEnoughMemoryError,
    StorageError,
    UsageError,
)
from fheinfer.keystore import Manifest
from fheinfer.metrics import precision_bits
from fheinfer.params import parameter_set
from fheinfer.precision import compare, encrypted_layers, layer_bits
from fheinfer.runtime import memory
from fheinfer.runtime.executor import StepDone
from fheinfer.weights import Weights

F64 = NDArray[np.float64]
BITS = 15.0
"""What seven bootstraps on this ring leave of the worst logit, at least: 17.7 to 19.1 in 42 runs under eleven keys."""


@dataclasses.dataclass
class Parties:
    """A client's folder without anything of the server's work, a server's folder without a secret."""

    client: Path
    server: Path


@pytest.fixture
def parties(tiny_keys: Path, tmp_path: Path) -> Parties:
    shutil.copytree(tiny_keys / "setinsecure-tiny", tmp_path / "client")
    shutil.copytree(tiny_keys / "setinsecure-tiny" / "server", tmp_path / "elsewhere" / "server")
    return Parties(tmp_path / "client", tmp_path / "elsewhere" / "server")


@pytest.fixture(scope="session")
def picture_bytes(tiny_client: fheinfer.Client, tiny_plan: fheinfer.Plan, tiny_picture: F64) -> bytes:
    return tiny_client.encrypt(tiny_picture, tiny_plan.client)


@pytest.fixture(scope="session")
def result_bytes(tiny_server: fheinfer.Server, picture_bytes: bytes) -> bytes:
    return tiny_server.evaluate(picture_bytes)


@pytest.fixture(scope="session")
def clear(tiny_plan: fheinfer.Plan, tiny_picture: F64) -> F64:
    """The logits on slots: exact, so that a run is judged by its own noise alone."""
    return fheinfer.run_slots(tiny_plan, tiny_picture)


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
    from fheinfer.plain import plain_logits

    assert precision_bits(plain_logits(tiny_weights, tiny_picture), logits).minimum > 4


def test_the_result_holds_the_logits_and_nothing_else(
    tiny_client: fheinfer.Client, tiny_plan: fheinfer.Plan, result_bytes: bytes
) -> None:
    slots = tiny_client.decrypt_slots(result_bytes).reshape(-1, tiny_plan.steps[-1].layout.period)
    assert np.abs(slots[:, 10:]).max() < 2**-10 * np.abs(slots[:, :10]).max()
    assert np.abs(slots - slots[0]).max() < 2**-10 * np.abs(slots).max()


class Interruption(KeyboardInterrupt):
    pass


def count(steps: list[str]) -> Callable[[StepDone], None]:
    return lambda done: steps.append(done.step.name)


def interrupted(server: fheinfer.Server, picture: bytes, folder: Path, after: str) -> None:
    def stop(done: StepDone) -> None:
        if done.step.name == after:
            raise Interruption

    with pytest.raises(Interruption):
        server.evaluate(picture, observer=stop, checkpoints=folder)


def test_an_interrupted_run_goes_on_after_its_last_block(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    picture_bytes: bytes,
    clear: F64,
    tmp_path: Path,
) -> None:
    interrupted(tiny_server, picture_bytes, tmp_path / "run", "layer3.0.relu1")
    steps: list[str] = []
    result = tiny_server.evaluate(picture_bytes, observer=count(steps), checkpoints=tmp_path / "run", resume=True)
    names = [step.name for step in tiny_server.plan.steps]
    # After layer3.0.relu1 two values are alive; the last block that ends in one value is layer2.0.
    assert steps == names[names.index("layer2.0.relu2") + 1 :]
    assert precision_bits(clear, tiny_client.decrypt(result)).minimum > BITS


def test_a_checkpoint_of_another_run_is_passed_over(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    tiny_picture: F64,
    picture_bytes: bytes,
    tmp_path: Path,
) -> None:
    """Of another picture, of the same picture under fresh randomness, damaged, or no file at all."""
    folder = tmp_path / "run"
    interrupted(tiny_server, picture_bytes, folder, "layer3.0.relu2")
    block = (folder / "block.ct").read_bytes()
    others = [tiny_client.encrypt(p, tiny_server.plan.client) for p in (tiny_picture[::-1], tiny_picture)]
    for picture, content in ((others[0], block), (others[1], block), (picture_bytes, block[:-9]), (picture_bytes, b"")):
        (folder / "block.ct").write_bytes(content)
        first: list[str] = []

        def stop(done: StepDone, first: list[str] = first) -> None:
            first.append(done.step.name)
            raise Interruption

        with pytest.raises(Interruption):
            tiny_server.evaluate(picture, observer=stop, checkpoints=folder, resume=True)
        assert first == ["bn1"]


def test_precision_is_reported_for_every_step(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    tiny_weights: Weights,
    tiny_picture: F64,
    picture_bytes: bytes,
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    from fheinfer.plain import plain_layers

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


@pytest.fixture(scope="session")
def minimal_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("minimal")
    fheinfer.keygen("insecure-tiny", root, network="resnet8-tiny", policy="minimal")
    return root / "setinsecure-tiny"


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


def test_keys_that_are_replaced_while_in_use_serve_on(
    parties: Parties, tiny_weights: Weights, tiny_client: fheinfer.Client, picture_bytes: bytes, clear: F64
) -> None:
    """Key files are mapped: a folder that is moved away and made anew leaves the old files to who uses them."""
    server = fheinfer.Server(parties.server, tiny_weights)
    shutil.rmtree(parties.server)
    assert precision_bits(clear, tiny_client.decrypt(server.evaluate(picture_bytes))).minimum > BITS


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal here")
def test_a_server_that_loses_its_keys_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -BUS $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(StorageError, match=r"lost a key file .*fheinfer keygen --force"):
        inference._run_server([], lambda event: None)


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
