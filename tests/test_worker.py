"""The evaluating process: its events, its errors, and how it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.ciphertexts import read_ciphertexts
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError
from fheinfer.process import BROKEN_PIPE
from fheinfer.worker import Worker
from tests.conftest import F64

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fheinfer.__file__).parent.parent)}
Events = list[dict[str, Any]]


@pytest.fixture
def encrypted(tiny_client: fheinfer.Client, tiny_image: F64, tmp_path: Path) -> Path:
    path = tmp_path / "x.ct"
    path.write_bytes(tiny_client.encrypt(tiny_image))
    return path


@pytest.fixture
def first(tiny_plan_folder: Path, tiny_keys: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The line that says what to load; this process does not tie itself to its parent."""
    monkeypatch.setattr("fheinfer.worker.die_with_parent", lambda parent: None)
    return {"plan": str(tiny_plan_folder), "keys": str(tiny_keys / "server"), "parent": os.getppid()}


def serve(*jobs: dict[str, Any]) -> Events:
    out = io.StringIO()
    Worker(out).run(json.dumps(job) for job in jobs)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def of(events: Events, kind: str) -> Events:
    return [event for event in events if event["event"] == kind]


def test_a_job_is_told_step_by_step(
    first: dict[str, Any],
    encrypted: Path,
    tiny_plan: Plan,
    tiny_client: fheinfer.Client,
    tmp_path: Path,
) -> None:
    job = {"inputs": [str(encrypted)], "outputs": [str(tmp_path / "y.ct")]}
    events = serve(first, job, job)
    kinds = list(dict.fromkeys(event["event"] for event in events))
    assert kinds == ["plan", "load", "ready", "step", "input", "done"]
    names = [step.name for step in tiny_plan.steps]
    assert [event["step"] for event in of(events, "step")] == names * 2
    assert [(event["index"], event["total"]) for event in of(events, "step")][-1] == (len(names) - 1, len(names))
    assert of(events, "plan")[0]["seconds"] == [step.seconds["fast"] for step in tiny_plan.steps]
    assert [event["name"] for event in of(events, "input")] == ["x.ct", "x.ct"]
    assert all(event["seconds"] > 0 for event in (*of(events, "input"), *of(events, "ready")))
    assert of(events, "done")[0]["memory"] > 2**20
    fractions = [event["fraction"] for event in of(events, "load") if event["what"] == "keys"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    outputs = tiny_client.decrypt((tmp_path / "y.ct").read_bytes(), request=encrypted.read_bytes())
    assert outputs.shape == (10,)


def test_a_job_keeps_layers_and_resumes(
    first: dict[str, Any], encrypted: Path, tiny_plan: Plan, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    job = {
        "inputs": [str(encrypted)],
        "outputs": [str(tmp_path / "y.ct")],
        "checkpoints": str(kept),
        "keep_layers": True,
    }
    serve(first, job)
    assert len(list(kept.glob("layer_*.ct"))) == len(tiny_plan.steps)
    whole = (tmp_path / "y.ct").read_bytes()
    events = serve(first, {**job, "keep_layers": False, "resume": True})
    assert 0 < len(of(events, "step")) < 5
    assert (tmp_path / "y.ct").read_bytes() == whole


def test_an_error_is_typed_and_writes_no_result(first: dict[str, Any], encrypted: Path, tmp_path: Path) -> None:
    output = tmp_path / "y.ct"
    job = {"inputs": [str(tmp_path / "none.ct")], "outputs": [str(output)]}
    with pytest.raises(InputError, match="no such file"):
        serve(first, job)
    encrypted.write_bytes(encrypted.read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match="incomplete"):
        serve(first, {**job, "inputs": [str(encrypted)]})
    with pytest.raises(MismatchError, match="another parameter set"):
        serve({**first, "plan": str(_plan_of_another_set(tmp_path))}, job)
    assert not output.exists()


def _plan_of_another_set(folder: Path) -> Path:
    from tests.conftest import random_model

    fheinfer.compile(random_model("resnet8-tiny-turbo", 1), "insecure-tiny-turbo").save(folder)
    return folder


def test_a_ciphertext_file_is_read_only_when_it_can_be_one(tmp_path: Path) -> None:
    params = parameter_set("insecure-tiny")
    large = tmp_path / "large.ct"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    pipe = tmp_path / "pipe.ct"
    os.mkfifo(pipe)
    for path in (large, pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises((CorruptArtifactError, InputError)):
            read_ciphertexts(path, params)
    with pytest.raises(InputError, match="no such file"):
        read_ciphertexts(tmp_path / "none.ct", params)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the evaluating process, or other Python; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        program = [sys.executable, *(arguments or ("-m", "fheinfer.worker"))]
        process: subprocess.Popen[str] = subprocess.Popen(program, env=ENVIRONMENT, **(pipes | options))
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def line(first: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**first, "parent": os.getpid(), **changes}) + "\n"


def test_errors_arrive_as_an_event_with_the_exit_code(start: Start, first: dict[str, Any], tmp_path: Path) -> None:
    process = start()
    out, err = process.communicate(line(first, keys=str(tmp_path)), timeout=120)
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["kind"]) == ("error", "KeyStoreError")
    assert (process.returncode, err) == (5, "")


def test_it_loads_no_client_and_ends_with_its_input(start: Start, first: dict[str, Any]) -> None:
    program = "import sys\nfrom fheinfer.worker import main\nmain()\nprint(sorted(sys.modules))"
    process = start("-c", program)
    out, err = process.communicate(line(first), timeout=120)
    assert (process.returncode, err) == (0, "")
    modules = out.splitlines()[-1]
    assert "'fheinfer.server'" in modules
    for name in (
        "fheinfer.client",
        "fheinfer.local",
        "fheinfer.evaluating",
        "fheinfer.cli",
        "fheinfer.crypto.keygen",
        "torch",
    ):
        assert f"'{name}'" not in modules


def test_it_ends_where_nobody_listens_or_its_parent_is_another(start: Start, first: dict[str, Any]) -> None:
    process = start()
    assert process.stdout is not None
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.write(line(first))
    process.stdin.close()
    process.stdin = None
    assert process.wait(120) == BROKEN_PIPE
    orphan = start()
    out, _ = orphan.communicate(line(first, parent=1 << 22), timeout=120)
    assert (orphan.returncode, out) == (143, "")


PARENT = """
import sys, time
from pathlib import Path
from fheinfer.evaluating import EvaluatingProcess

plan, keys, x, y = map(Path, sys.argv[1:])

def show(event):
    if event["event"] == "step":
        print(worker._process.pid, flush=True)

worker = EvaluatingProcess(show)
worker.load(plan, keys)
while True:
    worker.evaluate([x], [y])
"""


def test_it_dies_with_a_killed_parent_within_a_second(
    start: Start, tiny_plan_folder: Path, tiny_keys: Path, encrypted: Path, tmp_path: Path
) -> None:
    """In the middle of an evaluation, where no handler would run before the step is done."""
    names = (tiny_plan_folder, tiny_keys / "server", encrypted, tmp_path / "y.ct")
    parent = start("-c", PARENT, *map(str, names))
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    assert worker.ppid() == parent.pid
    parent.kill()
    killed = time.monotonic()
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < killed + 1, "it goes on computing for nobody"
        time.sleep(0.01)


def test_a_folder_of_keys_may_be_anywhere(
    first: dict[str, Any], encrypted: Path, tiny_keys: Path, tmp_path: Path
) -> None:
    """A copy of server/ alone is enough; the worker never looks beside it."""
    shutil.copytree(tiny_keys / "server", tmp_path / "copied")
    job = {"inputs": [str(encrypted)], "outputs": [str(tmp_path / "y.ct")]}
    serve({**first, "keys": str(tmp_path / "copied")}, job)
    assert (tmp_path / "y.ct").stat().st_size > 1000
