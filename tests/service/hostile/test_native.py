"""What passes all checks in Python and is hostile to the native parser: one job fails typed, the others' go on.

Threat: native parsers run in the worker, not in the process that holds others' sessions.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact
from fheinfer.crypto.ciphertexts import open_ciphertexts, seal
from fheinfer.crypto.manifest import describe
from fheinfer.service.http.service import Service, Settings, running
from fheinfer.service.workers import LocalWorkers
from tests.service.conftest import Api

COUNTS = struct.Struct("<III")
Change = Callable[[bytes], bytes]


@pytest.fixture
def workers() -> LocalWorkers:
    return LocalWorkers(1, threads=1)


@pytest.fixture
def service(settings: Settings, workers: LocalWorkers) -> Iterator[Service]:
    with running(settings, lambda: workers) as found:
        yield found


def with_counts(body: bytes, *counts: int) -> bytes:
    return COUNTS.pack(*counts) + body[COUNTS.size :]


def largest(body: bytes, at: int) -> bytes:
    """From there on every residue as large as its bits allow: not below its prime."""
    return body[:at] + b"\xff" * (len(body) - at)


INPUTS: dict[str, Change] = {
    "residues": lambda body: largest(body, 44),
    "last residue": lambda body: largest(body, len(body) - 7),
    "no limbs": lambda body: with_counts(body, 0, 1, 0),
    "one limb, the length of four": lambda body: with_counts(body, 1, 1, 0),
    "no polynomials": lambda body: with_counts(body, 4, 0, 0),
    "two polynomials, the length of one": lambda body: with_counts(body, 4, 2, 0),
    "many polynomials": lambda body: with_counts(body, 4, (1 << 32) - 1, 0),
    "rounded, of four limbs": lambda body: with_counts(body, 4, 1, 7),
    "rounded to nothing": lambda body: with_counts(body, 1, 1, (1 << 32) - 1),
    "rounded to less than nothing": lambda body: with_counts(body, 1, 2, 1 << 31),
    "one byte": lambda body: body[:1],
    "counts alone": lambda body: body[: COUNTS.size],
    "half a seed": lambda body: body[:28],
    "no last byte": lambda body: body[:-1],
    "a lower level": lambda body: with_counts(body, 2, 1, 0)[: 44 + (len(body) - 44) // 2],
    "nothing but zeros": lambda body: bytes(len(body)),
}


def test_hostile_inputs(
    api: Api, other: Api, workers: LocalWorkers, tiny_plan: Plan, tiny_keys: Path, tiny_client: Any, other_keys: Path
) -> None:
    key_id, theirs = api.upload(tiny_keys / "server"), other.upload(other_keys / "server")
    spec, somebody = tiny_plan.client, fheinfer.Client(other_keys, tiny_plan.client)
    image = np.random.default_rng(1).uniform(-1, 1, spec.input_shape)
    good = somebody.encrypt(image)
    jobs = [other.submit(good, tiny_plan.identity, theirs).json()["id"]]
    bad: dict[str, str] = {}
    real = open_ciphertexts(tiny_client.encrypt(image), spec.params, spec.backend, key_id)
    for name, change in INPUTS.items():
        made = seal(spec.params, spec.backend, key_id, real.metadata, [change(bytes(real.bodies[0]))])
        answer = api.submit(artifact.to_bytes(made), tiny_plan.identity, key_id)
        assert answer.status_code == 202, (name, answer.text)
        bad[name] = answer.json()["id"]
    worker = None
    for name, job in bad.items():
        failed = api.finished(job)
        assert failed["state"] == "failed", name
        assert failed["error"]["kind"] in ("CorruptArtifactError", "MismatchError"), (name, failed)
        assert "/" not in failed["error"]["detail"].replace("DATA/", ""), (name, failed)
        process = workers._slots[0].process
        worker = worker or process
        assert process is worker, name
        assert process is not None
        assert process.alive, name
    jobs.append(other.submit(somebody.encrypt(image), tiny_plan.identity, theirs).json()["id"])
    for job in jobs:
        assert other.finished(job)["state"] == "done"
    found = somebody.decrypt(other("GET", f"/v1/jobs/{jobs[0]}/result").content, request=good)
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, image), found).minimum > 12
    assert workers._slots[0].process is worker


KEYS: list[tuple[str, Change]] = [
    ("relinearisation.key", lambda body: largest(body, 64)),
    ("rotation_1_4.key", lambda body: with_counts(body, (1 << 32) - 1, 1, 1)),
]


def test_hostile_keys(
    api: Api,
    other: Api,
    workers: LocalWorkers,
    tiny_plan: Plan,
    tiny_keys: Path,
    tiny_client: Any,
    tiny_image: Any,
    other_keys: Path,
    tmp_path: Path,
) -> None:
    """Keys with right containers and checksums, and other bodies: who makes a file makes its checksum, too."""
    encrypted, theirs = tiny_client.encrypt(tiny_image), other.upload(other_keys / "server")
    somebody = fheinfer.Client(other_keys, tiny_plan.client)
    for name, change in KEYS:
        folder = hostile_keys(tiny_keys / "server", tmp_path / name, name, change)
        key_id = api.upload(folder)
        failed = api.finished(api.submit(encrypted, tiny_plan.identity, key_id).json()["id"])
        assert (failed["state"], failed["error"]["kind"]) == ("failed", "CorruptArtifactError"), (name, failed)
        assert api("DELETE", f"/v1/jobs/{failed['id']}").status_code == 204
        assert api("DELETE", f"/v1/keys/{key_id}").status_code == 204
    worker = workers._slots[0].process
    good = other.submit(somebody.encrypt(tiny_image), tiny_plan.identity, theirs).json()["id"]
    assert other.finished(good)["state"] == "done"
    api.upload(tiny_keys / "server")  # the same key id once more, with what belongs to it
    done = api.finished(api.submit(encrypted, tiny_plan.identity, key_id).json()["id"])
    assert done["state"] == "done", done
    assert workers._slots[0].process is worker


def hostile_keys(real: Path, folder: Path, file: str, change: Change) -> Path:
    """A copy of a server folder with another body in one file, and a manifest to match."""
    folder.mkdir()
    for path in real.iterdir():
        (folder / path.name).hardlink_to(path)
    key = describe(file)
    assert key is not None
    found = artifact.read(real / file, kind=key[0], max_body=1 << 30)
    made = Artifact(found.kind, found.identity, found.key_id, found.metadata, change(bytes(found.body)))
    (folder / file).unlink()
    checksum = artifact.write(folder / file, made)
    manifest = json.loads((real / "manifest.json").read_text())
    manifest["files"][file] = {"bytes": (folder / file).stat().st_size, "sha256": checksum.hex()}
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_keys_of_two_accounts_under_one_id_are_not_mixed(
    api: Api, other: Api, tiny_plan: Plan, tiny_keys: Path, tiny_client: Any, tiny_image: Any, tmp_path: Path
) -> None:
    """Threat "a key id is public and chosen by the client: never an index by itself": not in a worker's memory, either.

    Even one who has another's relinearisation key gets no rotation key of his own into the other's evaluations."""
    folder = hostile_keys(tiny_keys / "server", tmp_path / "keys", "rotation_1_4.key", flipped)
    key_id = other.upload(folder)
    assert api.upload(tiny_keys / "server") == key_id
    clear = fheinfer.run_slots(tiny_plan, tiny_image)
    for first, second in ((other, api), (api, other)):
        for one in (first, second):
            encrypted = tiny_client.encrypt(tiny_image)
            job = one.submit(encrypted, tiny_plan.identity, key_id).json()["id"]
            assert one.finished(job)["state"] == "done"
            if one is api:
                found = tiny_client.decrypt(one("GET", f"/v1/jobs/{job}/result").content, request=encrypted)
                assert fheinfer.precision_bits(clear, found).minimum > 12


def flipped(body: bytes) -> bytes:
    """A key that is none, of possible residues: two of them change places."""
    at = len(body) // 2 // 8 * 8
    return body[:at] + body[at + 8 : at + 16] + body[at : at + 8] + body[at + 16 :]
