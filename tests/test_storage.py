"""Files are whole or absent, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from fheinfer import storage
from fheinfer.errors import CorruptArtifactError, KeyStoreError, StorageError

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
@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EROFS, "choose a folder you may write in"),
        (errno.EACCES, "choose a folder you may write in"),
        (errno.EIO, "nothing was changed"),
    ],
)
def test_disk_errors_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, says: str
) -> None:
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


# Names


STRANGE = ["[z]", "[bold]x", "a\nb", "x" * 250 + "\udcff", "\udcff\udcfe", "\x1b[31mred", "\u202e", "-o"]


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names_are_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    storage.require_writable(path)
    storage.atomic_write(path, [b"data"])
    assert storage.read_small(path, 4) == b"data"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", ["x" * 5000, "\0", "a\0b", "x" * 300, "none/\udcff", "none/a\nb", "none/\x1b[31m", "f/x"]
)
@pytest.mark.parametrize("call", ["write", "ask", "make", "disk"])
def test_impossible_names_are_one_printable_line(tmp_path: Path, name: str, call: str) -> None:
    (tmp_path / "f").write_text("a file")
    path = tmp_path / name
    calls: dict[str, Callable[[], None]] = {
        "write": lambda: storage.atomic_write(path, [b"data"]),
        "ask": lambda: storage.require_writable(path),
        "make": lambda: storage.make_folder(path / "f" if name.startswith("none") else path),
        "disk": lambda: storage.require_disk(path, 1 << 60),
    }
    if call == "make" and name.startswith("none"):
        return  # it makes them
    with pytest.raises(StorageError) as caught:
        calls[call]()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    message.encode()  # no surrogates


def test_what_is_shown() -> None:
    assert storage.shown("plain/file [x].png") == "plain/file [x].png"
    assert storage.shown("a\nb\udcff\x1b") == "a\\nb\\udcff\\x1b"
    assert storage.shown("ab" * 500, 10) == "ababa...babab"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StorageError, match="links in"):
        storage.atomic_write(tmp_path / "a" / "file", [b"data"])
    with pytest.raises(FileNotFoundError):
        storage.check_private(tmp_path / "a")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "file").symlink_to("other")
    storage.atomic_write(tmp_path / "file", [b"new"])
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()


def test_a_temporary_name_that_is_taken_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap, victim = tmp_path / "trap", tmp_path / "victim"
    victim.write_text("mine")
    trap.symlink_to(victim)
    monkeypatch.setattr(storage, "temporary_sibling", lambda path: trap)
    with pytest.raises(StorageError):
        storage.atomic_write(tmp_path / "file", [b"data"])
    assert victim.read_text() == "mine"


def test_temporary_names_cannot_be_predicted(tmp_path: Path) -> None:
    assert len({storage.temporary_sibling(tmp_path / "x") for _ in range(100)}) == 100
    assert len(storage.temporary_sibling(tmp_path / ("x" * 250)).name) < 80


# Modes


@pytest.fixture
def umask() -> Iterator[None]:
    """Everything is open to everybody."""
    old = os.umask(0)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_modes_do_not_depend_on_an_open_umask(tmp_path: Path) -> None:
    storage.atomic_write(tmp_path / "public", [b""])
    storage.atomic_write(tmp_path / "private", [b""], storage.PRIVATE)
    storage.write_json(tmp_path / "json", {}, storage.PRIVATE)
    storage.make_folder(tmp_path / "a" / "b")
    storage.make_folder(tmp_path / "c" / "d", storage.PRIVATE_FOLDER)
    modes = {p: mode(tmp_path / p) for p in ("public", "private", "json", "a", "a/b", "c", "c/d")}
    assert modes == {
        "public": 0o644,
        "private": 0o600,
        "json": 0o600,
        "a": 0o755,
        "a/b": 0o755,
        "c": 0o755,
        "c/d": 0o700,
    }


def test_a_folder_that_is_there_keeps_its_mode_and_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o711)
    storage.make_folder(tmp_path / "there", storage.PRIVATE_FOLDER)
    assert mode(tmp_path / "there") == 0o711
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="something else"):
        storage.make_folder(tmp_path / "file")


# Secrets


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """home/secret/secret.key, private."""
    folder = tmp_path / "home" / "secret"
    folder.mkdir(parents=True)
    for path, bits in ((folder.parent, 0o755), (folder, 0o700)):
        path.chmod(bits)
    storage.atomic_write(folder / "secret.key", [b"secret"], storage.PRIVATE)
    return folder / "secret.key"


def test_a_private_secret_is_fine(secret: Path) -> None:
    storage.check_private(secret)
    storage.check_private(secret.parent)
    secret.parent.parent.chmod(0o1777)  # as /tmp
    storage.check_private(secret)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_secret_that_others_can_read(secret: Path, bits: int) -> None:
    secret.chmod(bits)
    with pytest.raises(KeyStoreError, match=r"others can read .* run `chmod 600 "):
        storage.check_private(secret)


@pytest.mark.parametrize("bits", [0o777, 0o750, 0o701])
def test_a_folder_of_secrets_that_others_can_read(secret: Path, bits: int) -> None:
    secret.parent.chmod(bits)
    with pytest.raises(KeyStoreError, match=r"others can read .* run `chmod 700 "):
        storage.check_private(secret.parent)


def test_a_folder_above_that_everybody_can_write_in(secret: Path) -> None:
    secret.parent.parent.chmod(0o777)
    for path in (secret, secret.parent):
        with pytest.raises(KeyStoreError, match=r"everybody can replace .* run `chmod o-w .*home`"):
            storage.check_private(path)
    link = secret.parent.parent.parent / "link"
    link.symlink_to(secret)
    with pytest.raises(KeyStoreError, match="everybody can replace"):
        storage.check_private(link)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_another_owner_of_it_or_of_a_folder_above(secret: Path, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place, real = [secret, *secret.parents][depth], Path.stat

    def status(path: Path, **options: Any) -> os.stat_result:
        found = real(path, **options)
        if path == place:
            fields = list(found)
            fields[stat.ST_UID] = 4242
            return os.stat_result(fields)
        return found

    monkeypatch.setattr(Path, "stat", status)
    with pytest.raises(KeyStoreError, match=r"belongs to another user \(uid 4242\)"):
        storage.check_private(secret)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_owner_in_earnest(secret: Path) -> None:
    os.chown(secret.parent, 4242, 4242)
    with pytest.raises(KeyStoreError, match="belongs to another user"):
        storage.check_private(secret)


def test_no_secret_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", Path("a\0b"), tmp_path / ("x" * 5000)):
        with pytest.raises((FileNotFoundError, StorageError)):
            storage.check_private(path)


# JSON


class Point(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    x: int
    deep: dict[str, list[int]] = {}


def test_json_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    storage.write_json(path, {"x": 3})
    assert storage.read_json(path, 100, Point) == Point(x=3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"x": "3"}', r"damaged \(x: Input should be a valid integer\); make it again"),
        (b'{"x": 3, "y\\n[/z]": 1}', r"damaged \(y\\n\[/z\]: Extra inputs are not permitted\); make it again"),
        (b'{"x": 3, "deep": {"a": [1, "b"]}}', r"damaged \(deep\.a\.1: "),
        (b"{}", r"damaged \(x: Field required\)"),
        (b"", r"damaged \(the whole file: Invalid JSON"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[" * 90, "damaged"),
        (b'{"x": NaN}', "damaged"),
        (b" " * 101, "larger than the 100 bytes"),
        (b'{"' + b"y" * 80 + b'": 1, "x": 3}', r"damaged \(y+: "),
    ],
)
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "point.json"
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=says) as caught:
        storage.read_json(path, 100, Point, "make it again")
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_json_of_another_kind_of_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(CorruptArtifactError, match="not a regular file"):
            storage.read_json(path, 100, Point)
    with pytest.raises(FileNotFoundError):
        storage.read_json(tmp_path / "none", 100, Point)


def test_a_disk_that_fails_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EIO))
    with pytest.raises(StorageError, match="check the disk"):
        storage.read_json(tmp_path / "file", 100, Point)
    monkeypatch.undo()
    (tmp_path / "file").write_text("{}")

    class Broken:
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None: ...

        read = staticmethod(failing(errno.EIO))

    monkeypatch.setattr(os, "fdopen", lambda fd, mode: Broken())
    with pytest.raises(StorageError, match="check the disk"):
        storage.read_small(tmp_path / "file", 100)


def test_a_small_file_takes_little_memory_whatever_is_allowed(tmp_path: Path) -> None:
    """The limit of a plan file is 4 GiB: a process that may not have as much could not read any."""
    (tmp_path / "file").write_bytes(b"data")
    tracemalloc.start()
    try:
        assert storage.read_small(tmp_path / "file", 4 << 30) == b"data"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_grows_meanwhile_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "file", storage.open_regular

    def opened(path: Path, what: str = "") -> tuple[int, os.stat_result]:
        found = real(path, what)
        path.write_bytes(b"12345678")
        return found

    path.write_bytes(b"12")
    monkeypatch.setattr(storage, "open_regular", opened)
    assert storage.read_small(path, 8) == b"12345678"
    path.write_bytes(b"12")
    with pytest.raises(CorruptArtifactError, match="larger than the 7 bytes"):
        storage.read_small(path, 7)


def test_the_cache_folder_is_an_absolute_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for value, folder in (("/c", "/c"), ("c", "/home/someone/.cache"), ("", "/home/someone/.cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert storage.cache_folder() == Path(folder) / "fheinfer"


def test_a_user_without_a_home_has_no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(StorageError):
        storage.make_folder(storage.cache_folder())
