"""Jobs of the store on workers: each done once, whatever happens to its worker."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fheinfer.compiler.plan import BASE_MEMORY, RING_MEMORY, Plan, base_memory
from fheinfer.errors import (
    CorruptArtifactError,
    InputError,
    NotEnoughMemoryError,
    ResourceError,
    StorageError,
    WorkerLostError,
)
from fheinfer.evaluating import Event
from fheinfer.service import dispatcher as module
from fheinfer.service.dispatcher import Dispatcher, Follower
from fheinfer.service.folders import Folders, check_result
from fheinfer.service.store import JobRow
from fheinfer.service.workers import LocalWorkers, StoppedError, Task
from tests.service.running import Person, Service, finished, wait_for


@pytest.fixture
def service(tiny_plan: Plan, tiny_plan_folder: Path, tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "data", tiny_plan, tiny_plan_folder)
    yield made
    made.store.close()


@pytest.fixture
def person(service: Service, tiny_keys: Path) -> Person:
    return service.person(tiny_keys)


Do = Callable[[Task, Callable[[Event], None]], None]


class Scripted:
    """Workers that do what a test says, in this process."""

    def __init__(self, do: Do, slots: int = 1) -> None:
        self.slots, self.do = slots, do
        self.ran: list[str] = []
        self.cancelled: list[tuple[int, str]] = []
        self.closing = threading.Event()

    def loaded(self, slot: int) -> frozenset[str]:
        return frozenset()

    def run(self, slot: int, task: Task, on_event: Callable[[Event], None]) -> None:
        if self.closing.is_set():
            raise StoppedError
        self.ran.append(task.id)
        self.do(task, on_event)

    def cancel(self, slot: int, task_id: str) -> None:
        self.cancelled.append((slot, task_id))

    def forget(self, key_id: str) -> None: ...

    def close(self, grace: float) -> None:
        self.closing.set()

    def memory(self) -> int:
        return 0


class Running:
    """Dispatchers that are stopped at the end."""

    def __init__(self) -> None:
        self.dispatchers: list[Dispatcher] = []

    def __call__(self, service: Service, workers: Any, **options: Any) -> Dispatcher:
        dispatcher = Dispatcher(service.store, workers, service.folders, **options)
        self.dispatchers.append(dispatcher)
        dispatcher.start()
        return dispatcher


@pytest.fixture
def run() -> Iterator[Running]:
    running = Running()
    yield running
    for dispatcher in running.dispatchers:
        dispatcher.stop(0)


class Local(LocalWorkers):
    """Worker processes; `also` is called with slot, task and event of all of them."""

    def __init__(self, workers: int, also: Callable[[int, Task, Event], None], **options: Any) -> None:
        super().__init__(workers, **options)
        self.also = also
        self.steps: Counter[str] = Counter()

    def run(self, slot: int, task: Task, on_event: Callable[[Event], None]) -> None:
        def follow(event: Event) -> None:
            self.steps[task.id] += event["event"] == "step"
            self.also(slot, task, event)
            on_event(event)

        super().run(slot, task, follow)

    def signal(self, slot: int, number: int) -> None:
        process = self._slots[slot].process
        assert process is not None
        os.kill(process.pid, number)


def test_jobs_of_several_people_are_done_and_not_mixed_up(
    service: Service, run: Running, tiny_plan: Plan, tiny_keys: Path, other_tiny_keys: Path
) -> None:
    """Each worker has room for the keys of one of them, and all stay below the limit."""
    people = [service.person(tiny_keys, "one"), service.person(other_tiny_keys, "two")]
    needs = tiny_plan.keys["fast"].peak_memory - base_memory(tiny_plan.params)
    limit = 2 * (BASE_MEMORY + RING_MEMORY + needs + needs // 2)
    jobs = [service.submit(people[number % 2], number) for number in range(6)]
    seen: dict[str, list[Any]] = {job: [] for job in jobs}

    def changed(job: str) -> None:
        seen[job].append((service.row(job).state, dispatcher.progress(job)))
        memory.append(workers.memory())
        held.extend(len(workers.loaded(slot)) for slot in range(2))

    memory: list[int] = []
    held: list[int] = []
    workers = LocalWorkers(2, memory=limit)
    dispatcher = Dispatcher(service.store, workers, service.folders, changed)
    run.dispatchers.append(dispatcher)
    dispatcher.start()
    wait_for(lambda: finished(service, jobs))
    more = service.submit(people[0], 9)
    seen[more] = []
    dispatcher.wake()
    wait_for(lambda: finished(service, [more]))
    for job in (*jobs, more):
        service.check(job)
        wait_for(lambda job=job: seen[job][-1][0] == "done")  # type: ignore[misc]
        states, steps = [state for state, _ in seen[job]], [p.step for _, p in seen[job] if p is not None]
        assert list(dict.fromkeys(states)) == ["running", "done"]
        assert steps == sorted(steps)
        assert max(steps) == len(tiny_plan.steps)
        assert dispatcher.progress(job) is None
    assert 0 < max(memory) < limit
    assert max(held) == 1


def test_progress_is_scaled_by_what_was_measured() -> None:
    follower = Follower(7.0)
    assert follower.progress.seconds_left == 7.0
    assert follower({"event": "plan", "seconds": [1.0, 2.0, 3.0, 0.0]})
    assert (follower.progress.step, follower.progress.steps, follower.progress.seconds_left) == (0, 4, 6.0)
    assert not follower({"event": "load", "what": "keys", "fraction": 0.5})
    assert follower({"event": "step", "index": 1, "total": 4, "seconds": 4.0})  # it went on from a checkpoint
    assert (follower.progress.step, follower.progress.seconds_left) == (2, 6.0)
    follower({"event": "step", "index": 2, "total": 4, "seconds": 1.0})
    assert (follower.progress.step, follower.progress.seconds_left) == (3, 0.0)
    unknown = Follower(1.0)
    unknown({"event": "plan", "seconds": [0.0, 0.0]})
    unknown({"event": "step", "index": 0, "total": 2, "seconds": 4.0})
    assert unknown.progress.seconds_left == 0.0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_whose_worker_is_lost_is_done_again(
    service: Service, person: Person, run: Running, how: signal.Signals
) -> None:
    """Threat: a worker that dies, and one that hangs."""
    lost: list[str] = []

    def also(slot: int, task: Task, event: Event) -> None:
        if event["event"] == "step" and event["index"] == 3 and not lost:
            lost.append(task.id)
            workers.signal(slot, how)
            workers._slots[slot].patience = 1.0

    jobs = [service.submit(person, number) for number in range(3)]
    workers = Local(2, also)
    measured: list[str] = []
    run(service, workers, measure=lambda what, seconds: measured.append(what))
    wait_for(lambda: finished(service, jobs))
    for job in jobs:
        service.check(job)
    assert [service.row(job).attempts for job in jobs] == [1 + (job in lost) for job in jobs]
    assert len(lost) == 1
    assert sorted(measured) == ["evaluation"] * 3 + ["lost"] + ["waiting"] * 3


def test_a_job_that_always_ends_its_worker_fails_while_others_go_on(
    service: Service, person: Person, run: Running
) -> None:
    """Threat: a poisonous request."""
    jobs = [service.submit(person, number) for number in range(4)]

    def also(slot: int, task: Task, event: Event) -> None:
        if event["event"] == "step" and task.id == jobs[0]:
            workers.signal(slot, signal.SIGKILL)

    workers = Local(2, also)
    run(service, workers)
    wait_for(lambda: finished(service, jobs))
    row = service.row(jobs[0])
    assert (row.state, row.kind, row.attempts) == ("failed", "WorkerLostError", 3)
    assert row.message == "a worker was lost while it evaluated this; tried 3 times"
    assert not service.folders.result(jobs[0]).exists()
    for job in jobs[1:]:
        service.check(job)


def test_what_is_wrong_with_a_job_is_typed_and_others_go_on(
    service: Service, person: Person, run: Running, other_tiny_keys: Path
) -> None:
    """Keys that are gone, a damaged plan, an input of other keys, one that is damaged, one that is gone."""
    other = service.person(other_tiny_keys, "another")
    damaged = "0" * 64
    plan = shutil.copytree(service.folders.plan(service.plan.identity), service.folders.plan(damaged))
    (plan / "plan.safetensors").write_bytes(b"{}")
    good = service.submit(person)
    wrong = {
        service.submit(other): "KeyStoreError",
        service.submit(person, plan=damaged): "CorruptArtifactError",
        service.submit(person, 1): "MismatchError",
        service.submit(person, 2): "CorruptArtifactError",
        service.submit(person, 3): "InputError",
    }
    last = service.submit(person, 4)
    names = list(wrong)
    shutil.rmtree(service.folders.keys(other.account, other.key_id))
    service.folders.input(names[2]).write_bytes(other.client.encrypt(other.image(1)))
    service.folders.input(names[3]).write_bytes(b"FHEINFER")
    service.folders.input(names[4]).unlink()
    run(service, LocalWorkers(1))
    wait_for(lambda: finished(service, [good, *wrong, last]))
    service.check(good)
    service.check(last)
    for job, kind in wrong.items():
        row = service.row(job)
        assert (row.state, row.kind, row.attempts) == ("failed", kind, 1)
        assert row.message
        assert str(service.folders.data) not in row.message


def test_a_stopped_job_goes_on_from_its_checkpoint_at_the_next_start(
    service: Service, person: Person, tiny_plan: Plan
) -> None:
    reached = threading.Event()

    def also(slot: int, task: Task, event: Event) -> None:
        if event["event"] == "step" and event["index"] == 0:
            reached.set()
            wait_for(lambda: workers._slots[slot].deadline)  # it was told to stop

    job = service.submit(person)
    workers = Local(1, also)
    dispatcher = Dispatcher(service.store, workers, service.folders)
    dispatcher.start()
    reached.wait(60)
    dispatcher.stop(30)
    assert (service.row(job).state, service.row(job).attempts) == ("queued", 0)
    assert (service.folders.job(job) / "block.ct").exists()
    again = Local(1, lambda slot, task, event: None)
    dispatcher = Dispatcher(service.store, again, service.folders)
    dispatcher.start()
    wait_for(lambda: finished(service, [job]))
    dispatcher.stop(0)
    service.check(job)
    assert workers.steps[job] + again.steps[job] < len(tiny_plan.steps)
    assert not (service.folders.job(job) / "block.ct").exists()


def test_a_running_job_is_cancelled_and_its_files_are_deleted(service: Service, person: Person, run: Running) -> None:
    jobs = [service.submit(person, number) for number in range(2)]
    reached, go_on = threading.Event(), threading.Event()

    def also(slot: int, task: Task, event: Event) -> None:
        if event["event"] == "step" and task.id == jobs[0]:
            reached.set()
            go_on.wait(60)

    workers = Local(1, also)
    dispatcher = run(service, workers)
    reached.wait(60)
    row = dispatcher.cancel(person.account, jobs[0])
    go_on.set()
    assert row is not None
    assert row.state == "running"
    wait_for(lambda: finished(service, jobs))
    service.check(jobs[1])
    assert service.row(jobs[0]).state == "cancelled"
    assert not service.folders.job(jobs[0]).exists()
    assert workers.steps[jobs[0]] < len(service.plan.steps)


# What a dispatcher makes of its workers, with workers that do what they are told.


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of scripted workers are none."""

    def check(folders: Folders, job: JobRow) -> tuple[str, int]:
        if not folders.result(job.id).exists():
            raise InputError("there is none")
        return "0" * 64, 6

    monkeypatch.setattr(module, "check_result", check)


