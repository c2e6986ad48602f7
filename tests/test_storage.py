"""Files are whole or absent, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fheinfer import storage
from fheinfer.errors import CorruptArtifactError, StorageError

Fail = Callable[..., Any]


def failing(code: int) -> Fail:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def test_writes_chunks_with_the_mode_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    storage.atomic_write(path, [b"old"])
    storage.atomic_write(path, [b"new ", memoryview(b"content"), b""], 0o600)
    assert path.read_bytes() == b"new content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    storage.atomic_write(tmp_path / "file", [b"0123456789"])
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interruption_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise error

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error):
        storage.atomic_write(path, chunks())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
@pytest.mark.parametrize(("code", "says"), [
    (errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EROFS, "choose a folder you may write in"),
    (errno.EACCES, "choose a folder you may write in"), (errno.EIO, "nothing was changed"),
])
def test_disk_errors_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int,
                               says: str) -> None:
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(StorageError, match=says) as caught:
        storage.atomic_write(tmp_path / "file", [b"data"])
    monkeypatch.undo()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *a: full("/dev/full", os.O_WRONLY))
    with pytest.raises(StorageError, match="disk is full"):
        storage.atomic_write(tmp_path / "file", [b"data"])


def test_impossible_targets(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "file", Path("a\0b"), tmp_path / ("x" * 300)):
        with pytest.raises(StorageError):
            storage.atomic_write(path, [b"data"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="is a folder"):
        storage.atomic_write(tmp_path / "folder", [b"data"])
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "a.json", {"a": [1, 2.5]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1,\n    2.5\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_small_files_are_bounded_and_regular(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert storage.read_small(path, 5) == b"12345"
    with pytest.raises(CorruptArtifactError):
        storage.read_small(path, 4)
    with pytest.raises(CorruptArtifactError):
        storage.read_small(tmp_path, 4)
    with pytest.raises(CorruptArtifactError):
        storage.read_small(Path("/dev/zero"), 4)
    with pytest.raises(FileNotFoundError):
        storage.read_small(tmp_path / "none", 4)


def test_unreadable_files_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(StorageError, match="check its permissions"):
        storage.read_small(tmp_path / "file", 4)


def test_disk_space_is_asked_before_starting(tmp_path: Path) -> None:
    storage.require_disk(tmp_path / "not" / "yet", 1)
    with pytest.raises(StorageError, match="GB free"):
        storage.require_disk(tmp_path / "not" / "yet", 1 << 60)
    assert list(tmp_path.iterdir()) == []
