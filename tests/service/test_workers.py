"""Worker processes of the service: what they may take, how they are lost, stopped and made anew."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import fheinfer
from fheinfer.compiler.plan import BASE_MEMORY, RING_MEMORY, Plan, base_memory
from fheinfer.errors import (
    CorruptArtifactError,
    KeyStoreError,
    MismatchError,
    NotEnoughMemoryError,
    StorageError,
    UsageError,
    WorkerLostError,
)
from fheinfer.evaluating import Event
from fheinfer.service import workers as module
from fheinfer.service.workers import LocalWorkers, StoppedError, Task
from tests.service.running import Person, wait_for


def ignore(event: Event) -> None:
    """Events that a test does not look at."""


@pytest.fixture(scope="module")
def person(tiny_keys: Path, tiny_plan: Plan) -> Person:
    return Person(tiny_keys, tiny_plan, "")


@pytest.fixture
def task(person: Person, tiny_plan_folder: Path, tmp_path: Path) -> Task:
    (tmp_path / "input.ct").write_bytes(person.client.encrypt(person.image(1)))
    keys = person.keys / "server"
    return Task("1", tiny_plan_folder, keys, person.key_id, tmp_path / "input.ct", tmp_path / "result.ct", tmp_path)


@pytest.fixture(scope="module")
def two() -> Iterator[LocalWorkers]:
    """Two workers for all tests; slot 0 is the one that is lost."""
    workers = LocalWorkers(2, threads=2)
    yield workers
    workers.close(0)
    assert workers.memory() == 0


def process(workers: LocalWorkers, slot: int = 0) -> Any:
    return workers._slots[slot].process


def at_step(number: int, do: Callable[[], object]) -> Callable[[Event], None]:
    def follow(event: Event) -> None:
        if event["event"] == "step" and event["index"] == number:
            do()

    return follow


def test_a_task_is_evaluated_and_its_keys_stay_in_memory(two: LocalWorkers, task: Task, person: Person) -> None:
    events: list[str] = []
    for _ in range(2):
        two.run(0, task, lambda event: events.append(event["event"]))
        person.check(task.output.read_bytes(), task.input.read_bytes(), person.image(1))
    assert events.count("ready") == 1
    assert events.count("end") == 2
    assert two.loaded(0) == {person.key_id}
    assert two.loaded(1) == frozenset()
    assert two.memory() > 2**20
    two.forget(person.key_id)
    assert two.loaded(0) == frozenset()
    two.run(0, task, lambda event: events.append(event["event"]))
    assert events.count("ready") == 2


def test_errors_of_a_task_are_typed_and_the_worker_goes_on(two: LocalWorkers, task: Task, tmp_path: Path) -> None:
    two.run(0, task, ignore)
    pid = process(two).pid
    shutil.copytree(task.plan, tmp_path / "plan")
    damaged = tmp_path / "plan" / "plan.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    wrong: list[tuple[str, Any, type[Exception]]] = [
        ("plan", damaged.parent, CorruptArtifactError),
        ("keys", tmp_path, KeyStoreError),
        ("key_id", "0" * 32, MismatchError),
        ("input", damaged, CorruptArtifactError),
        ("output", tmp_path / "missing" / "result.ct", StorageError),
    ]
    for name, value, error in wrong:
        with pytest.raises(error):
            two.run(0, Task(**{**vars(task), name: value}), ignore)
    two.run(0, task, ignore)
    assert process(two).pid == pid


def test_a_killed_worker_is_told_and_made_anew(two: LocalWorkers, task: Task, person: Person) -> None:
    two.run(0, task, ignore)
    task.output.unlink()
    with pytest.raises(WorkerLostError, match="was lost while"):
        two.run(0, task, at_step(2, lambda: os.kill(process(two).pid, signal.SIGKILL)))
    assert two.loaded(0) == frozenset()
    assert not task.output.exists()
    two.run(0, task, ignore)
    os.kill(process(two).pid, signal.SIGKILL)  # between two tasks: nobody notices
    process(two)._process.wait()
    assert two.loaded(0) == frozenset()
    two.forget(person.key_id)
    two.run(0, task, ignore)
    person.check(task.output.read_bytes(), task.input.read_bytes(), person.image(1))


def test_a_worker_that_hangs_is_ended(two: LocalWorkers, task: Task) -> None:
    two.run(0, task, ignore)
    pid, stopped = process(two).pid, []

    def hang() -> None:
        os.kill(pid, signal.SIGSTOP)
        two._slots[0].patience = 1.0  # not before: on a busy machine a start takes longer
        stopped.append(time.monotonic())

    with pytest.raises(WorkerLostError, match=r"did nothing for 1 s"):
        two.run(0, task, at_step(2, hang))
    assert 0.9 < time.monotonic() - stopped[0] < 50  # its patience would be a minute
    assert not psutil.pid_exists(pid)
    two.run(0, task, ignore)


def test_a_long_task_may_be_silent_for_longer(two: LocalWorkers, task: Task) -> None:
    waits = []

    def follow(event: Event) -> None:
        waits.append(two._slots[0].patience)

    for seconds in (1.0, 30.0):
        two.run(0, Task(**{**vars(task), "seconds": seconds}), follow)
    assert set(waits) == {60.0, 600.0}


def test_keys_that_are_shortened_while_they_are_mapped_end_one_task(
    two: LocalWorkers, task: Task, tmp_path: Path
) -> None:
    """Threat: a mapped file that is shortened ends the process by SIGBUS."""
    keys = shutil.copytree(task.keys, tmp_path / "keys")
    own = Task(**{**vars(task), "keys": keys})
    two.forget(task.key_id)
    two.run(0, own, ignore)
    for path in keys.glob("rotation_*.key"):
        os.truncate(path, 100)
    with pytest.raises(StorageError, match="lost a key file"):
        two.run(0, own, ignore)
    with pytest.raises(CorruptArtifactError, match="incomplete"):
        two.run(0, own, ignore)
    two.run(0, task, ignore)


def test_a_task_is_cancelled(two: LocalWorkers, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself after a step, or by the end of its worker. Another task is none of its business."""
    two.run(0, task, ignore)
    task.output.unlink()
    pid = process(two).pid
    two.run(1, task, at_step(1, lambda: two.cancel(0, task.id)))  # it runs in the other slot
    task.output.unlink()

    def cancel() -> None:
        for name in ("another", task.id, task.id):
            two.cancel(0, name)

    with pytest.raises(StoppedError):
        two.run(0, task, at_step(1, cancel))
    assert process(two).pid == pid
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.3)

    def hang() -> None:
        os.kill(pid, signal.SIGSTOP)
        two.cancel(0, task.id)

    with pytest.raises(StoppedError):
        two.run(0, task, at_step(1, hang))
    assert not psutil.pid_exists(pid)
    assert not task.output.exists()
    two.run(0, task, ignore)