def write(task: Task, on_event: Callable[[Event], None]) -> None:
    task.output.write_bytes(b"result")


def test_a_queued_job_is_cancelled_at_once(service: Service, person: Person, run: Running, unchecked: None) -> None:
    go_on = threading.Event()

    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        go_on.wait(60)
        write(task, on_event)

    workers = Scripted(do)
    first, second = service.submit(person, 1), service.submit(person, 2)
    changes: list[str] = []
    dispatcher = run(service, workers, on_change=changes.append)
    wait_for(lambda: workers.ran)
    assert dispatcher.cancel("nobody", second) is None
    assert service.row(second).state == "queued"
    assert dispatcher.cancel(person.account, second) is not None
    assert changes[-1] == second
    assert not service.folders.job(second).exists()
    go_on.set()
    wait_for(lambda: service.row(first).state == "done" and dispatcher.progress(first) is None)
    assert dispatcher.cancel(person.account, first) is not None  # it is over: it is forgotten
    assert service.store.job(person.account, first) is None
    assert not service.folders.job(first).exists()
    assert workers.ran == [first]
    assert workers.cancelled == []


def test_a_job_that_was_cancelled_before_its_worker_had_it_is_cancelled_there(
    service: Service, person: Person, run: Running, unchecked: None
) -> None:
    job = service.submit(person)

    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        dispatcher.cancel(person.account, job)
        workers.cancelled.clear()
        on_event({"event": "load", "what": "keys", "fraction": 0.0})
        raise StoppedError

    workers = Scripted(do)
    dispatcher = Dispatcher(service.store, workers, service.folders)
    run.dispatchers.append(dispatcher)
    dispatcher.start()
    wait_for(lambda: workers.ran and dispatcher.progress(job) is None)
    assert workers.cancelled == [(0, job)]
    assert service.row(job).state == "cancelled"
    wait_for(lambda: not service.folders.job(job).exists())


