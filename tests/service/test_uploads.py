"""Uploads of keys: whatever is cut, repeated, damaged or claimed, only verified keys are used, and by their account."""

from __future__ import annotations

import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fheinfer.compiler.plan import Plan
from fheinfer.crypto.artifact import Artifact, Kind, to_bytes
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import (
    ArtifactError,
    CorruptArtifactError,
    FheinferError,
    KeyStoreError,
    LimitError,
    MismatchError,
    NotFoundError,
    StorageError,
)
from fheinfer.service.store import Store
from fheinfer.service.uploads import KeyUploads, OffsetError
from fheinfer.storage import storage_errors
from tests.service.small_keys import BASE, KEY_ID, MORE, Keys, send, small_keys, usable

PATHS = ["../x", "/etc/passwd", "a\0b", "x" * 5000, "", ".", "..", "manifest.json", "public.key\n", "public.key/../x"]


@pytest.fixture(scope="session")
def real(tiny_keys: Path) -> Manifest:
    return Manifest.load(tiny_keys / "server" / "manifest.json")


@pytest.fixture(scope="session")
def keys(real: Manifest) -> Keys:
    return small_keys(real, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "service.db")
    yield made
    made.close()


@pytest.fixture
def uploads(tmp_path: Path, store: Store) -> KeyUploads:
    return KeyUploads(tmp_path, store)


@pytest.fixture
def anna(store: Store) -> str:
    return account(store, "anna")


def account(store: Store, name: str, **limits: Any) -> str:
    found = store.account_of(store.add_token(name, **limits))
    assert found is not None
    return found.id


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        "service.db",
        "service.db-wal",
        "service.db-shm",
    }


def test_real_keys_arrive_and_serve_their_plan(
    uploads: KeyUploads, anna: str, tiny_keys: Path, tiny_plan: Plan, tmp_path: Path
) -> None:
    server, spec = tiny_keys / "server", tiny_plan.client
    raw = (server / "manifest.json").read_bytes()
    manifest = Manifest.from_bytes(raw)
    status, new = uploads.begin(anna, manifest.key_id, raw)
    assert (new, status.complete, status.received, len(status.files)) == (True, False, 0, len(manifest.files))
    for name in manifest.files:
        with pytest.raises(KeyStoreError, match="not all uploaded"):
            uploads.usable(anna, manifest.key_id, spec)
        data, at = (server / name).read_bytes(), 0
        while at < len(data):
            at = uploads.append(anna, manifest.key_id, name, at, data[at : at + 400_000]).received
    folder = uploads.usable(anna, manifest.key_id, spec)
    assert folder == tmp_path / "keys" / anna / manifest.key_id
    assert not list((tmp_path / "uploads" / anna).iterdir())
    opened = ServerKeys(folder, identity=spec.identity, key_id=manifest.key_id)
    assert dict(opened.read_all(manifest.files)).keys() == manifest.files.keys()
    assert uploads.statuses(anna) == [uploads.status(anna, manifest.key_id).model_copy(update={"files": []})]
    other = spec.model_copy(update={"keys": {"default": next(iter(spec.keys.values()))}})
    if manifest.policy not in other.keys:
        with pytest.raises(MismatchError, match="takes no"):
            uploads.usable(anna, manifest.key_id, other)
    with pytest.raises(MismatchError, match="make keys"):
        uploads.usable(anna, manifest.key_id, spec.model_copy(update={"backend": "openfhe"}))


