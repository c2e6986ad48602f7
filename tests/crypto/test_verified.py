"""Checksums that are remembered, and files that are checked again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fheinfer.crypto import artifact, verified
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.crypto.verified import VerifiedFiles
from fheinfer.errors import CorruptArtifactError
from tests.crypto.test_keystore import generate

HASH, KEY = b"\x11" * 32, "ab" * 16


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "SETTLED", 0.0)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "public.key"
    artifact.write(path, Artifact(Kind.PUBLIC_KEY, HASH, KEY, {}, b"body" * 100))
    time.sleep(0.02)  # another tick of the clock of files
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "fheinfer" / "verified.json"


def read(path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    """Reads with a memory as a new process would; returns how many bytes were hashed, if that is watched."""
    hashed = [0]
    if monkeypatch:
        sha256 = hashlib.sha256

        class Counting:
            def __init__(self, data: Any = b"") -> None:
                hashed[0] += len(data)
                self._digest = sha256(data)

            def update(self, data: Any) -> None:
                hashed[0] += len(data)
                self._digest.update(data)

            def digest(self) -> bytes:
                return bytes(self._digest.digest())

        monkeypatch.setattr(hashlib, "sha256", Counting)
    files = VerifiedFiles(memory)
    try:
        artifact.read(path, kind=Kind.PUBLIC_KEY, identity=HASH, key_id=KEY, max_body=1000, verified=files)
    finally:
        if monkeypatch:
            monkeypatch.undo()
            monkeypatch.setattr(verified, "SETTLED", 0.0)
    files.save()
    return hashed[0]


def test_a_file_is_hashed_once(key: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(key, memory, monkeypatch) > 400
    assert read(key, memory, monkeypatch) == 0
    assert oct(memory.stat().st_mode & 0o777) == "0o600"
    assert oct(memory.parent.stat().st_mode & 0o777) == "0o700"


def test_a_flipped_bit_is_found_though_the_mtime_is_set_back(key: Path, memory: Path) -> None:
    read(key, memory)
    before = key.stat()
    with key.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"Y")
    os.utime(key, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (key.stat().st_mtime_ns, key.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    with pytest.raises(CorruptArtifactError, match="checksum"):
        read(key, memory)


def test_a_copy_is_hashed_again(key: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(key, memory)
    content = key.read_bytes()
    key.unlink()
    key.write_bytes(content)
    assert read(key, memory, monkeypatch) > 400


def test_an_old_entry_is_hashed_again(key: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(key, memory)
    found = json.loads(memory.read_text())
    for shift in (-verified.MAX_AGE - 1.0, 60.0):  # too old, or of the future
        memory.write_text(json.dumps({name: [sha, time.time() + shift] for name, (sha, _) in found.items()}))
        assert read(key, memory, monkeypatch) > 400


def test_a_file_that_has_just_changed_is_not_remembered(
    key: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "SETTLED", 100.0)
    read(key, memory)
    assert not memory.exists()


@pytest.mark.parametrize("change", ["file", "folder", "owner", "link", "junk", "large", "list"])
def test_a_memory_that_others_could_have_written_is_not_used(
    key: Path, memory: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(key, memory)
    match change:
        case "file":
            memory.chmod(0o620)
        case "folder":
            memory.parent.chmod(0o777)
        case "owner":
            if os.geteuid() != 0:
                pytest.skip("only root gives files away")
            os.chown(memory, 12345, -1)
        case "link":
            memory.rename(memory.with_name("elsewhere"))
            memory.symlink_to("elsewhere")
        case "junk":
            memory.write_bytes(b"{" + memory.read_bytes())
        case "large":
            memory.write_bytes(memory.read_bytes() + b" " * verified.MAX_BYTES)
        case "list":
            memory.write_text("[1, 2]")
    assert read(key, memory, monkeypatch) > 400


def test_entries_of_a_wrong_form_are_passed_over(key: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(key, memory)
    found = json.loads(memory.read_text())
    memory.write_text(json.dumps({"a": 1, "b": [], "c": [1, 2.0], "d": None, **found}))
    assert read(key, memory, monkeypatch) == 0


def test_the_memory_is_bounded_and_keeps_the_newest(key: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.parent.mkdir(parents=True, mode=0o700)
    memory.write_text(json.dumps({str(i): ["0" * 64, float(i)] for i in range(verified.MAX_ENTRIES)}))
    memory.chmod(0o600)
    assert read(key, memory, monkeypatch) > 400
    assert len(json.loads(memory.read_text())) == verified.MAX_ENTRIES
    assert memory.stat().st_size < verified.MAX_BYTES
    assert read(key, memory, monkeypatch) == 0


def test_where_nothing_can_be_remembered_files_are_read_all_the_same(key: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    read(key, tmp_path / "file" / "fheinfer" / "verified.json")


def test_it_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert verified.default_path() == Path("/somewhere/fheinfer/verified.json")


def test_what_was_just_written_is_known_and_a_change_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generate(tmp_path / "set1")
    path = tmp_path / "set1" / "server" / "public.key"
    checksum = path.read_bytes()[72:104]
    assert VerifiedFiles().knows(path.stat(), checksum)
    time.sleep(0.02)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"Y")
    assert not VerifiedFiles().knows(path.stat(), checksum)
    with pytest.raises(CorruptArtifactError, match="checksum"):
        ServerKeys(tmp_path / "set1" / "server").read("public.key")