def test_a_store_that_fails_in_any_way_ends_no_thread(
    service: Service, person: Person, run: Running, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with an error that nobody thought of, neither: jobs would be accepted, and none done."""
    failing = {"take_job": 2, "finish_job": 1}
    for name in failing:
        work = getattr(service.store, name)

        def fail(*arguments: Any, name: str = name, work: Any = work) -> Any:
            failing[name] -= 1
            if failing[name] >= 0:
                raise sqlite3.OperationalError("locking protocol")
            return work(*arguments)

        monkeypatch.setattr(service.store, name, fail)
    monkeypatch.setattr(module, "_PERIOD", 0.01)
    job = service.submit(person, 1)
    workers = Scripted(write)
    run(service, workers)
    wait_for(lambda: finished(service, [job]))
    assert (service.row(job).state, workers.ran) == ("done", [job])


def test_errors_tell_a_client_no_folder_of_the_service(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "my data")
    message = f"{folders.keys('0' * 32, '1' * 32)}/rotation_1_2.key: damaged; and/or gone"
    assert folders.hide(message) == "rotation_1_2.key: damaged; and/or gone"
    assert folders.hide(f"{tmp_path}/...data/jobs/1/input.ct: no") == "input.ct: no"
    assert folders.hide(f"no: {folders.job('1')}") == "no: 1"


@pytest.mark.parametrize("error", [NotEnoughMemoryError, StorageError])
def test_too_little_memory_or_disk_is_tried_again_later_and_then_told(
    service: Service, person: Person, run: Running, unchecked: None, error: type[ResourceError]
) -> None:
    times: list[float] = []

    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        times.append(time.monotonic())
        if task.id != once or len(times) == 1:
            raise error("too little")
        write(task, on_event)

    once = service.submit(person, 1)
    run(service, Scripted(do), retry_seconds=0.3)
    wait_for(lambda: finished(service, [once]))
    assert (service.row(once).state, service.row(once).attempts) == ("done", 2)
    assert times[1] - times[0] >= 0.3
    never = service.submit(person, 2)
    wait_for(lambda: finished(service, [never]))
    row = service.row(never)
    assert row.kind == error.__name__
    assert row.message == "too little; tried 3 times"


def test_a_job_that_waits_for_memory_is_cancelled_or_queued_again(
    service: Service, person: Person, unchecked: None
) -> None:
    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        raise NotEnoughMemoryError("too little")

    jobs = [service.submit(person, number) for number in range(2)]
    dispatcher = Dispatcher(service.store, Scripted(do), service.folders, retry_seconds=3600)
    dispatcher.start()
    wait_for(lambda: len(dispatcher._later) == 2)
    dispatcher.cancel(person.account, jobs[0])
    assert not service.folders.job(jobs[0]).exists()
    dispatcher.stop(0)
    assert [service.row(job).state for job in jobs] == ["cancelled", "queued"]


def test_a_result_that_is_not_of_this_job_is_refused(
    service: Service, person: Person, run: Running, tiny_session: Any
) -> None:
    first, second, third = (service.submit(person, number) for number in range(3))
    result = tiny_session.evaluate(service.inputs[first][1])

    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        task.output.write_bytes(result[:-1] if task.id == third else result)

    run(service, Scripted(do))
    wait_for(lambda: finished(service, [first, second, third]))
    service.check(first)
    assert service.row(second).kind == "MismatchError"
    assert service.row(third).kind == "CorruptArtifactError"
    service.folders.result(second).write_bytes(service.inputs[second][1])
    with pytest.raises(CorruptArtifactError, match="bytes of body"):  # its own input is no result
        check_result(service.folders, service.row(second))


def test_a_whole_result_is_not_computed_again(
    service: Service, person: Person, run: Running, tiny_session: Any
) -> None:
    """The service was killed between the result and its row."""
    jobs = [service.submit(person, number) for number in range(2)]
    results = [tiny_session.evaluate(service.inputs[job][1]) for job in jobs]
    service.folders.result(jobs[0]).write_bytes(results[0])
    service.folders.result(jobs[1]).write_bytes(results[1][:-1])
    workers = Scripted(lambda task, on_event: (task.output.write_bytes(results[1]), None)[1])
    run(service, workers)
    wait_for(lambda: finished(service, jobs))
    assert workers.ran == [jobs[1]]
    for job in jobs:
        service.check(job)


def test_a_full_disk_delays_and_loses_nothing(
    service: Service, person: Person, run: Running, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PERIOD", 0.05)
    failures: Counter[str] = Counter()

    def full(name: str) -> Callable[..., Any]:
        real = getattr(service.store, name)

        def method(*arguments: Any, **options: Any) -> Any:
            failures[name] += 1
            if failures[name] < 3:
                raise StorageError("the disk is full")
            return real(*arguments, **options)

        return method

    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        if len(workers.ran) == 1:
            raise NotEnoughMemoryError("it waits, and is queued again when there is room on the disk")
        write(task, on_event)

    for name in ("take_job", "requeue_job", "finish_job"):
        monkeypatch.setattr(service.store, name, full(name))
    job = service.submit(person)
    workers = Scripted(do)
    run(service, workers, retry_seconds=0.05)
    wait_for(lambda: finished(service, [job]))
    assert service.row(job).state == "done"
    assert workers.ran == [job, job]
    assert failures["finish_job"] == failures["requeue_job"] == 3


def test_a_bug_fails_one_job_and_not_the_service(
    service: Service, person: Person, run: Running, unchecked: None
) -> None:
    first, second = service.submit(person, 1), service.submit(person, 2)

    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        if task.id == first:
            raise ZeroDivisionError("secret of the service")
        write(task, on_event)

    def changed(job: str) -> None:
        raise RuntimeError("nobody listens")

    run(service, Scripted(do), on_change=changed)
    wait_for(lambda: finished(service, [first, second]))
    row = service.row(first)
    assert (row.state, row.kind) == ("failed", "BackendError")
    assert row.message == "the service failed at this job: ZeroDivisionError"
    assert service.row(second).state == "done"


def test_a_lost_worker_while_stopping_is_no_attempt(service: Service, person: Person) -> None:
    stopping = threading.Event()

    def do(task: Task, on_event: Callable[[Event], None]) -> None:
        stopping.wait(60)
        raise WorkerLostError("lost")

    job = service.submit(person)
    workers = Scripted(do)
    dispatcher = Dispatcher(service.store, workers, service.folders)
    dispatcher.start()
    wait_for(lambda: workers.ran)
    threading.Timer(0.2, stopping.set).start()
    dispatcher.stop(5)
    assert (service.row(job).state, service.row(job).attempts) == ("queued", 0)
