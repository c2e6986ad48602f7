"""What a killed process leaves is found and removed, and what a living one writes is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fheinfer
from fheinfer import leftovers
from fheinfer.leftovers import remove_leftovers, temporary_sibling

WRITE = """
import sys, time
from pathlib import Path
from fheinfer.storage import atomic_write

def chunks():
    yield b"secret"
    print("ready", flush=True)
    time.sleep(60)

atomic_write(Path(sys.argv[1]), chunks(), 0o600)
"""
FOLDER = """
import sys, time
from pathlib import Path
from fheinfer.storage import temporary_sibling

folder = temporary_sibling(Path(sys.argv[1]))
(folder / "secret").mkdir(parents=True)
(folder / "secret" / "secret.key").write_bytes(b"secret")
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def writer(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing `path`."""
    here = str(Path(fheinfer.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": here}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def old(path: Path) -> None:
    """Was last written to two days ago."""
    then = time.time() - 2 * 24 * 3600
    os.utime(path, (then, then), follow_symlinks=False)


@pytest.mark.parametrize("code", [WRITE, FOLDER])
def test_what_a_killed_process_left_is_removed_and_no_sooner(tmp_path: Path, code: str) -> None:
    with writer(code, tmp_path / "out") as process:
        [temp] = tmp_path.iterdir()
        old(temp)  # it lives, however long it takes
        assert remove_leftovers(tmp_path) == []
        process.send_signal(signal.SIGKILL)
        time.sleep(0.2)  # dead, and not yet waited for: a zombie writes nothing
        assert remove_leftovers(tmp_path) == [temp]
    assert list(tmp_path.iterdir()) == []


def test_a_later_process_of_the_same_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = leftovers._start
    monkeypatch.setattr(leftovers, "_start", lambda pid, proc: (start(pid, proc) or 0) - 1)
    temp = temporary_sibling(tmp_path / "file")
    temp.write_text("")
    monkeypatch.undo()
    assert remove_leftovers(tmp_path) == [temp]


@pytest.mark.parametrize("name", [".fheinfer-0123abcd-1-1-0123456789abcdef.tmp", ".fheinfer-0123456789abcdef.tmp"])
def test_those_of_another_system_are_removed_after_a_day(tmp_path: Path, name: str) -> None:
    """Another container, another host, before a reboot, version 0.1."""
    folder = tmp_path / name
    (folder / "secret").mkdir(parents=True)
    assert remove_leftovers(tmp_path) == []
    old(folder)
    assert remove_leftovers(tmp_path) == []  # something in it is new
    old(folder / "secret")
    assert remove_leftovers(tmp_path) == [folder]


def test_without_proc_nothing_is_known_of_any_process(tmp_path: Path) -> None:
    temp = tmp_path / ".fheinfer-00000000-1-0-0123456789abcdef.tmp"
    temp.write_text("")
    assert leftovers.leftovers(tmp_path, tmp_path / "no proc") == []
    old(temp)
    assert leftovers.leftovers(tmp_path, tmp_path / "no proc") == [temp]


def test_processes_of_others_that_proc_hides_are_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temp = temporary_sibling(tmp_path / "file")
    temp.write_text("")

    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(leftovers, "_start", lambda pid, proc: None)
    monkeypatch.setattr(os, "kill", forbidden)
    assert leftovers.leftovers(tmp_path) == []


def test_nothing_else_is_touched_and_no_link_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    for name in (".fheinfer-x.tmp", "file.tmp", ".fheinfer-0123456789abcdef.tmp.bak", "\udcff.tmp"):
        (tmp_path / name).write_text("mine")
        old(tmp_path / name)
    link = tmp_path / ".fheinfer-0123456789abcdef.tmp"
    link.symlink_to(precious)
    old(link)
    assert remove_leftovers(tmp_path) == [link]
    assert len(list(tmp_path.iterdir())) == 5
    assert (precious / "file").read_text() == "mine"


def test_what_may_not_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temp = tmp_path / ".fheinfer-0123456789abcdef.tmp"
    temp.write_text("")
    old(temp)

    def forbidden(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", forbidden)
    assert remove_leftovers(tmp_path) == []
    assert leftovers.leftovers(tmp_path) == [temp]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "none", tmp_path / "file", Path("a\0b"), tmp_path / ("x" * 5000)):
        assert remove_leftovers(folder) == []