def test_keys_that_lack_what_a_plan_needs_are_told_before_a_job(
    uploads: KeyUploads, anna: str, keys: Keys, tiny_plan: Plan
) -> None:
    send(uploads, anna, keys)
    with pytest.raises(MismatchError, match="lack"):
        uploads.usable(anna, KEY_ID, tiny_plan.client)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_no_name(uploads: KeyUploads, anna: str, keys: Keys, name: str, tmp_path: Path) -> None:
    """A path in every name: key ids, files, and files in a manifest."""
    uploads.begin(anna, KEY_ID, keys.manifest)
    before = files(tmp_path)
    with pytest.raises(NotFoundError):
        uploads.append(anna, KEY_ID, name, 0, b"x")
    with pytest.raises(NotFoundError):
        uploads.append(anna, name, "public.key", 0, b"x")
    for ask in (uploads.status, uploads.delete):
        with pytest.raises(NotFoundError):
            ask(anna, name)
    with pytest.raises(FheinferError):
        uploads.begin(anna, name, keys.manifest)
    fields = json.loads(keys.manifest)
    for key_id, listed in ((name, fields["files"]), (KEY_ID, {**fields["files"], name: fields["files"]["public.key"]})):
        with pytest.raises(FheinferError):
            uploads.begin(anna, key_id, json.dumps({**fields, "key_id": key_id, "files": listed}).encode())
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff" * 100, b"[" * 100_000, b" " * (2 << 20), b'{"format": 3}']
)
def test_what_is_no_manifest_changes_nothing(uploads: KeyUploads, anna: str, raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        uploads.begin(anna, KEY_ID, raw)
    assert uploads.statuses(anna) == []
    assert not files(tmp_path)


def test_wrong_offsets_say_what_is_there(uploads: KeyUploads, anna: str, keys: Keys) -> None:
    uploads.begin(anna, KEY_ID, keys.manifest)
    data = keys.files["public.key"]
    uploads.append(anna, KEY_ID, "public.key", 0, data[:50])
    for offset in (0, 49, 51, 1 << 60):
        with pytest.raises(OffsetError) as caught:
            uploads.append(anna, KEY_ID, "public.key", offset, data[50:])
        assert caught.value.received == 50
    with pytest.raises(CorruptArtifactError, match="more than"):
        uploads.append(anna, KEY_ID, "public.key", 50, data[50:] + b"x")
    assert uploads.append(anna, KEY_ID, "public.key", 50, data[50:]).received == len(data)
    with pytest.raises(OffsetError):
        uploads.append(anna, KEY_ID, "public.key", 0, data)
    assert uploads.append(anna, KEY_ID, "public.key", len(data), b"").received == len(data)


def test_every_flipped_bit_is_found(uploads: KeyUploads, anna: str, keys: Keys, tmp_path: Path) -> None:
    """Row "keys of 0.3 to 1.3 GB": length and checksum are verified before use."""
    uploads.begin(anna, KEY_ID, keys.manifest)
    data = keys.files["public.key"]
    for bit in range(0, 8 * len(data), 7):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptArtifactError, match=r"public\.key") as caught:
            uploads.append(anna, KEY_ID, "public.key", 0, bytes(wrong))
        assert str(tmp_path) not in str(caught.value)
    assert uploads.status(anna, KEY_ID).received == 0
    assert not [name for name in files(tmp_path) if name.endswith((".key", ".part"))]


def test_an_intact_file_is_refused_where_another_one_is_listed(
    uploads: KeyUploads, anna: str, keys: Keys, real: Manifest
) -> None:
    """As long as the listed one, and of another key id, parameter set, kind, rotation, or of other content alone."""
    fields = json.loads(keys.manifest)
    name, size = "rotation_1_4.key", 200
    right = Artifact(Kind.ROTATION_KEY, real.identity, KEY_ID, {"rotation": 1, "limbs": 4}, bytes(size))
    wrong = (
        replace(right, body=b"x" * size),
        replace(right, key_id="f" * 32),
        replace(right, identity=bytes(32)),
        replace(right, kind=Kind.CONJUGATION_KEY),
        replace(right, metadata={"rotation": 2, "limbs": 4}),
    )
    for listed, sent in [(right, one) for one in wrong] + [(wrong[4], wrong[4])]:
        fields["files"][name] = {"bytes": len(to_bytes(right)), "sha256": to_bytes(listed)[72:104].hex()}
        uploads.begin(anna, KEY_ID, json.dumps(fields).encode())
        with pytest.raises(CorruptArtifactError):
            uploads.append(anna, KEY_ID, name, 0, to_bytes(sent))
        uploads.delete(anna, KEY_ID)
    fields["files"][name]["sha256"] = to_bytes(right)[72:104].hex()
    uploads.begin(anna, KEY_ID, json.dumps(fields).encode())
    assert uploads.append(anna, KEY_ID, name, 0, to_bytes(right)).received == len(to_bytes(right))


def test_the_same_key_id_with_other_hashes_is_refused(
    uploads: KeyUploads, anna: str, keys: Keys, real: Manifest, tmp_path: Path
) -> None:
    """Row "a key id is public and chosen by the client"."""
    other = small_keys(real, 2)
    uploads.begin(anna, KEY_ID, keys.manifest)
    for complete in (False, True):
        if complete:
            send(uploads, anna, keys)
        for wrong in (other, other.only(*BASE)):
            with pytest.raises(MismatchError, match="other keys"):
                uploads.begin(anna, KEY_ID, wrong.manifest)
    policy = json.dumps({**json.loads(keys.manifest), "policy": "smallest"}).encode()
    if json.loads(keys.manifest)["policy"] != "smallest":
        with pytest.raises(FheinferError):
            uploads.begin(anna, KEY_ID, policy)
    assert usable(tmp_path, anna) == keys.files
    uploads.delete(anna, KEY_ID)
    send(uploads, anna, other)
    assert usable(tmp_path, anna) == other.files


