"""Runs on one machine: their folders, the evaluating process beside this one, and what is left when either fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer import evaluating, local
from fheinfer.compiler.plan import Plan
from fheinfer.errors import (
    BackendError,
    CorruptArtifactError,
    KeyStoreError,
    MismatchError,
    RangeError,
    StorageError,
    UsageError,
)
from fheinfer.evaluating import EvaluatingProcess, Event
from fheinfer.local import infer_many, infer_run
from fheinfer.process import PARENT_PERIOD
from fheinfer.runs import Run, run_name
from tests.conftest import F64

NAME = "infer-0123456789abcdef"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def started(tiny_plan_folder: Path, tiny_keys: Path, tiny_client: fheinfer.Client) -> Callable[..., local.Inference]:
    """started(x, run, ...): `infer_run` of the small network."""

    def start(x: F64, run: Run, keys: Path = tiny_keys, **options: Any) -> local.Inference:
        return infer_run(tiny_plan_folder, keys, lambda: tiny_client, x, run, **options)

    return start


# Folders of runs.


def test_a_run_leaves_nothing_when_it_finishes(tmp_path: Path) -> None:
    with Run(tmp_path / "runs", NAME, resume=False) as run:
        for name in ("input.ct", "result.ct", "block.ct", "layer_003.ct"):
            (run.folder / name).write_bytes(b"x")
        (run.folder / "inputs").mkdir()
        (run.folder / "inputs" / "00000.ct").write_bytes(b"x")
        run.finish()
    assert names(tmp_path) == []


def test_only_files_of_the_run_are_ever_deleted(tmp_path: Path) -> None:
    """0.1 deleted the folder that it was given, with whatever was in it."""
    folder = tmp_path / "runs" / NAME
    folder.mkdir(parents=True)
    for name in ("notes.txt", "mine.ct", "layer.ct", "input.ct.bak"):
        (folder / name).write_bytes(b"mine")
    kept = names(tmp_path)
    for fails in (False, True):
        try:
            with Run(tmp_path / "runs", NAME, resume=False) as run:
                (run.folder / "input.ct").write_bytes(b"x")
                if fails:
                    raise RangeError("it failed early")
                run.finish()
        except RangeError:
            pass
        assert names(tmp_path) == kept


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with Run(tmp_path / "runs", NAME, resume=False) as run:
        run.finish()
    assert names(tmp_path) == ["runs"]


def test_two_runs_of_one_name_have_a_folder_each(tmp_path: Path) -> None:
    with Run(tmp_path, NAME, resume=False) as one, Run(tmp_path, NAME, resume=False) as two:
        (one.folder / "block.ct").write_bytes(b"one")
        assert (one.folder.name, two.folder.name) == (NAME, f"{NAME}-2")
        with pytest.raises(UsageError, match="going on in another process"):
            Run(tmp_path, NAME, resume=True)
        two.finish()
        assert (one.folder / "block.ct").read_bytes() == b"one"
    with Run(tmp_path, NAME, resume=True) as again:
        assert again.folder == one.folder
        assert (again.folder / "block.ct").read_bytes() == b"one"


def test_a_folder_that_another_run_just_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the lock and taking it: the file that is locked then has no name any more."""
    lock, first = fcntl.flock, Run(tmp_path, NAME, resume=False)
    waiting = [first]

    def flock(descriptor: int, operation: int) -> None:
        if waiting:
            run = waiting.pop()
            run.finish()
            run.__exit__(None, None, None)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Run(tmp_path, NAME, resume=False) as second:
        (second.folder / "input.ct").write_bytes(b"x")
        with Run(tmp_path, NAME, resume=False) as third:
            assert third.folder != second.folder