def test_a_callback_that_fails_ends_the_worker_not_the_slot(two: LocalWorkers, task: Task) -> None:
    """What that worker would say of its task nobody could read as that of the next one."""

    def fail() -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        two.run(0, task, at_step(1, fail))
    events: list[Any] = []
    two.run(0, task, events.append)
    assert [event["index"] for event in events if event["event"] == "step"][:2] == [0, 1]


def test_a_worker_is_limited_and_gets_no_token(
    task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FHEINFER_TOKEN", "fi_of-the-operator")
    monkeypatch.setenv("FHEINFER_PASSPHRASE", "fi_of-a-client")
    workers = LocalWorkers(1, threads=2, memory=1 << 30)
    try:
        workers.run(0, task, ignore)
        pid = process(workers).pid
        assert b"fi_of" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"
        assert limited(workers)
        with caplog.at_level(logging.WARNING, logger="fheinfer.service.workers"):
            process(workers)._send({"do": "nonsense"})
            process(workers)._process.wait(60)
            wait_for(lambda: "KeyError: 'nonsense'" in caplog.text)
        workers.run(0, task, ignore)
    finally:
        workers.close(0)
    with pytest.raises(StoppedError):
        workers.run(0, task, ignore)
    with pytest.raises(UsageError, match="0 workers"):
        LocalWorkers(0)


def limited(workers: LocalWorkers) -> bool:
    return 1 << 30 < resource.prlimit(process(workers).pid, resource.RLIMIT_DATA)[0] < 3 << 30


def test_a_worker_is_limited_where_the_system_takes_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose /proc is read-only."""

    def refuse(path: Path, text: str) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "write_text", refuse)
    workers = LocalWorkers(1, threads=1, memory=1 << 30)
    try:
        assert limited(workers)
    finally:
        workers.close(0)


def test_a_worker_that_cannot_be_started_is_told_and_tried_again(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without processes or memory left does not make the jobs fail that wait, one after another."""

    def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    workers = LocalWorkers(1, threads=1)
    try:
        process(workers).kill()
        process(workers)._process.wait()
        with monkeypatch.context() as patched:
            patched.setattr("fheinfer.evaluating.subprocess.Popen", refuse)
            with pytest.raises(NotEnoughMemoryError, match=r"no worker can be started \(Resource temporarily"):
                workers.run(0, task, ignore)
        workers.run(0, task, ignore)
        assert task.output.exists()
    finally:
        workers.close(0)


def test_closing_lets_a_task_write_a_checkpoint_from_which_it_goes_on(task: Task, person: Person) -> None:
    workers = LocalWorkers(1, threads=2)
    steps: list[int] = []
    closing: list[threading.Thread] = []

    def close() -> None:
        if not closing:
            closing.append(threading.Thread(target=workers.close, args=(30,)))
            closing[0].start()
            wait_for(lambda: workers._slots[0].deadline)

    def follow(event: Event) -> None:
        if event["event"] == "step":
            steps.append(event["index"])
            close()

    with pytest.raises(StoppedError):
        workers.run(0, task, follow)
    closing[0].join()
    assert task.checkpoints is not None
    assert (task.checkpoints / "block.ct").exists()
    first, steps[:] = len(steps), []
    again = LocalWorkers(1, threads=2)
    try:
        again.run(0, task, follow)
    finally:
        again.close(0)
    assert first + len(steps) < len(person.plan.steps)
    person.check(task.output.read_bytes(), task.input.read_bytes(), person.image(1))


def test_closing_ends_a_task_that_does_not_stop_in_time(task: Task) -> None:
    workers = LocalWorkers(1, threads=2)
    closing: list[threading.Thread] = []
    began: list[float] = []

    def close() -> None:
        began.append(time.monotonic())
        os.kill(process(workers).pid, signal.SIGSTOP)
        closing.append(threading.Thread(target=workers.close, args=(0.2,)))
        closing[0].start()

    with pytest.raises(StoppedError):
        workers.run(0, task, at_step(0, close))
    closing[0].join()
    assert time.monotonic() - began[0] < 50
    assert workers.memory() == 0


def test_least_recently_used_keys_leave_memory_and_all_are_served(task: Task, tiny_plan: Plan, tmp_path: Path) -> None:
    """Threat: memory. The limit holds two clients' keys; the process stays below it."""
    people = []
    for number in range(5):
        fheinfer.keygen(tiny_plan.client, tmp_path / f"keys{number}")
        people.append(Person(tmp_path / f"keys{number}", tiny_plan, ""))
    needs = tiny_plan.keys["fast"].peak_memory - base_memory(tiny_plan.params)
    limit = BASE_MEMORY + RING_MEMORY + 2 * needs + needs // 2
    workers = LocalWorkers(1, threads=2, memory=limit)
    loaded: set[str] = set()
    try:
        for number in (0, 1, 2, 1, 3, 4, 0, 2, 0):
            own = people[number]
            source = tmp_path / f"{number}.ct"
            source.write_bytes(own.client.encrypt(own.image(number)))
            files = {"keys": own.keys / "server", "key_id": own.key_id, "input": source, "checkpoints": None}
            workers.run(0, Task(**{**vars(task), **files}), ignore)
            own.check(task.output.read_bytes(), source.read_bytes(), own.image(number))
            assert own.key_id in workers.loaded(0)
            assert len(workers.loaded(0)) <= 2
            assert workers.memory() < limit
            loaded |= workers.loaded(0)
    finally:
        workers.close(0)
    assert loaded == {own.key_id for own in people}
    few = LocalWorkers(1, threads=2, memory=BASE_MEMORY + RING_MEMORY + needs // 2)
    try:
        with pytest.raises(NotEnoughMemoryError, match="raise --memory"):
            few.run(0, task, ignore)
    finally:
        few.close(0)