def test_keys_stay_usable_while_they_are_extended(
    uploads: KeyUploads, store: Store, anna: str, keys: Keys, tmp_path: Path
) -> None:
    base = keys.only(*BASE)
    send(uploads, anna, base)
    status, new = uploads.begin(anna, KEY_ID, keys.manifest)
    assert (new, status.complete) == (False, False)
    assert status.received == sum(map(len, base.files.values()))
    stop = threading.Event()
    seen: list[object] = []

    def watch() -> None:
        while not stop.is_set():
            try:
                seen.append(usable(tmp_path, anna))
            except Exception as error:
                seen.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        send(uploads, anna, keys, chunk=10)
    finally:
        stop.set()
        watcher.join()
    assert seen
    assert all(found in (base.files, keys.files) for found in seen)
    assert usable(tmp_path, anna) == keys.files
    assert uploads.status(anna, KEY_ID).complete
    assert not uploads.begin(anna, KEY_ID, base.manifest)[1]  # a part of what is there: nothing new
    assert len(uploads.status(anna, KEY_ID).files) == len(MORE)
    uploads.delete(anna, KEY_ID)
    send(uploads, anna, keys.only(*BASE, "rotation_2_4.key"))
    with pytest.raises(MismatchError, match="lists them all"):
        uploads.begin(anna, KEY_ID, keys.only(*BASE, "rotation_4_4.key").manifest)


def test_an_abandoned_extension_leaves_the_keys_as_they_were(
    uploads: KeyUploads, store: Store, anna: str, keys: Keys, tmp_path: Path
) -> None:
    base = keys.only(*BASE)
    send(uploads, anna, base)
    uploads.begin(anna, KEY_ID, keys.manifest)
    uploads.append(anna, KEY_ID, "rotation_2_4.key", 0, keys.files["rotation_2_4.key"])
    assert uploads.stale(time.time() - 1000) == []
    assert uploads.stale(time.time() + 1000) == [(anna, KEY_ID)]
    assert uploads.abandon(anna, KEY_ID) == []
    assert usable(tmp_path, anna) == base.files
    assert uploads.status(anna, KEY_ID).complete
    assert store.key_bytes(anna) == sum(map(len, base.files.values()))
    uploads.begin(anna, KEY_ID, keys.manifest)
    uploads.delete(anna, KEY_ID)
    uploads.begin(anna, KEY_ID, keys.manifest)
    uploads.abandon(anna, KEY_ID)
    assert uploads.statuses(anna) == []
    assert not files(tmp_path)


def test_two_accounts_with_the_same_key_id_do_not_see_each_other(
    uploads: KeyUploads, store: Store, anna: str, keys: Keys, real: Manifest, tmp_path: Path
) -> None:
    """Row "a key id is public and chosen by the client": never an index by itself, but bound to the account."""
    bob, other = account(store, "bob"), small_keys(real, 2)
    send(uploads, anna, keys)
    for ask in (uploads.status, uploads.delete):
        with pytest.raises(NotFoundError):
            ask(bob, KEY_ID)
    with pytest.raises(NotFoundError):
        uploads.append(bob, KEY_ID, "public.key", 0, b"x")
    assert uploads.statuses(bob) == []
    send(uploads, bob, other)
    assert (usable(tmp_path, anna), usable(tmp_path, bob)) == (keys.files, other.files)
    uploads.delete(bob, KEY_ID)
    assert (usable(tmp_path, anna), usable(tmp_path, bob)) == (keys.files, {})


