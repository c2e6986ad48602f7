"""Folders of keys: whole or absent, closed to others, and read only when they are what the manifest says."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.crypto.key_writer import KeyAdder, KeyWriter
from fheinfer.crypto.keystore import KeySet, ServerKeys
from fheinfer.crypto.manifest import FileEntry, Manifest, describe, rotation_file
from fheinfer.crypto.secret import open_secret, read_secret, wrap_secret
from fheinfer.crypto.verified import VerifiedFiles
from fheinfer.errors import (
    CorruptArtifactError,
    FheinferError,
    KeyStoreError,
    MismatchError,
    StorageError,
    UsageError,
)
from tests.crypto.test_manifest import KEY, sample

HASH, OTHER_HASH = sample().identity, b"\x22" * 32
SECRET = b"\0\1\xff" * 100
NAMES = ("public.key", "relinearisation.key", "rotation_5_3.key")


def container(
    name: str, body: bytes | None = None, key_id: str = KEY, metadata: dict[str, int] | None = None
) -> Artifact:
    key = describe(name)
    assert key
    return Artifact(key[0], HASH, key_id, metadata or key[1], name.encode() if body is None else body)


def generate(folder: Path, *, key_id: str = KEY, force: bool = False, stop: BaseException | None = None) -> None:
    with KeyWriter(folder, force=force) as writer:
        files = {name: writer.add(name, container(name, key_id=key_id)) for name in NAMES}
        if stop:
            raise stop
        writer.finish(sample(key_id=key_id, rotations=((5, 3),), files=files), wrap_secret(SECRET, HASH, key_id, None))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def read_everything(keys: Path) -> None:
    open_secret(keys / "secret" / "secret.key", identity=HASH)
    server = ServerKeys(keys / "server", identity=HASH)
    for name in NAMES:
        server.read(name)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate(tmp_path / "keys" / "set1")
    return tmp_path / "keys" / "set1"


def test_layout_and_round_trip(keys: Path) -> None:
    assert sorted(tree(keys)) == ["secret/secret.key", "server/manifest.json", *(f"server/{name}" for name in NAMES)]
    server = ServerKeys(keys / "server", identity=HASH, key_id=KEY)
    secret = open_secret(keys / "secret" / "secret.key", identity=HASH, key_id=KEY)
    assert bytes(server.read("rotation_5_3.key")) == b"rotation_5_3.key"
    assert bytes(secret.body) == SECRET
    assert "body" not in repr(secret)
    assert secret.key_id == server.key_id == KEY
    assert server.total_bytes == sum(p.stat().st_size for p in (keys / "server").glob("*.key"))


@pytest.mark.parametrize(
    "umask, public", [(0o000, 0o755), (0o022, 0o755), (0o077, 0o700), (0o777, None), (0o027, 0o750)]
)
def test_no_umask_opens_a_folder_or_closes_the_secret_to_its_owner(
    tmp_path: Path, umask: int, public: int | None
) -> None:
    if umask == 0o777 and os.geteuid() != 0:
        pytest.skip("nobody but root can write under this umask")
    old = os.umask(umask)
    try:
        generate(tmp_path / "deep" / "set1")
    finally:
        os.umask(old)
    keys = tmp_path / "deep" / "set1"
    assert mode(keys / "secret") == 0o700
    assert mode(keys / "secret" / "secret.key") == 0o600
    if public is not None:
        assert {mode(folder) for folder in (keys.parent, keys, keys / "server")} == {public}


@pytest.mark.parametrize("name, wrong, right", [("secret", 0o750, "700"), ("secret/secret.key", 0o604, "600")])
def test_a_secret_that_others_can_open_is_refused_with_what_to_run(
    keys: Path, name: str, wrong: int, right: str
) -> None:
    (keys / name).chmod(wrong)
    with pytest.raises(KeyStoreError, match=f"chmod {right} {keys / name}"):
        open_secret(keys / "secret" / "secret.key", identity=HASH)
    (keys / name).chmod(int(right, 8))
    open_secret(keys / "secret" / "secret.key", identity=HASH)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["secret", "secret/secret.key", "."])
def test_a_secret_of_another_user_is_refused_with_what_to_run(keys: Path, name: str) -> None:
    os.chown(keys / name, 12345, -1)
    with pytest.raises(KeyStoreError, match=r"uid 12345.*chown"):
        open_secret(keys / "secret" / "secret.key", identity=HASH)


def test_the_server_folder_stands_by_itself_and_holds_no_secret(keys: Path, tmp_path: Path) -> None:
    shutil.copytree(keys / "server", tmp_path / "elsewhere")
    shutil.rmtree(keys)
    assert bytes(ServerKeys(tmp_path / "elsewhere").read("public.key")) == b"public.key"
    assert not any(b"\0\1\xff\0\1\xff" in data for data in tree(tmp_path / "elsewhere").values())


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError(), SystemExit(1)])
@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_keygen_leaves_nothing_new(tmp_path: Path, stop: BaseException, exists: bool) -> None:
    folder = tmp_path / "keys" / "set1"
    if exists:
        generate(folder)
    before, names = tree(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(type(stop)):
        generate(folder, force=exists, stop=stop)
    assert tree(tmp_path) == before
    assert sorted(tmp_path.rglob("*")) == names  # folders, too


def test_a_killed_keygen_leaves_no_secret_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    folder = tmp_path / "set1"
    code = (
        "import os, pathlib; from tests.crypto.test_keystore import *\n"
        f"with KeyWriter(pathlib.Path({str(folder)!r})) as writer:\n"
        "    writer.add('public.key', container('public.key')); os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".fheinfer-")
    assert list(tree(left)) == ["server/public.key"]
    generate(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["set1"]


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_a_failing_disk_leaves_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, fail_at: int
) -> None:
    works, calls = getattr(os, call), [0]

    def fail(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] >= fail_at:
            raise OSError(code, os.strerror(code))
        return works(*args, **options)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError):
        generate(tmp_path / "keys" / "set1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fail_at", [1, 2])
def test_keys_survive_a_failing_rename(keys: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    before, rename, calls = tree(keys.parent), Path.rename, [0]

    def flaky(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == fail_at:
            raise OSError(errno.EIO, "I/O error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", flaky)
    with pytest.raises(StorageError):
        generate(keys, key_id="cd" * 16, force=True)
    assert tree(keys.parent) == before


def test_overwriting_needs_force_and_then_replaces_everything(keys: Path) -> None:
    (keys / "server" / "left_over.key").touch()
    with pytest.raises(KeyStoreError, match="--force"):
        generate(keys)
    generate(keys, key_id="cd" * 16, force=True)
    secret = open_secret(keys / "secret" / "secret.key", identity=HASH)
    assert ServerKeys(keys / "server").key_id == secret.key_id == "cd" * 16
    assert [p.name for p in keys.parent.iterdir()] == ["set1"]
    assert not (keys / "server" / "left_over.key").exists()


def test_force_replaces_keys_and_nothing_else(keys: Path, tmp_path: Path) -> None:
    (keys / "thesis.tex").write_text("years of work")
    with pytest.raises(KeyStoreError, match=r"thesis\.tex.*folder of its own"):
        generate(keys, force=True)
    assert (keys / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    generate(tmp_path / "empty")
    read_everything(tmp_path / "empty")


def test_old_keys_that_cannot_be_deleted_are_named(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, **_: Any) -> None:
        if ".old-" in path.name:
            raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(StorageError, match="holds a secret key"):
        generate(keys, key_id="cd" * 16, force=True)
    assert ServerKeys(keys / "server").key_id == "cd" * 16


def test_links_and_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "set1").symlink_to("real")
    with pytest.raises(KeyStoreError, match="link"):
        generate(tmp_path / "set1", force=True)
    (tmp_path / "set1").unlink()
    (tmp_path / "set1").touch()
    with pytest.raises(KeyStoreError, match="file"):
        generate(tmp_path / "set1", force=True)


def test_the_writer_refuses_misuse(tmp_path: Path) -> None:
    misuse: list[tuple[str, Artifact | bytes]] = [
        ("../public.key", container("public.key")),
        ("x", container("public.key")),
        ("public.key", container("relinearisation.key")),
        ("rotation_5_4.key", container("rotation_5_3.key")),
        ("public.key", artifact.to_bytes(container("relinearisation.key"))),
        ("secret.key", wrap_secret(SECRET, HASH, KEY, None)),
        ("public.key", wrap_secret(SECRET, HASH, KEY, None)),
    ]
    for name, key in misuse:
        with pytest.raises((UsageError, MismatchError)), KeyWriter(tmp_path / "set1") as writer:
            writer.add(name, key)
    with pytest.raises(UsageError, match="finish"), KeyWriter(tmp_path / "set1"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_wrong_keys_are_mismatches(keys: Path) -> None:
    with pytest.raises(MismatchError, match=r"another parameter set or backend .set insecure-tiny, native"):
        ServerKeys(keys / "server", identity=OTHER_HASH)
    with pytest.raises(MismatchError, match="not those asked for"):
        ServerKeys(keys / "server", key_id="cd" * 16)
    with pytest.raises(MismatchError, match="parameter set"):
        read_secret(keys / "secret" / "secret.key", identity=OTHER_HASH)
    shutil.copy(keys / "server" / "public.key", keys / "server" / "relinearisation.key")
    with pytest.raises(MismatchError, match="not a relinearisation key"):
        ServerKeys(keys / "server").read("relinearisation.key")


def test_missing_keys_say_how_to_make_them(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="fheinfer keygen"):
        ServerKeys(tmp_path / "none")
    with pytest.raises(KeyStoreError, match="no such secret key"):
        read_secret(tmp_path / "none" / "secret.key", identity=HASH)
    server = ServerKeys(keys / "server")
    for name in ("rotation_6_3.key", "to_dense.key", "../secret/secret.key"):
        with pytest.raises(KeyStoreError, match=f"no {name}"):
            server.read(name)
    (keys / "server" / "public.key").unlink()
    with pytest.raises(KeyStoreError, match="no such public key"):
        server.read("public.key")


@pytest.mark.parametrize("metadata", [{"rotation": 6, "limbs": 3}, {"rotation": 5, "limbs": 2}, {"rotation": 5}])
def test_a_key_that_says_it_is_another_rotation_is_found(keys: Path, metadata: dict[str, int]) -> None:
    path = keys / "server" / "rotation_5_3.key"
    checksum = artifact.write(path, container("rotation_5_3.key", metadata=metadata))
    entry = FileEntry(bytes=path.stat().st_size, sha256=checksum.hex())
    with KeyAdder.opened(keys / "server") as adder:
        old = adder.manifest
        adder.finish(sample(rotations=old.rotations, files={**old.files, "rotation_5_3.key": entry}))
    with pytest.raises(CorruptArtifactError, match="another key than its name says"):
        ServerKeys(keys / "server").read("rotation_5_3.key")


def test_a_file_that_the_manifest_does_not_list_is_corrupt(keys: Path) -> None:
    artifact.write(keys / "server" / "public.key", container("public.key", b"PUBLIC.KEY"))
    with pytest.raises(CorruptArtifactError, match="not the file that the manifest lists"):
        ServerKeys(keys / "server").read("public.key")


def test_all_keys_are_read_on_several_threads(keys: Path, tmp_path: Path) -> None:
    memory = VerifiedFiles(tmp_path / "memory" / "verified.json")
    found = {name: bytes(body) for name, body in ServerKeys(keys / "server", verified=memory).read_all(NAMES, 3)}
    assert found == {name: name.encode() for name in NAMES}
    (keys / "server" / "public.key").write_bytes((keys / "server" / "public.key").read_bytes()[:-1] + b"Y")
    with pytest.raises(CorruptArtifactError, match=r"public\.key: the checksum"):
        dict(ServerKeys(keys / "server").read_all(NAMES))
    with pytest.raises(KeyStoreError, match=r"no rotation_6_3\.key"):
        dict(ServerKeys(keys / "server").read_all(["rotation_6_3.key"]))


def test_whoever_stops_reading_leaves_no_thread_behind(keys: Path) -> None:
    import threading

    before = threading.active_count()
    for _ in ServerKeys(keys / "server").read_all(NAMES, 2):
        break
    assert threading.active_count() == before


def test_keys_in_memory_are_those_on_disk(keys: Path, tmp_path: Path) -> None:
    found = KeySet.load(keys)
    assert found.secret is not None
    assert str(SECRET) not in repr(found)
    found.save(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(keys)
    found.save(tmp_path / "without", keep_secret=False)
    assert "secret" not in [p.name for p in (tmp_path / "without").iterdir()]
    assert KeySet.load(tmp_path / "without") == KeySet(found.manifest, found.files, None)
    server = ServerKeys(found, identity=HASH, key_id=KEY)
    assert {name: bytes(body) for name, body in server.read_all(NAMES)} == {name: name.encode() for name in NAMES}


def test_keys_in_memory_are_checked_too(keys: Path) -> None:
    found = KeySet.load(keys)
    public = bytearray(found.files["public.key"])
    public[-1] ^= 1
    with pytest.raises(CorruptArtifactError, match="checksum"):
        ServerKeys(KeySet(found.manifest, {**found.files, "public.key": bytes(public)})).read("public.key")
    other = artifact.to_bytes(container("public.key", b"another"))
    with pytest.raises(CorruptArtifactError, match="the manifest lists"):
        ServerKeys(KeySet(found.manifest, {**found.files, "public.key": other})).read("public.key")
    with pytest.raises(KeyStoreError, match="among the files"):
        ServerKeys(KeySet(found.manifest, {})).read("public.key")


def test_two_processes_do_not_add_at_once_and_leftovers_go(keys: Path) -> None:
    server = keys / "server"
    artifact.write(server / "rotation_9_2.key", container("rotation_9_2.key"))
    (server / "notes.key").write_text("not ours")
    with KeyAdder.opened(server):
        assert not (server / "rotation_9_2.key").exists()  # of an addition that was killed
        assert (server / "notes.key").exists()
        with pytest.raises(KeyStoreError, match="another process"), KeyAdder.opened(server):
            pass
    with KeyAdder.opened(server) as adder, pytest.raises(UsageError, match="already"):
        adder.add("public.key", container("public.key"))
    with pytest.raises(KeyStoreError, match="fheinfer keygen"), KeyAdder.opened(keys / "none"):
        pass


def damage(data: bytes, draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    how = draw(st.sampled_from(["flip", "cut", "extend", "random"]))
    if how == "cut":
        return data[: draw(st.integers(0, len(data) - 1))]
    if how == "flip":
        bit = draw(st.integers(0, 8 * len(data) - 1))
        return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
    return (data if how == "extend" else b"") + bytes(draw(st.binary(min_size=1, max_size=200)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_keys_raise_only_typed_errors(keys: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["server/public.key", "server/rotation_5_3.key", "secret/secret.key"]))
    path = keys / name
    good = path.read_bytes()
    path.write_bytes(damage(good, data.draw))
    try:
        with pytest.raises((CorruptArtifactError, MismatchError)):
            read_everything(keys)
    finally:
        path.write_bytes(good)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_manifest_raises_only_typed_errors(keys: Path, data: st.DataObject) -> None:
    path = keys / "server" / "manifest.json"
    good = path.read_bytes()
    path.write_bytes(damage(good, data.draw))
    try:
        # A flip may leave a valid manifest (in a model's name); it must not turn into another exception.
        read_everything(keys)
    except FheinferError:
        pass
    finally:
        path.write_bytes(good)


def test_file_names_are_those_of_rotations() -> None:
    assert rotation_file(5, 3) == "rotation_5_3.key"
    assert Manifest.model_fields["format"].default == 4
    assert Kind.ROTATION_KEY.title == "rotation key"
