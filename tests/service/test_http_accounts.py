"""One account never sees another (threats: key ids are public and chosen by the client; confusion)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from tests.service.conftest import Api, ThreadWorkers
from tests.service.test_http_tokens import body_of

UNKNOWN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def encrypted(tiny_client: fheinfer.Client, tiny_image: Any) -> bytes:
    return tiny_client.encrypt(tiny_image)


def test_what_is_anothers_is_like_what_is_not_there(
    api: Api, other: Api, workers: ThreadWorkers, tiny_plan: Plan, tiny_keys: Path, encrypted: bytes
) -> None:
    key_id = api.upload(tiny_keys / "server")
    job_id = api.submit(encrypted, tiny_plan.identity, key_id).json()["id"]
    assert api.finished(job_id)["state"] == "done"
    for method, path, theirs, content in (
        ("GET", "/v1/keys/{}", key_id, None),
        ("DELETE", "/v1/keys/{}", key_id, None),
        ("PUT", "/v1/keys/{}/files/public.key", key_id, b"x"),
        ("PUT", "/v1/keys/{}/files/public.key?offset=1", key_id, b""),
        ("GET", "/v1/jobs/{}", job_id, None),
        ("GET", "/v1/jobs/{}/events", job_id, None),
        ("GET", "/v1/jobs/{}/result", job_id, None),
        ("DELETE", "/v1/jobs/{}", job_id, None),
    ):
        seen = body_of(other(method, path.format(theirs), content=content))
        assert seen["status"] == 404, path
        assert seen == body_of(other(method, path.format(UNKNOWN), content=content)), path
    seen = body_of(other.submit(encrypted, tiny_plan.identity, key_id))
    assert seen["status"] == 404
    assert seen == body_of(other.submit(encrypted, tiny_plan.identity, UNKNOWN))
    assert other("GET", "/v1/keys").json() == other("GET", "/v1/jobs").json() == []
    assert api("GET", f"/v1/keys/{key_id}").json()["complete"]
    assert api("GET", f"/v1/jobs/{job_id}/result").status_code == 200


def test_the_same_key_id_of_two_accounts_has_two_keys(
    api: Api, other: Api, tiny_plan: Plan, tiny_keys: Path, encrypted: bytes
) -> None:
    """A key id is bound to an account: who knows one uploads keys of it for himself only."""
    key_id = api.upload(tiny_keys / "server")
    raw = (tiny_keys / "server" / "manifest.json").read_bytes()
    begun = other("PUT", f"/v1/keys/{key_id}", content=raw)
    assert begun.status_code == 201
    assert begun.json()["received"] == 0
    assert other.submit(encrypted, tiny_plan.identity, key_id).status_code == 409  # not complete
    other.upload(tiny_keys / "server")
    mine = api.submit(encrypted, tiny_plan.identity, key_id).json()["id"]
    theirs = other.submit(encrypted, tiny_plan.identity, key_id).json()["id"]
    assert mine != theirs  # the same input twice, but not the same account's
    assert other("DELETE", f"/v1/keys/{key_id}").status_code == 204
    assert api("GET", f"/v1/keys/{key_id}").json()["complete"]


def test_other_keys_of_a_known_id_are_refused(api: Api, tiny_keys: Path, tiny_plan: Plan, tmp_path: Path) -> None:
    key_id = api.upload(tiny_keys / "server")
    fheinfer.keygen(tiny_plan.client, tmp_path / "keys")
    shutil.copytree(tmp_path / "keys" / "server", tmp_path / "other")
    raw = (tmp_path / "other" / "manifest.json").read_text()
    foreign = (tmp_path / "other" / "manifest.json").read_bytes()
    assert api("PUT", f"/v1/keys/{key_id}", content=foreign).status_code == 409  # of another id than the address says
    theirs = raw.split('"key_id": "')[1][:32]
    pretended = raw.replace(theirs, key_id).encode()
    assert api("PUT", f"/v1/keys/{key_id}", content=pretended).json()["kind"] == "MismatchError"
    assert api("GET", f"/v1/keys/{key_id}").json()["complete"]