def test_a_fresh_run_forgets_what_a_killed_one_left(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    for name in ("input.ct", "block.ct"):
        (folder / name).write_bytes(b"old")
    with Run(tmp_path, NAME, resume=True) as run:
        assert (run.folder / "input.ct").read_bytes() == b"old"
    with Run(tmp_path, NAME, resume=False) as run:
        assert names(run.folder) == [".lock"]


def test_a_failing_run_is_kept_where_it_can_be_resumed(tmp_path: Path) -> None:
    for worth in ("block.ct", "results/00000.ct"):
        run = Run(tmp_path, NAME, resume=False)
        (run.folder / "results").mkdir(exist_ok=True)
        (run.folder / worth).write_bytes(b"x")
        run.__exit__(RangeError, RangeError(), None)
        assert (tmp_path / NAME / worth).exists()


def test_a_name_is_of_input_plan_and_key() -> None:
    name = run_name("infer", "plan", "key", b"a", b"bc")
    assert name.startswith("infer-")
    assert name == run_name("infer", "plan", "key", b"a", b"bc")
    others = [("plan", "key", b"ab", b"c"), ("nalp", "key", b"a", b"bc"), ("plan", "yek", b"a", b"bc")]
    assert len({name, *(run_name("infer", plan, key, *parts) for plan, key, *parts in others)}) == 4


# Client and evaluating process.


def test_an_image_is_encrypted_evaluated_and_decrypted(
    started: Callable[..., local.Inference], tiny_plan: Plan, tiny_image: F64, tmp_path: Path
) -> None:
    with Run(tmp_path, NAME, resume=False) as run:
        done = started(tiny_image, run, threads=1, memory=1 << 32)
        run.finish()
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, tiny_image), done.outputs["fc"]).minimum > 15
    assert set(done.seconds) == {"client start", "encrypt", "decrypt", "load keys", "evaluate"}
    assert all(size > 0 for size in (*done.memory.values(), *done.sizes.values()))
    assert names(tmp_path) == []


def test_a_process_that_was_started_before_is_used(
    started: Callable[..., local.Inference],
    tiny_plan: Plan,
    tiny_plan_folder: Path,
    tiny_keys: Path,
    tiny_image: F64,
    tmp_path: Path,
) -> None:
    """It imports while the command line still looks for plan and keys."""
    events: list[str] = []
    with EvaluatingProcess() as process, Run(tmp_path, NAME, resume=False) as run:
        process.load(tiny_plan_folder, tiny_keys / "server")
        done = started(tiny_image, run, process=process, on_event=lambda event: events.append(event["event"]))
        run.finish()
        assert process._process.poll() == 0
    assert {"ready", "step", "done"} <= set(events)
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, tiny_image), done.outputs["fc"]).minimum > 15


def test_a_process_that_never_gets_to_load_ends_with_its_owner() -> None:
    with EvaluatingProcess() as process:
        child = process._process
        process.finish()
    assert child.poll() == 0
    process = EvaluatingProcess()
    process.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert process._process.poll() is not None


def test_a_process_outlives_the_thread_that_started_it(
    started: Callable[..., local.Inference],
    tiny_plan: Plan,
    tiny_plan_folder: Path,
    tiny_keys: Path,
    tiny_image: F64,
    tmp_path: Path,
) -> None:
    """The system's signal for the death of a parent comes at the end of that thread."""
    made: list[EvaluatingProcess] = []

    def start() -> None:
        made.append(EvaluatingProcess())
        made[0].load(tiny_plan_folder, tiny_keys / "server")
        made[0]._process.stdout.readline()  # type: ignore[union-attr]  # it has read what to load, and tied itself to us

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with made[0] as process, Run(tmp_path, NAME, resume=False) as run:
        time.sleep(2 * PARENT_PERIOD)
        assert process._process.poll() is None
        done = started(tiny_image, run, process=process)
        run.finish()
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, tiny_image), done.outputs["fc"]).minimum > 15


