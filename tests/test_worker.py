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
from queue import SimpleQueue
from typing import Any

import psutil
import pytest

import fheinfer
from fheinfer.compiler.plan import BASE_MEMORY, RING_MEMORY, Plan
from fheinfer.crypto.ciphertexts import read_ciphertexts
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import CorruptArtifactError, InputError
from fheinfer.process import BROKEN_PIPE
from fheinfer.worker import Worker
from tests.conftest import F64

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fheinfer.__file__).parent.parent)}
Command = dict[str, Any]
Events = list[dict[str, Any]]


@pytest.fixture
def encrypted(tiny_client: fheinfer.Client, tiny_image: F64, tmp_path: Path) -> Path:
    path = tmp_path / "x.ct"
    path.write_bytes(tiny_client.encrypt(tiny_image))
    return path


@pytest.fixture
def job(tiny_plan_folder: Path, tiny_keys: Path, encrypted: Path, tmp_path: Path) -> Command:
    """A job of one input, whose result goes to y.ct."""
    files = {"plan": str(tiny_plan_folder), "keys": str(tiny_keys / "server")}
    return {"do": "evaluate", "id": "1", **files, "inputs": [str(encrypted)], "outputs": [str(tmp_path / "y.ct")]}


def serve(*commands: Command) -> Events:
    out = io.StringIO()
    Worker(out).run(json.dumps(command) for command in commands)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def of(events: Events, kind: str) -> Events:
    return [event for event in events if event["event"] == kind]