def test_claims_count_before_the_first_byte(uploads: KeyUploads, store: Store, keys: Keys, tmp_path: Path) -> None:
    """Row "anonymous uploads fill the disk": a quota by what manifests claim, and room on the disk asked before."""
    total = sum(map(len, keys.files.values()))
    small = account(store, "small", max_key_bytes=total - 1)
    with pytest.raises(LimitError):
        uploads.begin(small, KEY_ID, keys.manifest)
    base = keys.only(*BASE)
    send(uploads, small, base)
    with pytest.raises(LimitError):
        uploads.begin(small, KEY_ID, keys.manifest)
    assert uploads.status(small, KEY_ID).complete
    large = account(store, "large", max_key_bytes=1 << 60)
    fields = json.loads(keys.manifest)
    fields["files"]["public.key"]["bytes"] = 1 << 47  # 140 TB
    with pytest.raises(StorageError, match="free some"):
        uploads.begin(large, KEY_ID, json.dumps(fields).encode())
    assert uploads.statuses(large) == []
    assert not (tmp_path / "uploads" / large).exists()


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """As on a full disk: a write beyond `size` bytes of a file fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_a_typed_error_and_the_upload_goes_on_later(
    uploads: KeyUploads, anna: str, keys: Keys, tmp_path: Path
) -> None:
    uploads.begin(anna, KEY_ID, keys.manifest)
    data = keys.files["public.key"]
    uploads.append(anna, KEY_ID, "public.key", 0, data[:60])
    with no_file_over(100), pytest.raises(StorageError):
        uploads.append(anna, KEY_ID, "public.key", 60, data[60:])
    received = {file.name: file.received for file in uploads.status(anna, KEY_ID).files}
    assert received["public.key"] == 60
    send(uploads, anna, keys)
    assert usable(tmp_path, anna) == keys.files


@contextmanager
def broken(where: Any, name: str) -> Iterator[None]:
    """Where the disk fails."""

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with pytest.MonkeyPatch.context() as patch, storage_errors(Path("service.db")):
        patch.setattr(where, name, fails)
        yield


def test_a_disk_that_fails_when_a_file_is_complete_loses_nothing(
    uploads: KeyUploads, anna: str, keys: Keys, tmp_path: Path
) -> None:
    send(uploads, anna, keys.only(*BASE))
    uploads.begin(anna, KEY_ID, keys.manifest)
    name = "rotation_2_4.key"
    data = keys.files[name]
    with pytest.raises(StorageError), broken(os, "fsync"):
        uploads.append(anna, KEY_ID, name, 0, data)
    with pytest.raises(StorageError), broken(Path, "rename"):
        uploads.append(anna, KEY_ID, name, len(data), b"")
    uploads.begin(anna, KEY_ID, keys.manifest)  # verifies what is whole
    assert (tmp_path / "uploads" / anna / KEY_ID / name).exists()
    with pytest.raises(StorageError), broken(Store, "complete_key_set"):
        send(uploads, anna, keys)
    assert not uploads.status(anna, KEY_ID).complete
    assert usable(tmp_path, anna) == keys.files
    assert uploads.begin(anna, KEY_ID, keys.manifest)[0].complete


def test_parallel_uploads_of_the_same_file_do_not_mix(
    uploads: KeyUploads, anna: str, keys: Keys, tmp_path: Path
) -> None:
    uploads.begin(anna, KEY_ID, keys.manifest)
    errors: list[BaseException] = []

    def client() -> None:
        try:
            for name, data in keys.files.items():
                at = 0
                while at < len(data):
                    try:
                        at = uploads.append(anna, KEY_ID, name, at, data[at : at + 17]).received
                    except OffsetError as error:
                        at = error.received
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert usable(tmp_path, anna) == keys.files


def test_keys_that_could_not_be_deleted_are_not_found_again(
    uploads: KeyUploads,
    store: Store,
    anna: str,
    keys: Keys,
    real: Manifest,
    tmp_path: Path,
) -> None:
    send(uploads, anna, keys)
    with pytest.raises(StorageError), broken(Path, "rename"):
        uploads.delete(anna, KEY_ID)
    with pytest.raises(NotFoundError):
        uploads.status(anna, KEY_ID)
    with pytest.raises(NotFoundError):
        uploads.append(anna, KEY_ID, "public.key", 0, b"x")
    other = small_keys(real, 2)
    send(uploads, anna, other)
    assert usable(tmp_path, anna) == other.files


def test_a_start_removes_what_nobody_knows_of_and_asks_again_for_what_is_damaged(
    uploads: KeyUploads, store: Store, anna: str, keys: Keys, tmp_path: Path
) -> None:
    send(uploads, anna, keys)
    for place in ("keys", "uploads"):
        shutil.copytree(tmp_path / "keys" / anna / KEY_ID, tmp_path / place / "nobody" / KEY_ID)
        shutil.copytree(tmp_path / "keys" / anna / KEY_ID, tmp_path / place / anna / ("f" * 32))
    uploads.recover()
    assert files(tmp_path) == {f"keys/{anna}/{KEY_ID}/{name}" for name in ("manifest.json", *MORE)}
    (tmp_path / "keys" / anna / KEY_ID / "manifest.json").write_bytes(b"")
    uploads.recover()
    assert uploads.statuses(anna) == []
    assert not files(tmp_path)


@pytest.mark.parametrize("damage", ["shortened", "missing"])
def test_keys_that_lost_bytes_are_asked_for_again(
    uploads: KeyUploads, anna: str, keys: Keys, tmp_path: Path, damage: str
) -> None:
    """Row "a mapped file that is shortened ends the process by SIGBUS": found at the start; both with an extension."""
    for names in (MORE, BASE):
        send(uploads, anna, keys.only(*names))
        uploads.begin(anna, KEY_ID, keys.manifest)
        file = tmp_path / "keys" / anna / KEY_ID / "public.key"
        if damage == "missing":
            file.unlink()
        else:
            os.truncate(file, 100)
        uploads.recover()
        assert usable(tmp_path, anna) == {}
        assert not any(status.complete for status in uploads.statuses(anna))
        send(uploads, anna, keys)
        assert usable(tmp_path, anna) == keys.files
        uploads.delete(anna, KEY_ID)
