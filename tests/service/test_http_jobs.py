"""Jobs over HTTP: from an encrypted input to a signed result, and what is refused on the way."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.service.http.app import create_app
from fheinfer.service.http.service import Service, Settings, running
from tests.service.conftest import Api, ThreadWorkers


def test_an_input_becomes_a_signed_result(
    api: Api, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    key_id = api.upload(tiny_keys / "server")
    encrypted = tiny_client.encrypt(tiny_image)
    answer = api.submit(encrypted, tiny_plan.identity, key_id)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["request"] == hashlib.sha256(encrypted).hexdigest()
    done = api.finished(job["id"])
    assert done["state"] == "done", done
    result = api("GET", f"/v1/jobs/{job['id']}/result")
    assert result.status_code == 200
    receipt = json.loads(base64.urlsafe_b64decode(result.headers["Fheinfer-Receipt"] + "=="))
    assert receipt["result"] == hashlib.sha256(result.content).hexdigest()
    assert np.asarray(tiny_client.decrypt(result.content, request=encrypted)).shape == (10,)


@pytest.fixture
def ready(api: Api, tiny_keys: Path) -> tuple[Api, str]:
    """The API of an account whose keys are there, and their id."""
    return api, api.upload(tiny_keys / "server")


def altered(encrypted: bytes, **metadata: Any) -> bytes:
    """An input whose metadata say something else, with the checksum that belongs to that."""
    found = artifact.from_bytes(encrypted, kind=Kind.CIPHERTEXT, max_body=len(encrypted))
    changed = Artifact(Kind.CIPHERTEXT, found.identity, found.key_id, {**found.metadata, **metadata}, found.body)
    return artifact.to_bytes(changed)


def test_the_same_input_is_the_same_job(
    ready: tuple[Api, str], tiny_plan: Plan, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    api, key_id = ready
    encrypted = tiny_client.encrypt(tiny_image)
    first = api.submit(encrypted, tiny_plan.identity, key_id)
    assert first.status_code == 202
    assert api.finished(first.json()["id"])["state"] == "done"
    again = api.submit(encrypted, tiny_plan.identity, key_id)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id)
    assert (other.status_code, other.json()["id"] != first.json()["id"]) == (202, True)
    assert [job["id"] for job in api("GET", "/v1/jobs").json()] == [first.json()["id"], other.json()["id"]]


def test_only_inputs_for_the_plan_under_the_keys_are_taken(
    ready: tuple[Api, str],
    service: Service,
    tmp_path: Path,
    tiny_plan: Plan,
    tiny_client: fheinfer.Client,
    tiny_session: Any,
    tiny_image: Any,
) -> None:
    api, key_id = ready
    encrypted = tiny_client.encrypt(tiny_image)
    fheinfer.keygen(tiny_plan.client, tmp_path / "keys")
    foreign = fheinfer.Client(tmp_path / "keys", tiny_plan.client).encrypt(tiny_image)
    flipped = bytearray(encrypted)
    flipped[len(flipped) // 2] ^= 1
    for body, status, kind in (
        (b"", 400, "CorruptArtifactError"),
        (b"\0" * 1000, 400, "CorruptArtifactError"),
        (encrypted[:-1], 400, "CorruptArtifactError"),
        (encrypted + b"x", 400, "CorruptArtifactError"),
        (bytes(flipped), 400, "CorruptArtifactError"),
        (foreign, 409, "MismatchError"),
        (altered(encrypted, plan="0" * 64), 409, "MismatchError"),
        (altered(encrypted, role="result"), 409, "MismatchError"),
        (tiny_session.evaluate(encrypted), 409, "MismatchError"),
    ):
        answer = api.submit(body, tiny_plan.identity, key_id)
        assert (answer.status_code, answer.json()["kind"]) == (status, kind), answer.text
    for plan, key in (("0" * 64, key_id), (tiny_plan.identity, "0" * 32)):
        assert api.submit(encrypted, plan, key).status_code == 404
    assert api("GET", "/v1/jobs").json() == []
    assert not list((service.settings.data / "jobs").glob("*"))


def test_what_only_a_worker_sees_fails_the_job_and_nothing_else(
    ready: tuple[Api, str], service: Service, tiny_plan: Plan, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    """A ciphertext that is none, in a container that is right: the native parser is not in the HTTP process."""
    api, key_id = ready
    encrypted = tiny_client.encrypt(tiny_image)
    found = artifact.from_bytes(encrypted, kind=Kind.CIPHERTEXT, max_body=len(encrypted))
    body = bytearray(found.body)
    body[-64:] = b"\xff" * 64  # no residues of any prime
    bad = artifact.to_bytes(Artifact(Kind.CIPHERTEXT, found.identity, found.key_id, found.metadata, bytes(body)))
    job = api.submit(bad, tiny_plan.identity, key_id)
    assert job.status_code == 202
    failed = api.finished(job.json()["id"])
    assert failed["state"] == "failed"
    assert failed["error"]["kind"] == "CorruptArtifactError"
    assert str(service.settings.data) not in json.dumps(failed)
    result = api("GET", f"/v1/jobs/{failed['id']}/result")
    assert (result.status_code, result.json()["kind"]) == (409, "JobError")
    assert api.submit(bad, tiny_plan.identity, key_id).json()["state"] == "failed"  # and is not tried again
    good = api.submit(encrypted, tiny_plan.identity, key_id).json()
    assert api.finished(good["id"])["state"] == "done"


def test_jobs_wait_in_order_and_can_be_cancelled(
    ready: tuple[Api, str],
    service: Service,
    workers: ThreadWorkers,
    tiny_plan: Plan,
    tiny_client: fheinfer.Client,
    tiny_image: Any,
) -> None:
    api, key_id = ready
    workers.go.clear()
    ids = [api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()["id"] for _ in range(4)]
    while api("GET", f"/v1/jobs/{ids[0]}").json()["state"] == "queued":
        pass
    assert [job["position"] for job in api("GET", "/v1/jobs").json()] == [None, 1, 2, 3]
    early = api("GET", f"/v1/jobs/{ids[1]}/result")
    assert (early.status_code, early.json()["kind"]) == (409, "JobError")
    assert api("DELETE", f"/v1/jobs/{ids[1]}").status_code == 204
    assert not service.folders.job(ids[1]).exists()
    assert api("GET", f"/v1/jobs/{ids[2]}").json()["position"] == 1
    workers.go.set()
    for job_id in (ids[0], ids[2], ids[3]):
        assert api.finished(job_id)["state"] == "done"
        assert api("DELETE", f"/v1/jobs/{job_id}").status_code == 204
        assert api("GET", f"/v1/jobs/{job_id}").status_code == 404
        assert not service.folders.job(job_id).exists()


def test_deleting_keys_cancels_what_waits_for_them(
    ready: tuple[Api, str],
    service: Service,
    workers: ThreadWorkers,
    tiny_plan: Plan,
    tiny_client: fheinfer.Client,
    tiny_image: Any,
) -> None:
    api, key_id = ready
    workers.go.clear()
    ids = [api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()["id"] for _ in range(3)]
    while api("GET", f"/v1/jobs/{ids[0]}").json()["state"] == "queued":
        pass
    assert api("DELETE", f"/v1/keys/{key_id}").status_code == 204
    assert [api("GET", f"/v1/jobs/{job_id}").json()["state"] for job_id in ids[1:]] == ["cancelled"] * 2
    assert not service.folders.job(ids[1]).exists()
    assert api("GET", f"/v1/keys/{key_id}").status_code == 404
    assert workers.forgotten == [key_id]
    assert api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).status_code == 404


def test_a_result_that_was_deleted_is_not_there(
    ready: tuple[Api, str], service: Service, tiny_plan: Plan, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    api, key_id = ready
    job = api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()
    done = api.finished(job["id"])
    assert done["expires"] == pytest.approx(done["finished"] + service.settings.keep_results)
    service.folders.result(job["id"]).unlink()
    assert api("GET", f"/v1/jobs/{job['id']}/result").status_code == 404


def test_a_result_outlives_its_plan(
    settings: Settings,
    workers: ThreadWorkers,
    tmp_path: Path,
    tiny_plan: Plan,
    tiny_keys: Path,
    tiny_client: fheinfer.Client,
    tiny_image: Any,
) -> None:
    models = Path(shutil.copytree(settings.models, tmp_path / "models"))
    changed = replace(settings, models=models, keep_plans=0.0)
    with running(changed, lambda: workers) as service, TestClient(create_app(service)) as http:
        api = Api(http, service.store.add_token("alice"))
        key_id, encrypted = api.upload(tiny_keys / "server"), tiny_client.encrypt(tiny_image)
        job = api.submit(encrypted, tiny_plan.identity, key_id).json()["id"]
        assert api.finished(job)["state"] == "done"
        shutil.rmtree(models / "tiny")
        service.catalogue.refresh()
        service.retention.sweep()
        assert api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).status_code == 404
        result = api("GET", f"/v1/jobs/{job}/result")
        assert result.status_code == 200, result.text
        assert np.asarray(tiny_client.decrypt(result.content, request=encrypted)).shape == (10,)


def test_a_disk_that_takes_no_more_is_told_and_passes(
    ready: tuple[Api, str], service: Service, tiny_plan: Plan, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    """The system refuses to let files grow, as a full disk does; afterwards everything goes on."""
    api, key_id = ready
    encrypted = tiny_client.encrypt(tiny_image)
    before = sorted(service.settings.data.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(encrypted) // 2, limits[1]))
    try:
        refused = api.submit(encrypted, tiny_plan.identity, key_id)
        assert api("GET", "/livez").status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (refused.status_code, refused.json()["kind"]) == (507, "StorageError")
    assert sorted(service.settings.data.rglob("*")) == before
    job = api.submit(encrypted, tiny_plan.identity, key_id).json()
    assert api.finished(job["id"])["state"] == "done"


def test_a_disk_without_room_refuses_before_a_body_is_read(
    ready: tuple[Api, str], monkeypatch: pytest.MonkeyPatch, tiny_plan: Plan
) -> None:
    api, key_id = ready
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 1000, 1000, 1000, 0, 255))
    monkeypatch.setattr("fheinfer.storage.os.statvfs", lambda path: full)
    assert api.submit(b"x" * 100, tiny_plan.identity, key_id).status_code == 507
    assert api("PUT", f"/v1/keys/{key_id}", content=b"{}").status_code == 507
    assert api("GET", "/v1/keys").status_code == 200


def test_all_inputs_of_a_plan_have_one_size(tiny_client: fheinfer.Client, tiny_session: Any, tiny_image: Any) -> None:
    """And all results: sizes tell the plan, and nothing of what is in them."""
    inputs = [tiny_client.encrypt(x) for x in (tiny_image, 0 * tiny_image, -tiny_image)]
    assert len({len(each) for each in inputs}) == 1
    assert len({len(tiny_session.evaluate(each)) for each in inputs}) == 1