def test_a_job_is_told_step_by_step(
    job: Command, encrypted: Path, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tmp_path: Path
) -> None:
    events = serve({**job, "do": "load"}, job, job)
    kinds = list(dict.fromkeys(event["event"] for event in events))
    assert kinds == ["plan", "load", "ready", "step", "input", "loaded", "end", "done"]
    names = [step.name for step in tiny_plan.steps]
    assert [event["step"] for event in of(events, "step")] == names * 2
    assert [(event["index"], event["total"]) for event in of(events, "step")][-1] == (len(names) - 1, len(names))
    assert all(event["seconds"] == [step.seconds["fast"] for step in tiny_plan.steps] for event in of(events, "plan"))
    assert (len(of(events, "plan")), len(of(events, "ready"))) == (3, 1)  # loaded once
    assert [event["name"] for event in of(events, "input")] == ["x.ct", "x.ct"]
    assert all(event["seconds"] > 0 for event in (*of(events, "input"), *of(events, "ready")))
    assert of(events, "loaded")[0]["keys"] == [ServerKeys(tiny_keys / "server").key_id]
    assert of(events, "done")[0]["memory"] > 2**20
    fractions = [event["fraction"] for event in of(events, "load") if event["what"] == "keys"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    outputs = tiny_client.decrypt((tmp_path / "y.ct").read_bytes(), request=encrypted.read_bytes())
    assert outputs.shape == (10,)


def test_a_job_keeps_layers_and_resumes(job: Command, tiny_plan: Plan, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    job["checkpoints"] = str(kept)
    serve({**job, "keep_layers": True})
    assert len(list(kept.glob("layer_*.ct"))) == len(tiny_plan.steps)
    whole = (tmp_path / "y.ct").read_bytes()
    events = serve({**job, "resume": True})
    assert 0 < len(of(events, "step")) < 5
    assert (tmp_path / "y.ct").read_bytes() == whole


def test_an_error_is_typed_and_the_next_job_is_done(
    job: Command, encrypted: Path, tiny_keys: Path, tmp_path: Path
) -> None:
    """Input, plan and keys may be wrong; nothing is written then."""
    short = tmp_path / "short.ct"
    short.write_bytes(encrypted.read_bytes()[:-1])
    wrong: list[Command] = [
        {"inputs": [str(tmp_path / "none.ct")]},
        {"inputs": [str(short)]},
        {"plan": str(_plan_of_another_set(tmp_path / "other"))},
        {"plan": str(tmp_path / "no plan")},
        {"keys": str(tmp_path)},
        {"key_id": "0" * 32},
    ]
    events = serve(*({**job, "outputs": [str(tmp_path / "no.ct")], **fields} for fields in wrong), job)
    kinds = [event["kind"] for event in of(events, "error")]
    assert kinds == [
        "InputError",
        "CorruptArtifactError",
        "MismatchError",
        "InputError",
        "KeyStoreError",
        "MismatchError",
    ]
    assert of(events, "error")[1]["message"].startswith("incomplete")
    assert [event["event"] for event in events][-3:] == ["loaded", "end", "done"]
    assert (tmp_path / "y.ct").exists()
    assert not (tmp_path / "no.ct").exists()


class Commands:
    """Lines for a worker, written while it runs: `also` is called with every event."""

    def __init__(self, *commands: Command) -> None:
        self.waiting: SimpleQueue[Command | None] = SimpleQueue()
        for command in commands:
            self.waiting.put(command)

    def __iter__(self) -> Iterator[str]:
        while (command := self.waiting.get()) is not None:
            yield json.dumps(command)


def serve_and_say(say: Callable[[dict[str, Any], Commands], None], *commands: Command) -> Events:
    """As `serve`; `say` is told of every event, and may give commands meanwhile. The input ends with the last job."""
    lines, events = Commands(*commands), []
    ends = len([command for command in commands if command["do"] == "evaluate"])

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            events.append(json.loads(text))
            say(events[-1], lines)
            time.sleep(0.02)  # what was said is read before the next step ends
            if len([event for event in events if event["event"] in ("end", "stopped", "error")]) == ends:
                lines.waiting.put(None)
            return len(text)

    Worker(Out()).run(lines)
    return events


def test_a_job_is_cancelled_and_the_next_is_done(job: Command, tmp_path: Path) -> None:
    def say(event: dict[str, Any], commands: Commands) -> None:
        if event["event"] == "step" and event["index"] == 3:
            for name in ("1", "3", "unknown"):
                commands.waiting.put({"do": "cancel", "id": name})

    results = [str(tmp_path / f"{number}.ct") for number in range(3)]
    jobs = [{**job, "id": str(number + 1), "outputs": [result]} for number, result in enumerate(results)]
    events = serve_and_say(say, *jobs)
    assert [event["event"] for event in events if event["event"] in ("stopped", "end")] == ["stopped", "end", "stopped"]
    assert [Path(result).exists() for result in results] == [False, True, False]
    assert len([event for event in of(events, "step") if event["index"] == 0]) == 2  # the third never began


def test_a_job_is_stopped_at_a_checkpoint_and_goes_on_from_there(
    job: Command, encrypted: Path, tiny_plan: Plan, tiny_client: fheinfer.Client, tmp_path: Path
) -> None:
    """No other checkpoints are written where there is no time for them."""
    job |= {"checkpoints": str(tmp_path / "kept"), "every": 3600, "resume": True}
    block = tmp_path / "kept" / "block.ct"

    def say(event: dict[str, Any], commands: Commands) -> None:
        if event["event"] == "step" and event["index"] == 10:
            assert not block.exists()
            commands.waiting.put({"do": "stop"})

    first = serve_and_say(say, job)
    assert [event["event"] for event in first][-2:] == ["stopped", "done"]
    assert block.exists()
    assert not (tmp_path / "y.ct").exists()
    rest = serve(job)
    indices = [event["index"] for events in (first, rest) for event in of(events, "step")]
    assert len(of(first, "step")) > 10
    missing = set(range(len(tiny_plan.steps))) - set(indices)
    assert missing == {of(first, "step")[-1]["index"] + 1}  # the step that was kept is not told of
    assert len(indices) == len(set(indices))
    assert tiny_client.decrypt((tmp_path / "y.ct").read_bytes(), request=encrypted.read_bytes()).shape == (10,)


def test_without_a_folder_for_checkpoints_a_stopped_job_ends_after_its_step(job: Command) -> None:
    events = serve_and_say(lambda event, commands: commands.waiting.put({"do": "stop"}), job)
    assert [event["event"] for event in events][-2:] == ["stopped", "done"]
    assert len(of(events, "step")) <= 1


def test_keys_that_are_forgotten_are_loaded_again(job: Command, tiny_keys: Path) -> None:
    key_id = ServerKeys(tiny_keys / "server").key_id
    events = serve(job, {"do": "forget", "key_id": key_id}, {"do": "forget", "key_id": "0" * 32}, job)
    assert len(of(events, "ready")) == 2


def test_a_plan_file_that_changed_is_read_again(job: Command, tiny_plan_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_plan_folder, tmp_path / "plan")
    plan = folder / "plan.safetensors"

    def say(event: dict[str, Any], commands: Commands) -> None:
        if event["event"] == "end":
            plan.write_bytes(plan.read_bytes()[:-1])

    events = serve_and_say(say, *[{**job, "plan": str(folder)}] * 2)
    assert [event["kind"] for event in of(events, "error")] == ["CorruptArtifactError"]


def test_plans_that_were_not_used_for_long_leave_memory(
    job: Command, tiny_plan: Plan, tiny_plan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fheinfer.worker.KEPT_PLANS", 2)
    places = [str(shutil.copytree(tiny_plan_folder, tmp_path / name)) for name in "abc"]
    dropped: list[str] = []
    really = fheinfer.Server.discard

    def discard(server: fheinfer.Server, identity: str) -> None:
        really(server, identity)
        assert identity not in server.plans
        dropped.append(identity)

    monkeypatch.setattr(fheinfer.Server, "discard", discard)
    out = io.StringIO()
    worker = Worker(out)
    worker.run(json.dumps({**job, "plan": places[number]}) for number in (0, 1, 0, 2, 1))
    assert [path.name for path in worker._plans] == ["c", "b"]  # b was read twice
    assert dropped == [tiny_plan.identity] * 2
    assert len(of([json.loads(line) for line in out.getvalue().splitlines()], "end")) == 5


def test_memory_that_runs_out_is_an_event(job: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("fheinfer.worker.read_ciphertexts", full)
        events = serve(job, job)
    assert [event["kind"] for event in of(events, "error")] == ["NotEnoughMemoryError"] * 2


def test_a_share_of_memory_leaves_what_the_process_itself_takes(job: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fheinfer.worker.die_with_parent", lambda parent: None)
    first = {"do": "start", "parent": os.getppid(), "threads": None, "memory": None}
    assert of(serve({**first, "share": 1 << 30}, job), "end")
    for share in (BASE_MEMORY + RING_MEMORY + 1000, 1000):
        (error,) = of(serve({**first, "share": share}, job), "error")
        assert error["kind"] == "NotEnoughMemoryError"


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


def lines(job: Command, parent: int = 0) -> str:
    first = {"do": "start", "parent": parent or os.getpid(), "threads": 1, "memory": None, "share": None}
    return "".join(json.dumps(command) + "\n" for command in (first, job))


def test_errors_arrive_as_an_event(start: Start, job: Command, tmp_path: Path) -> None:
    process = start()
    out, err = process.communicate(lines({**job, "keys": str(tmp_path)}), timeout=120)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in of(events, "error")] == ["KeyStoreError"]
    assert (process.returncode, err) == (0, "")


def test_it_loads_no_client_and_ends_with_its_input(start: Start, job: Command) -> None:
    program = "import sys\nfrom fheinfer.worker import main\nmain()\nprint(sorted(sys.modules))"
    process = start("-c", program)
    out, err = process.communicate(lines(job), timeout=120)
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


def test_it_ends_where_nobody_listens_or_its_parent_is_another(start: Start, job: Command) -> None:
    process = start()
    assert process.stdout is not None
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.write(lines(job))
    process.stdin.close()
    process.stdin = None
    assert process.wait(120) == BROKEN_PIPE
    orphan = start()
    out, _ = orphan.communicate(lines(job, parent=1 << 22), timeout=120)
    assert (orphan.returncode, out) == (143, "")


def test_a_signal_ends_it_quietly_while_it_waits_for_commands(start: Start, job: Command) -> None:
    process = start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(lines(job))
    process.stdin.flush()
    for line in process.stdout:
        if json.loads(line)["event"] == "end":
            break
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (143, "")


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


def test_a_folder_of_keys_may_be_anywhere(job: Command, tiny_keys: Path, tmp_path: Path) -> None:
    """A copy of server/ alone is enough; the worker never looks beside it."""
    shutil.copytree(tiny_keys / "server", tmp_path / "copied")
    serve({**job, "keys": str(tmp_path / "copied")})
    assert (tmp_path / "y.ct").stat().st_size > 1000
