"""What ends a command from outside, in real processes: exit codes, one line, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fheinfer

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fheinfer.__file__).parent.parent)}
SHOW = ("approx", "show", "relu:3")
"""A command that prints much and computes little."""
BUSY = ("-m", "fheinfer", "approx", "generate", "--degrees", "31,31,31,31,31", "--alpha", "20", "-o", "composite.json")
"""Computes for half a minute, after a second of imports."""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python with these arguments; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **options: object) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            [sys.executable, *arguments],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT, "cwd": tmp_path}
            | options,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def wait(until: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def handles(process: subprocess.Popen[str], number: int) -> bool:
    """It has a handler of its own for that signal: the entry point has begun."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    assert caught is not None
    return bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.6, 1.2, 3.0])
def test_an_interrupt_at_any_moment_is_one_line(start: Start, delay: float) -> None:
    process = start(*BUSY)
    wait(lambda: handles(process, signal.SIGTERM))
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    lines = [line for line in err.splitlines() if not line.startswith("computing: ")]
    assert [line.startswith("error: stopped") for line in lines if line.strip() and "Aborted" not in line] == [True], (
        err
    )
    assert out == ""


IN_EXEC = """
import sys
from fheinfer.cli import main
from fheinfer.crypto import params
params.parameter_sets = lambda: exec("raise KeyboardInterrupt")
sys.argv = ["fheinfer", "sets"]
main.main()
"""


def test_an_interrupt_in_what_a_library_executes(start: Start) -> None:
    process = start("-c", IN_EXEC)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.startswith("error: stopped")


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("delay", [0.0, 0.3, 2.0])
def test_the_signals_that_ask_to_end(start: Start, number: signal.Signals, code: int, delay: float) -> None:
    process = start(*BUSY)
    wait(lambda: handles(process, number))
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_key_generation_cleans_up_and_a_killed_one_is_cleaned_up_after(
    start: Start, tmp_path: Path, tiny_plan_folder: Path, number: int
) -> None:
    arguments = ("-m", "fheinfer", "keygen", str(tiny_plan_folder), "-o", "keys/tiny")

    def temporary() -> list[Path]:
        return list(tmp_path.glob("keys/.fheinfer-*/server/public.key"))

    process = start(*arguments)
    wait(temporary)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert not (tmp_path / "keys").exists()

    killed = start(*arguments)
    wait(temporary)
    killed.kill()
    killed.communicate()
    assert len(temporary()) == 1
    again = start(*arguments)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["tiny"]
    assert "which a killed process left" in err


def test_nohup_is_respected(start: Start) -> None:
    process = start("-m", "fheinfer", *SHOW, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait(lambda: handles(process, signal.SIGTERM))
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "relu:3" in out


@pytest.mark.parametrize("arguments", [SHOW, (*SHOW, "--json"), ("--help",)])
def test_a_reader_that_goes_away(start: Start, arguments: tuple[str, ...]) -> None:
    process = start("-m", "fheinfer", *arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


@pytest.mark.parametrize("arguments", [SHOW, (*SHOW, "--json")])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_output(start: Start, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("-m", "fheinfer", *arguments, stdout=full)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err.count("\n")) == (6, 1), err
    assert "cannot write the output" in err


CHILD = """
import os, sys, time
from fheinfer.process import die_with_parent
die_with_parent(int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid())
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], start_new_session=True)
child.wait()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_child_ends_with_its_killed_parent(start: Start) -> None:
    parent = start("-c", PARENT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    wait(lambda: not alive(child), 5)


def test_a_child_whose_parent_ended_before_it_asked(start: Start) -> None:
    child = start("-c", CHILD, str(2**22 + 1))
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out, err) == (143, "", "")


def test_the_server_process_ends_with_a_killed_infer(
    start: Start, tiny_keys: Path, tiny_plan_folder: Path, tiny_image_file: Path
) -> None:
    arguments = ["infer", "--plan", tiny_plan_folder, "--keys", tiny_keys]
    process = start("-m", "fheinfer", *map(str, [*arguments, "--image", tiny_image_file]))
    server: list[int] = []

    def find() -> list[int]:
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[1]) == process.pid and b"fheinfer.worker" in path.with_name("cmdline").read_bytes():
                    server.append(int(path.parent.name))
            except OSError:
                continue
        return server

    wait(find)
    time.sleep(2.5)  # past its imports
    process.kill()
    process.communicate()
    wait(lambda: not alive(server[0]), 5)
