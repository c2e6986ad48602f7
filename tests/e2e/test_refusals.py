"""What a client and a server refuse: inputs, results and keys that are not what they should be."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer import machine
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.artifact import Artifact, Kind, from_bytes, to_bytes
from fheinfer.crypto.manifest import FILE_NAME, Manifest
from fheinfer.crypto.params import key_identity, parameter_set
from fheinfer.errors import (
    BackendError,
    CorruptArtifactError,
    InputError,
    KeyStoreError,
    MismatchError,
    NotEnoughMemoryError,
    RangeError,
)
from fheinfer.model.model import Model
from tests.conftest import calibrated, tiny_pixels
from tests.e2e.conftest import BITS, F64, Own, Parties, smaller_weights


def changed(data: bytes, one: bytes | None = None, **metadata: Any) -> bytes:
    """The same artifact with other metadata, and `one` for its ciphertexts, and the right checksum: what whoever has
    the file can make."""
    found = from_bytes(data, kind=Kind.CIPHERTEXT, max_body=1 << 30)
    told = {key: value for key, value in {**found.metadata, **metadata}.items() if value is not ...}
    body = found.body if one is None else framed(one)
    return to_bytes(Artifact(found.kind, found.identity, found.key_id, told, body))


def framed(*bodies: bytes) -> bytes:
    """The body of a container of these ciphertexts."""
    return struct.pack(f"<II{len(bodies)}Q", len(bodies), 0, *map(len, bodies)) + b"".join(bodies)


def body_of(data: bytes) -> bytes:
    """That of the only ciphertext in a container."""
    body = bytes(from_bytes(data, kind=Kind.CIPHERTEXT, max_body=1 << 30).body)
    assert body[:8] == struct.pack("<II", 1, 0)
    return body[16:]


def test_a_session_refuses_what_is_no_input_for_its_plan(
    tiny_session: Any,
    tiny_keys: Path,
    tiny_plan: Plan,
    other_plan: Plan,
    tiny_image: F64,
    input_bytes: bytes,
    result_bytes: bytes,
) -> None:
    for_another = fheinfer.Client(tiny_keys, other_plan.client).encrypt(tiny_image)
    forged = [
        result_bytes,
        for_another,
        changed(input_bytes, role="checkpoint"),
        changed(input_bytes, plan=...),
        changed(result_bytes, role="input"),
    ]
    for wrong in forged[:4]:
        with pytest.raises(MismatchError, match="is no input for resnet8-tiny"):
            tiny_session.evaluate(wrong)
    with pytest.raises((MismatchError, CorruptArtifactError, BackendError)):
        tiny_session.evaluate(forged[4])


def test_an_input_at_another_level_is_refused(
    tiny_session: Any, tiny_client: fheinfer.Client, tiny_plan: Plan, tiny_image: F64, input_bytes: bytes
) -> None:
    spec = tiny_plan.client
    for level in (spec.input.level - 1, spec.input.level + 1):
        body = tiny_client._required_secret().encrypt(spec.pack(tiny_image)[0], level)
        with pytest.raises((MismatchError, CorruptArtifactError), match=r"level|at most"):
            tiny_session.evaluate(changed(input_bytes, body))


def test_a_client_decrypts_results_only(tiny_client: fheinfer.Client, input_bytes: bytes) -> None:
    with pytest.raises((MismatchError, CorruptArtifactError)):
        tiny_client.decrypt(input_bytes)
    low = changed(input_bytes, b"x")
    with pytest.raises(MismatchError, match="an encrypted input"):
        tiny_client.decrypt(low)


@pytest.mark.parametrize(
    "claim",
    [{"outputs": 0}, {"outputs": 16384}, {"output_scale": -1.0}, {"output_scale": 1e300}, {"output_bound": "all"}],
    ids=str,
)
def test_a_claim_about_scale_and_outputs_changes_nothing(
    tiny_client: fheinfer.Client, result_bytes: bytes, clear: F64, claim: dict[str, Any]
) -> None:
    """0.1 took both from the header, and two crafted results disclosed a whole secret key."""
    found = tiny_client.decrypt(changed(result_bytes, **claim))
    assert found.shape == clear.shape
    assert fheinfer.precision_bits(clear, found).minimum > BITS


def test_a_chosen_result_is_refused(
    tiny_client: fheinfer.Client, tiny_plan: Plan, other_plan: Plan, input_bytes: bytes, result_bytes: bytes
) -> None:
    """What a server may send instead of the result, all of it intact and under the right key."""
    forged: list[tuple[bytes, str]] = [
        (changed(result_bytes, plan=other_plan.identity), "another plan"),
        (changed(result_bytes, plan=...), "another plan"),
        (changed(result_bytes, plan=[tiny_plan.identity]), "another plan"),
        (changed(result_bytes, role="checkpoint"), "not a result"),
        (changed(result_bytes, role=...), "not a result"),
        (changed(result_bytes, request="0" * 64), "another request"),
        (changed(result_bytes, request=...), "another request"),
        (changed(result_bytes, request=None), "another request"),
    ]
    for data, says in forged:
        with pytest.raises(MismatchError, match=says):
            tiny_client.decrypt(data, request=input_bytes)


def test_an_input_that_is_sent_back_as_a_result_is_refused(
    tiny_client: fheinfer.Client, tiny_plan: Plan, input_bytes: bytes, result_bytes: bytes
) -> None:
    """At its own level it is no result, whatever its metadata says; nor is anything else above level 0."""
    with pytest.raises(CorruptArtifactError, match="at most"):
        tiny_client.decrypt(changed(result_bytes, body_of(input_bytes)), request=input_bytes)
    slots = np.zeros(tiny_plan.params.slots)
    for level in (1, tiny_plan.params.levels):
        body = tiny_client._required_secret().encrypt(slots, level)
        with pytest.raises(CorruptArtifactError, match="at most"):
            tiny_client.decrypt(changed(result_bytes, body), request=input_bytes)


def test_the_result_of_another_request_is_refused(
    tiny_client: fheinfer.Client, tiny_session: Any, tiny_image: F64, input_bytes: bytes, result_bytes: bytes
) -> None:
    """The same image, encrypted twice: an old result of the first does not answer the second."""
    again = tiny_client.encrypt(tiny_image)
    assert again != input_bytes
    with pytest.raises(MismatchError, match="another request"):
        tiny_client.decrypt(result_bytes, request=again)


def random_residues(plan: Plan, result: bytes, seed: int) -> bytes:
    """The result with every residue drawn anew below its prime: nothing that a reader of bytes could notice."""
    body = body_of(result)
    limbs, polynomials, dropped = np.frombuffer(body[:12], "<u4").tolist()
    assert (limbs, polynomials) == (1, 2)
    q, n = plan.backend.context(plan.params).q[0], 1 << plan.params.log_n
    width = q.bit_length() - dropped
    packed = b""
    for half in range(2):
        values = np.random.default_rng((seed, half)).integers(0, (q >> dropped) - 1, n, dtype=np.uint64)
        bits = (values[:, None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
        packed += np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    assert len(packed) == len(body) - 12
    return changed(result, body[:12] + packed)


def test_random_residues_are_not_shown_as_a_class(
    tiny_client: fheinfer.Client, tiny_plan: Plan, input_bytes: bytes, result_bytes: bytes
) -> None:
    for seed in range(20):
        with pytest.raises((RangeError, BackendError)):
            tiny_client.decrypt(random_residues(tiny_plan, result_bytes, seed), request=input_bytes)


def test_random_residues_are_not_shown_as_a_class_without_bootstraps(own: Callable[[Plan], Own]) -> None:
    """Short scales leave so much room that OpenFHE notices nothing: turbo of 0.1 took them for outputs of 1e5."""
    model = calibrated(smaller_weights("resnet8-tiny-turbo", 2), range(1000, 1010))
    served = own(fheinfer.compile(model, "insecure-tiny-turbo"))
    encrypted = served.client.encrypt(fheinfer.normalise(tiny_pixels(3), model.mean, model.std))
    result = served.session.evaluate(encrypted)
    assert served.client.decrypt(result, request=encrypted).shape == (10,)
    for seed in range(20):
        with pytest.raises(RangeError, match="damaged, of another key, or forged"):
            served.client.decrypt(random_residues(served.plan, result, seed), request=encrypted)


def test_a_client_refuses_a_plan_of_another_set(tiny_keys: Path, tiny_model: Model) -> None:
    spec = fheinfer.compile(tiny_model, 1).client
    with pytest.raises(MismatchError, match="needs keys of set 1"):
        fheinfer.Client(tiny_keys, spec)


@pytest.mark.parametrize("shape", [(3, 9, 9), (8, 8, 3), (1, 8, 8), (3, 8), ()], ids=str)
def test_an_input_of_the_wrong_shape_is_refused(tiny_client: fheinfer.Client, tiny_plan: Plan, shape: Any) -> None:
    with pytest.raises(InputError, match="takes inputs of"):
        tiny_client.encrypt(np.zeros(shape))
    with pytest.raises(InputError, match="takes inputs of"):
        fheinfer.run_slots(tiny_plan, np.zeros(shape))


def test_an_input_beyond_what_the_model_was_calibrated_on_is_refused(
    tiny_client: fheinfer.Client, tiny_plan: Plan
) -> None:
    with pytest.raises(InputError, match="finite"):
        tiny_client.encrypt(np.full((3, 8, 8), np.nan))
    with pytest.raises(RangeError, match="normalise it first"):
        tiny_client.encrypt(np.full((3, 8, 8), 255.0))
    with pytest.raises(RangeError, match="normalise it first"):
        fheinfer.run_slots(tiny_plan, np.full((3, 8, 8), 255.0))


def test_keys_that_lack_a_rotation_are_refused_before_they_are_loaded(parties: Parties, tiny_plan: Plan) -> None:
    path = parties.server / FILE_NAME
    manifest = Manifest.load(path)
    gone = [need for need in manifest.rotations if need[0] == manifest.rotations[0][0]]
    files = {k: v for k, v in manifest.files.items() if k not in {f"rotation_{r}_{limbs}.key" for r, limbs in gone}}
    rotations = tuple(need for need in manifest.rotations if need not in gone)
    lacking = manifest.model_copy(update={"rotations": rotations, "files": files})
    path.write_text(lacking.model_dump_json())
    with pytest.raises(MismatchError, match=rf"lack {len(gone)} that this plan needs.*keygen --add"):
        fheinfer.Server().session(tiny_plan, parties.server)


@pytest.mark.parametrize(("made", "claimed"), [("minimal", "fast"), ("fast", "minimal")])
def test_keys_of_another_policy_than_their_manifest_says_are_refused(
    minimal_keys: Path, parties: Parties, tiny_plan: Plan, made: str, claimed: str
) -> None:
    if made == "minimal":
        shutil.rmtree(parties.server)
        shutil.copytree(minimal_keys / "server", parties.server)
    path = parties.server / FILE_NAME
    path.write_text(Manifest.load(path).model_copy(update={"policy": claimed}).model_dump_json())
    with pytest.raises(MismatchError, match=r"lack \d+ that this plan needs.*keygen --add"):
        fheinfer.Server().session(tiny_plan, parties.server)


def test_a_plan_file_cut_on_its_way_is_refused(parties: Parties) -> None:
    path = parties.plan / "plan.safetensors"
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:100], b"", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        path.write_bytes(data)
        with pytest.raises(CorruptArtifactError, match="compile the model again"):
            fheinfer.Server().session(parties.plan, parties.server)


def test_memory_is_asked_for_before_a_real_set_is_loaded(
    parties: Parties, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of set 1 are not needed for that: a manifest that claims them is."""
    path, params = parties.server / FILE_NAME, parameter_set(1)
    plan = fheinfer.compile(tiny_model, params)
    manifest = Manifest.load(path)
    entry = next(iter(manifest.files.values()))
    rotations = plan.keys["fast"].rotations
    others = {name: e for name, e in manifest.files.items() if not name.startswith("rotation")}
    claimed = manifest.model_copy(
        update={
            "params": params,
            "rotations": rotations,
            "files": others | {f"rotation_{k}_{limbs}.key": entry for k, limbs in rotations},
        }
    )
    path.write_text(claimed.model_dump_json())
    assert Manifest.load(path).identity == key_identity(params, "native")
    free = machine.FreeMemory(1 << 30, "on this machine", "close other programs")
    monkeypatch.setattr(machine, "tightest_limit", lambda *proc: free)
    with pytest.raises(NotEnoughMemoryError, match=r"set 1 needs about .* GiB of memory and 1\.0 GiB are free"):
        fheinfer.Server().session(plan, parties.server)
    monkeypatch.setattr(machine, "tightest_limit", lambda *proc: None)  # a system that does not say
    with pytest.raises((KeyStoreError, MismatchError)):  # whichever of the claimed files is read first
        fheinfer.Server().session(plan, parties.server)
