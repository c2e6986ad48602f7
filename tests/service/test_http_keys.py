"""Keys over HTTP: in pieces, verified, and nothing of them used before (threats: anonymous uploads; key ids)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fheinfer.service.http.service import Service
from fheinfer.service.protocol import KeyStatus
from tests.service.conftest import Api


@pytest.fixture
def manifest(tiny_keys: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny_keys / "server" / "manifest.json").read_bytes())
    return found


def test_keys_arrive_in_pieces(api: Api, tiny_keys: Path, manifest: dict[str, Any]) -> None:
    at, folder = f"/v1/keys/{manifest['key_id']}", tiny_keys / "server"
    raw = (folder / "manifest.json").read_bytes()
    begun = api("PUT", at, content=raw)
    assert begun.status_code == 201
    status = KeyStatus.model_validate_json(begun.content)
    assert (status.complete, status.received) == (False, 0)
    assert {file.name: file.bytes for file in status.files} == {n: f["bytes"] for n, f in manifest["files"].items()}
    assert api("PUT", at, content=raw).status_code == 200  # again: nothing happens
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        half = len(data) // 2
        first = api("PUT", f"{at}/files/{name}", content=data[:half])
        assert first.json() == {"name": name, "bytes": len(data), "received": half}
        wrong = api("PUT", f"{at}/files/{name}?offset={half + 1}", content=data[half + 1 :])
        assert (wrong.status_code, wrong.json()["received"]) == (409, half)
        assert not api("GET", at).json()["complete"]
        assert api("PUT", f"{at}/files/{name}?offset={half}", content=data[half:]).json()["received"] == len(data)
    assert api("GET", at).json()["complete"]
    assert [(keys["key_id"], keys["files"]) for keys in api("GET", "/v1/keys").json()] == [(manifest["key_id"], [])]


def test_a_wrong_file_is_deleted_and_asked_for_again(
    api: Api, service: Service, tiny_keys: Path, manifest: dict[str, Any]
) -> None:
    at, folder = f"/v1/keys/{manifest['key_id']}", tiny_keys / "server"
    api("PUT", at, content=(folder / "manifest.json").read_bytes())
    right = (folder / "public.key").read_bytes()
    flipped = bytearray(right)
    flipped[-1] ^= 1
    other = (folder / "relinearisation.key").read_bytes()
    for wrong in (bytes(flipped), b"\0" * len(right), right[::-1], other[: len(right)].ljust(len(right), b"\0")):
        answer = api("PUT", f"{at}/files/public.key", content=wrong)
        assert (answer.status_code, answer.json()["kind"]) == (400, "CorruptArtifactError")
        assert str(service.settings.data) not in answer.text
        received = {file["name"]: file["received"] for file in api("GET", at).json()["files"]}
        assert received["public.key"] == 0
    longer = api("PUT", f"{at}/files/public.key", content=right + b"x")
    assert (longer.status_code, longer.json()["kind"]) == (400, "CorruptArtifactError")
    assert api("PUT", f"{at}/files/public.key", content=right).json()["received"] == len(right)
    unlisted = api("PUT", f"{at}/files/rotation_1234_1.key", content=right)
    assert unlisted.status_code == 404
    assert not [path for path in service.settings.data.rglob("*.part") if path.is_file()]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3},
        {"key_id": "../../../../etc"},
        {"files": {}},
        {"files": {"../../x.key": {"bytes": 1, "sha256": "0" * 64}}},
        {"created": "yesterday"},
        {"plans": []},
        {"more": 1},
        {"rotations": [[1, 1]] * 1000},
    ],
)
def test_manifests_are_checked(api: Api, service: Service, manifest: dict[str, Any], change: dict[str, Any]) -> None:
    raw = json.dumps({**manifest, **change}).encode()
    answer = api("PUT", f"/v1/keys/{manifest['key_id']}", content=raw)
    assert answer.status_code in (400, 409), answer.text
    assert answer.json()["kind"] in ("CorruptArtifactError", "MismatchError", "UsageError")
    assert api("GET", "/v1/keys").json() == []
    assert not list((service.settings.data / "uploads").rglob("*.json"))


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b"null", b"[" * 100_000, b'{"format": 4}', b"\xff\xfe", b'{"format": NaN}']
)
def test_what_is_no_manifest_is_refused(api: Api, manifest: dict[str, Any], raw: bytes) -> None:
    answer = api("PUT", f"/v1/keys/{manifest['key_id']}", content=raw)
    assert (answer.status_code, answer.json()["kind"]) == (400, "CorruptArtifactError")