def test_the_evaluating_process_gets_no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHEINFER_PASSPHRASE", "of the secret key")
    monkeypatch.setenv("FHEINFER_OTHER", "is handed on")
    with EvaluatingProcess() as process:
        place, until = Path(f"/proc/{process._process.pid}/environ"), time.monotonic() + 10
        while not (given := place.read_bytes()) and time.monotonic() < until:
            time.sleep(0.01)  # empty while the process starts
        process.finish()
    assert b"FHEINFER_OTHER=is handed on" in given
    assert b"of the secret key" not in given
    assert b"FHEINFER_PASSPHRASE" not in given


def test_two_runs_of_the_same_image_at_once_do_not_meet(
    started: Callable[..., local.Inference], tiny_plan: Plan, tiny_image: F64, tmp_path: Path
) -> None:
    together = threading.Barrier(2, timeout=120)

    def one(number: int) -> tuple[str, F64]:
        with Run(tmp_path, NAME, resume=False) as run:
            together.wait()
            outputs = started(tiny_image, run).outputs["fc"]
            run.finish()
        return run.folder.name, outputs

    with ThreadPoolExecutor(2) as pool:
        found = dict(pool.map(one, range(2)))
    assert set(found) == {NAME, f"{NAME}-2"}
    clear = fheinfer.run_slots(tiny_plan, tiny_image)
    assert all(fheinfer.precision_bits(clear, outputs).minimum > 15 for outputs in found.values())
    assert names(tmp_path) == []


def test_an_interrupted_run_resumes(
    started: Callable[..., local.Inference], tiny_plan: Plan, tiny_image: F64, tmp_path: Path
) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "step" and event["step"] == "layer3.0.relu1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Run(tmp_path, NAME, resume=False) as run:
        started(tiny_image, run, on_event=interrupt)
    assert {"input.ct", "block.ct"} <= set(names(run.folder))
    before = (run.folder / "input.ct").read_bytes()
    steps: list[str] = []
    with Run(tmp_path, NAME, resume=True) as run:
        done = started(tiny_image, run, on_event=lambda e: steps.append(e.get("step", "")))
        assert (run.folder / "input.ct").read_bytes() == before
        run.finish()
    assert "layer1.0.conv1" not in steps
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, tiny_image), done.outputs["fc"]).minimum > 15
    assert names(tmp_path) == []


def test_a_killed_process_is_told_and_its_run_resumes(
    started: Callable[..., local.Inference], tiny_plan: Plan, tiny_image: F64, tmp_path: Path, monkeypatch: Any
) -> None:
    """As the system does where memory runs out."""
    running: list[EvaluatingProcess] = []
    begin = EvaluatingProcess._send

    def remember(self: EvaluatingProcess, message: Any) -> None:
        running.append(self)
        begin(self, message)

    def kill(event: Event) -> None:
        if event["event"] == "step" and event["step"] == "layer3.0.relu1":
            os.kill(running[0]._process.pid, signal.SIGKILL)

    monkeypatch.setattr(EvaluatingProcess, "_send", remember)
    with (
        pytest.raises(BackendError, match=r"was killed, most likely for lack of memory; .*--resume"),
        Run(tmp_path, NAME, resume=False) as run,
    ):
        started(tiny_image, run, on_event=kill)
    with Run(tmp_path, NAME, resume=True) as run:
        done = started(tiny_image, run)
        run.finish()
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, tiny_image), done.outputs["fc"]).minimum > 15


@pytest.mark.parametrize(
    ("ending", "error", "says"),
    [
        ("kill -BUS $$", StorageError, r"lost a key file .*fheinfer keygen --force"),
        ("kill -KILL $$", BackendError, "was killed, most likely for lack of memory"),
        ('echo "a warning"; printf "{\\"event\\": \\"st"; kill -KILL $$', BackendError, "was killed, most likely"),
        ("exit 137", BackendError, "was killed, most likely for lack of memory"),
        ("exit 3", BackendError, "ended with code 3"),
        ("kill -SEGV $$", BackendError, "ended with code -11"),
    ],
)
def test_how_a_process_ended_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, error: type[Exception], says: str
) -> None:
    dying = tmp_path / "python"
    dying.write_text(f"#!/bin/sh\n{ending}\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    for wanted in (lambda p: p.evaluate([tmp_path / "x.ct"], [tmp_path / "y.ct"]), EvaluatingProcess.finish):
        with EvaluatingProcess() as process:
            process.load(tmp_path, tmp_path)
            with pytest.raises(error, match=says):
                wanted(process)


def test_two_inputs_of_one_name_have_two_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counted names, and waited for ever for the second one."""
    fake = tmp_path / "python"
    said = [f'{{"event": "input", "name": "x.ct", "seconds": {seconds}}}' for seconds in (1.5, 2.5)]
    fake.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in [*said, '{"event": "end"}']))
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with EvaluatingProcess() as process:
        inputs, outputs = [[tmp_path / side / name for side in "ab"] for name in ("x.ct", "y.ct")]
        assert process.evaluate(inputs, outputs) == [1.5, 2.5]


def test_errors_of_the_other_process_arrive_under_their_type(
    started: Callable[..., local.Inference], tiny_keys: Path, tiny_image: F64, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    shutil.copytree(tiny_keys, keys)
    path = keys / "server" / "relinearisation.key"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "runs").mkdir()
    for gone, error in ((False, CorruptArtifactError), (True, KeyStoreError)):
        if gone:
            path.unlink()
        with pytest.raises(error, match=r"relinearisation\.key"), Run(tmp_path / "runs", NAME, resume=False) as run:
            started(tiny_image, run, keys=keys)
        assert names(tmp_path / "runs") == []


def test_an_unknown_kind_of_error_is_still_one_of_ours() -> None:
    for kind in ("NoSuchError", "annotations", "FheinferError"):
        found = evaluating.typed({"event": "error", "kind": kind, "message": "said"})
        assert type(found) is fheinfer.errors.FheinferError
        assert str(found) == "said"
    assert type(evaluating.typed({"event": "error", "kind": "RangeError", "message": ""})) is RangeError


def test_many_inputs_are_resumed_one_by_one(
    tiny_plan: Plan,
    tiny_plan_folder: Path,
    tiny_keys: Path,
    tiny_client: fheinfer.Client,
    tiny_image: F64,
    tmp_path: Path,
) -> None:
    inputs = {"a": tiny_image, "b": tiny_image[:, ::-1].copy(), "c": tiny_image[:, :, ::-1].copy()}

    def interrupt(event: Event) -> None:
        if event["event"] == "input" and event["name"] == "00001.ct":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Run(tmp_path, NAME, resume=False) as run:
        infer_many(tiny_plan_folder, tiny_keys, tiny_client, inputs, run, on_event=interrupt)
    assert len(list(run.folder.glob("results/*.ct"))) == 2
    with Run(tmp_path, NAME, resume=True) as run:
        done = infer_many(tiny_plan_folder, tiny_keys, tiny_client, inputs, run)
        run.finish()
    assert list(done.outputs) == ["a", "b", "c"]
    assert list(done.each) == ["c"]  # the others were there
    for name, x in inputs.items():
        assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, x), done.outputs[name]["fc"]).minimum > 15
    assert names(tmp_path) == []


def test_results_that_were_exchanged_are_noticed(
    tiny_plan_folder: Path, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: F64, tmp_path: Path
) -> None:
    inputs = {"a": tiny_image, "b": tiny_image[:, ::-1].copy()}
    with Run(tmp_path, NAME, resume=False) as run:
        infer_many(tiny_plan_folder, tiny_keys, tiny_client, inputs, run)
    one, other = sorted(run.folder.glob("results/*.ct"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(MismatchError, match="another request"), Run(tmp_path, NAME, resume=True) as run:
        infer_many(tiny_plan_folder, tiny_keys, tiny_client, inputs, run)


# The command: results are written before anything is deleted.


@pytest.mark.parametrize("option", ["--image", "--images"])
def test_a_disk_that_is_full_at_the_end_loses_nothing(
    command: Callable[..., Any],
    tiny_plan_folder: Path,
    tiny_keys: Path,
    tiny_image_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    from fheinfer.cli import infer as module

    monkeypatch.chdir(tmp_path)
    arguments = ("infer", "--plan", tiny_plan_folder, "--keys", tiny_keys, option, tiny_image_file, "--csv", "out.csv")
    write = module._write_csv

    def full(file: Path, rows: Any) -> None:
        raise StorageError(f"cannot write {file}: the disk is full; make room there")

    monkeypatch.setattr(module, "_write_csv", full)
    failed = command(*arguments)
    assert failed.code == 6
    assert failed.err.splitlines()[-1].startswith("error: cannot write out.csv")
    kept = list((tmp_path / "runs").rglob("*.ct"))
    assert len(kept) >= 2
    assert not (tmp_path / "out.csv").exists()

    monkeypatch.setattr(module, "_write_csv", write)
    resumed = command(*arguments, "--resume")
    assert resumed.code == 0, resumed.err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2
    assert names(tmp_path) == ["out.csv", "runs"]  # a folder that was there stays


# Both roles in one call.


def test_infer_makes_keys_and_returns_what_the_network_returns(
    tiny_plan: Plan, tiny_plan_folder: Path, tiny_keys: Path, tiny_image: F64, tmp_path: Path
) -> None:
    clear = fheinfer.run_slots(tiny_plan, tiny_image)
    found = fheinfer.infer(tiny_plan, tiny_image, keys=tmp_path / "made")
    assert fheinfer.precision_bits(clear, found).minimum > 15
    assert (tmp_path / "made" / "server").is_dir()
    other = tiny_image[:, ::-1].copy()
    many = fheinfer.infer(tiny_plan_folder, np.stack([tiny_image, other]), keys=tiny_keys)
    assert many.shape == (2, 10)
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, other), many[1]).minimum > 15


def test_infer_refuses_an_input_before_it_makes_keys(tiny_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(RangeError, match="normalise it first"):
        fheinfer.infer(tiny_plan, np.full((3, 8, 8), 255.0), keys=tmp_path / "keys")
    assert names(tmp_path) == []


def test_files_and_folders_may_be_named_by_strings(
    tiny_model: fheinfer.Model, tiny_plan: Plan, tiny_image: F64, tmp_path: Path
) -> None:
    """As users write them; from the model file to the result."""
    tiny_model.save(f"{tmp_path}/model.safetensors")
    assert fheinfer.load_model(f"{tmp_path}/model.safetensors").identity == tiny_model.identity
    tiny_plan.save(f"{tmp_path}/plan")
    plan = fheinfer.load_plan(f"{tmp_path}/plan")
    assert fheinfer.ClientSpec.load(f"{tmp_path}/plan") == plan.client
    fheinfer.keygen(plan.client, f"{tmp_path}/keys", policy="minimal")
    client = fheinfer.Client(f"{tmp_path}/keys", plan.client)
    session = fheinfer.Server().session(plan, f"{tmp_path}/keys/server")
    assert client.decrypt(session.evaluate(client.encrypt(tiny_image))).shape == (10,)
    assert fheinfer.infer(f"{tmp_path}/plan", tiny_image, keys=f"{tmp_path}/keys").shape == (10,)


def test_what_a_library_prints_is_no_event() -> None:
    """JSON that is no event made a TypeError of it, and the job failed."""
    process: Any = object.__new__(evaluating.EvaluatingProcess)
    process.on_event = lambda event: None
    process._process = SimpleNamespace(stdout=["3\n", "[1]\n", '{"a": 1}\n', '{"eve', '{"event": "load"}\n'])
    assert list(process._events()) == [{"event": "load"}]
