"""Workers on a Ray cluster of two nodes, both on this machine: what they return, and what becomes of those that die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

import fheinfer
from fheinfer.cli.options import with_ray_address
from fheinfer.errors import (
    CorruptArtifactError,
    FheinferError,
    MismatchError,
    StorageError,
    UsageError,
    WorkerLostError,
)
from fheinfer.evaluating import Event, environment
from fheinfer.process import StoppedError
from fheinfer.runs import Run
from fheinfer.service import ray_node, ray_workers
from fheinfer.service.dispatcher import Dispatcher
from fheinfer.service.ray_cluster import places, require_version
from fheinfer.service.ray_folder import TRIES, run_folder, tasks_of
from fheinfer.service.ray_workers import RayWorkers
from fheinfer.service.workers import Task
from tests.conftest import F64, Result, tiny_pixels
from tests.service.running import Service, finished, wait_for

pytest.importorskip("ray")
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
WAIT = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Its head has two processors; every test adds the nodes that it may kill."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    running = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 2, "include_dashboard": False})
    yield running
    running.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def node(cluster: Any) -> Iterator[Any]:
    """The second node."""
    added = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    yield added
    if added in cluster.list_all_nodes():
        cluster.remove_node(added)


@pytest.fixture(scope="module")
def workers(cluster: Any) -> Iterator[RayWorkers]:
    """A worker on the head; tests leave it ready, or about to be."""
    made = RayWorkers(cluster.address, 1, threads=1)
    yield made
    made.close(0.0)


@pytest.fixture
def task(
    tiny_client: fheinfer.Client, tiny_image: F64, tiny_plan_folder: Path, tiny_keys: Path, tmp_path: Path
) -> Task:
    (tmp_path / "in.ct").write_bytes(tiny_client.encrypt(tiny_image))
    return tasks_of(tiny_plan_folder, tiny_keys / "server", [(tmp_path / "in.ct", tmp_path / "out.ct")])[0]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def quiet(event: Event) -> None:
    """Events that nobody follows."""


def actors(workers: RayWorkers) -> list[psutil.Process]:
    """The processes of the workers' actors."""
    asked = [worker.actor.__ray_call__.remote(lambda actor: os.getpid()) for worker in workers._ready()]
    return [psutil.Process(pid) for pid in workers._ray.get(asked)]


def node_workers() -> list[int]:
    """The processes of all actors of this process's cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process.pid] if "NodeWorker" in " ".join(process.cmdline()) else []
    return found


def folders(workers: RayWorkers) -> list[Path]:
    """Where nodes keep files of these workers."""
    return list(Path(tempfile.gettempdir()).glob(f"{ray_node.PREFIX}{workers._session}-*"))


def rows(file: Path) -> list[list[str]]:
    """Of a CSV, without its head. Decryption adds noise of its own: the last digits are others every time."""
    return [line.split(",") for line in file.read_text().splitlines()][1:]


# --- 40 images and a node that dies


@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_a_node_dies_in_the_middle_and_the_csv_is_the_same(
    count: int,
    cluster: Any,
    node: Any,
    command: Callable[..., Result],
    tiny_model_file: Path,
    tiny_plan_folder: Path,
    tiny_keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same ciphertexts twice: on this machine, then on two nodes of which one is killed."""
    images, runs = tmp_path / "images", tmp_path / "runs"
    images.mkdir()
    for index in range(count):
        Image.fromarray(tiny_pixels(1000 + index)).save(images / f"{index:02}.png")
    given = ["accuracy", "--mode", "encrypted", "--plan", tiny_plan_folder, "--model", tiny_model_file]
    given += ["--keys", tiny_keys, "--data", images, "--runs", runs, "--threads", 1]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda run: None)
        done = command(*given, "--csv", tmp_path / "here.csv")
    assert done.code == 0, done.err
    (run,) = runs.iterdir()
    here = {file.name: file.read_bytes() for file in (run / "results").iterdir()}
    assert len(here) == count
    shutil.rmtree(run / "results")

    there: dict[str, bytes] = {}
    written: list[str] = []
    over = threading.Event()

    def watch() -> None:
        """Counts every write of a result, and kills a node after a quarter."""
        seen: dict[str, int] = {}
        while not over.wait(0.02) or len(there) < count:
            for file in (run / "results").glob("*.ct"):
                stamp = file.stat().st_mtime_ns
                if seen.get(file.name) != stamp:
                    seen[file.name] = stamp
                    written.append(file.name)
                    there[file.name] = file.read_bytes()
            if len(there) >= count // 4 and node in cluster.list_all_nodes():
                cluster.remove_node(node, allow_graceful=False)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda run: None)
        watcher = threading.Thread(target=watch)
        watcher.start()
        done = command(*given, "--csv", tmp_path / "there.csv", "--resume", "--ray", cluster.address)
        over.set()
        watcher.join(WAIT)
    assert done.code == 0, done.err
    assert done.err.count("Traceback") == 0
    assert node not in cluster.list_all_nodes()
    assert there == here  # bit by bit
    assert sorted(written) == sorted(here)  # every one once
    for one, other in zip(*(rows(tmp_path / name) for name in ("there.csv", "here.csv")), strict=True):
        assert one[:2] == other[:2]  # image and class
        assert [float(x) for x in one[2:]] == pytest.approx([float(x) for x in other[2:]], abs=1e-3)


def test_a_folder_without_a_cluster_to_join(
    process: Callable[..., Result],
    task: Task,
    tiny_session: Any,
    tiny_plan_folder: Path,
    tiny_keys: Path,
    tmp_path: Path,
) -> None:
    """`--ray` alone starts one for the command, and leaves nothing: no process, no file."""
    (tmp_path / "in").mkdir()
    for name in ("a.ct", "b.ct", "c.ct"):
        shutil.copy(task.input, tmp_path / "in" / name)
    given = ["evaluate", "--plan", tiny_plan_folder, "--keys", tiny_keys, "-i", tmp_path / "in", "--threads", 1]
    with tempfile.TemporaryDirectory(prefix="r") as temporary:  # short: Ray's sockets are in it
        done = process(*given, "-o", tmp_path / "out", "--ray", environment={"TMPDIR": temporary})
        assert not list(Path(temporary).iterdir())
    assert done.code == 0, done.err
    assert done.out == ""
    here = tiny_session.evaluate(task.input.read_bytes())
    there = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert there == dict.fromkeys(("a.ct", "b.ct", "c.ct"), here)
    assert not [p for p in psutil.process_iter(["cmdline"]) if temporary in " ".join(p.info["cmdline"] or [])]


def test_jobs_of_a_service(
    cluster: Any, tiny_plan: fheinfer.Plan, tiny_plan_folder: Path, tiny_keys: Path, tmp_path: Path
) -> None:
    """The dispatcher on these workers; one of them dies, and its job is done again."""
    service = Service(tmp_path / "data", tiny_plan, tiny_plan_folder)
    person = service.person(tiny_keys)
    jobs = [service.submit(person, number) for number in range(3)]
    killed: list[str] = []

    def changed(job: str) -> None:
        progress = dispatcher.progress(job)
        if progress and progress.step and not killed:
            killed.append(job)
            actor.kill()

    workers = RayWorkers(cluster.address, 1, threads=1)
    (actor,) = actors(workers)
    dispatcher = Dispatcher(service.store, workers, service.folders, changed)
    dispatcher.start()
    try:
        wait_for(lambda: finished(service, jobs))
    finally:
        dispatcher.stop(0)
    for job in jobs:
        service.check(job)
    assert [service.row(job).attempts for job in jobs] == [1 + (job in killed) for job in jobs]
    service.store.close()


@pytest.mark.slow
def test_nobody_joins_a_cluster_of_this_machine_alone(process: Callable[..., Result]) -> None:
    """It listens on the network, and asks for its token."""
    joining = (
        "import os, sys; "
        "[os.environ.pop(name) for name in list(os.environ) if name.startswith('RAY_')]; "
        "os.environ.update(sys.argv[2:] and {'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': sys.argv[2]} or {}); "
        "import ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); print('joined')"
    )
    code = (
        "import os, subprocess, sys; from fheinfer.service.ray_workers import RayWorkers; "
        "workers = RayWorkers('local', 1, threads=1); address = workers._ray.get_runtime_context().gcs_address; "
        f"run = lambda *token: subprocess.run([sys.executable, '-c', {joining!r}, address, *token], "
        "capture_output=True, text=True).stdout.strip(); "
        "print([run(), run('0' * 64), run(os.environ['RAY_AUTH_TOKEN'])]); workers.close(0.0)"
    )
    with tempfile.TemporaryDirectory(prefix="r") as home:
        done = process(python=code, environment={"HOME": home})
        assert not (Path(home) / ".ray").exists()
    assert done.out == "['', '', 'joined']\n", done.err


# --- workers that die, hang or are told to stop


def test_a_worker_that_dies_has_its_task_done_again(workers: RayWorkers, task: Task, tmp_path: Path) -> None:
    ended: list[str] = []
    killed: list[int] = []
    tasks = [Task(f"{i}", task.plan, task.keys, task.key_id, task.input, tmp_path / f"{i}.ct") for i in range(4)]

    (actor,) = actors(workers)

    def follow(task: Task, event: Event) -> None:
        if event["event"] == "step" and not killed:
            actor.kill()
            killed.append(actor.pid)
        if event["event"] == "end":
            ended.append(task.id)

    run_folder(workers, tasks, follow)
    assert len(killed) == 1
    assert sorted(ended) == ["0", "1", "2", "3"]
    assert len({file.read_bytes() for file in tmp_path.glob("[0-9].ct")}) == 1
    assert len(list(tmp_path.glob("[0-9].ct"))) == 4


def test_an_evaluating_process_that_dies_is_told_and_made_anew(workers: RayWorkers, task: Task) -> None:
    (actor,) = actors(workers)

    def kill(event: Event) -> None:
        for process in actor.children() if event["event"] == "step" else ():
            process.kill()

    with pytest.raises(WorkerLostError):
        workers.run(0, task, kill)
    workers.run(0, task, quiet)
    assert task.output.exists()
    assert workers.loaded(0) == {task.key_id}
    assert workers.memory() > 2**20


def test_an_actor_that_hangs_is_killed(workers: RayWorkers, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.run(0, task, quiet)
    monkeypatch.setattr(ray_workers, "HANG", 1.0)
    monkeypatch.setattr(ray_workers, "SLOWER", 0.0)
    (actor,) = actors(workers)

    def stop(event: Event) -> None:
        actor.suspend()

    with pytest.raises(WorkerLostError, match="nothing heard for 1 s"):
        workers.run(0, task, stop)
    monkeypatch.undo()
    workers.run(0, task, quiet)  # on a new one
    until(lambda: not actor.is_running())


def test_a_task_is_cancelled(workers: RayWorkers, task: Task) -> None:
    workers.cancel(0, task.id)  # which does not run: nothing
    events: list[str] = []

    def follow(event: Event) -> None:
        events.append(event["event"])
        if event["event"] == "step":
            workers.cancel(0, task.id)

    with pytest.raises(StoppedError):
        workers.run(0, task, follow)
    assert "end" not in events
    assert not task.output.exists()
    workers.run(0, task, quiet)
    assert task.output.exists()


def test_a_task_that_waits_for_a_worker_is_cancelled(workers: RayWorkers, task: Task) -> None:
    with workers._changed:
        worker = workers._workers[0]
        assert worker is not None
        worker.busy = True
    failed: list[BaseException] = []

    def run() -> None:
        try:
            workers.run(0, task, quiet)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: workers._waiting)
    workers.cancel(0, task.id)
    thread.join(WAIT)
    assert isinstance(failed[0], StoppedError)
    worker.busy = False
    workers.run(0, task, quiet)


def test_an_error_of_a_task_has_its_own_type(workers: RayWorkers, task: Task) -> None:
    raw = task.input.read_bytes()
    task.input.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(CorruptArtifactError):
        workers.run(0, task, quiet)
    task.input.write_bytes(raw)
    workers.run(0, task, quiet)


def test_closing_stops_a_task_with_a_checkpoint_and_leaves_nothing(
    cluster: Any, task: Task, tmp_path: Path, tiny_session: Any
) -> None:
    closing = Task(task.id, task.plan, task.keys, task.key_id, task.input, task.output, checkpoints=tmp_path / "job")
    closing.checkpoints.mkdir()  # type: ignore[union-attr]
    workers = RayWorkers(cluster.address, 1, threads=1)
    threads: list[threading.Thread] = []

    def close(event: Event) -> None:
        if event["event"] == "step" and not threads:
            threads.append(threading.Thread(target=workers.close, args=(20.0,)))
            threads[0].start()

    with pytest.raises(StoppedError):
        workers.run(0, closing, close)
    threads[0].join(WAIT)
    assert not threads[0].is_alive()
    assert not folders(workers)
    assert (tmp_path / "job" / "block.ct").exists()

    again = RayWorkers(cluster.address, 1, threads=1)
    steps: list[int] = []
    again.run(0, closing, lambda event: steps.append(event["index"]) if event["event"] == "step" else None)
    again.close(0.0)
    assert steps[0] > 0  # from the checkpoint
    assert task.output.read_bytes() == tiny_session.evaluate(task.input.read_bytes())


def test_keys_of_several_clients(
    workers: RayWorkers,
    task: Task,
    tiny_plan: fheinfer.Plan,
    tiny_image: F64,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fheinfer.keygen(tiny_plan.client, tmp_path / "other")
    client = fheinfer.Client(tmp_path / "other", tiny_plan.client)
    (tmp_path / "other.ct").write_bytes(client.encrypt(tiny_image))
    pairs = [(tmp_path / "other.ct", tmp_path / "theirs.ct")]
    other = tasks_of(task.plan, tmp_path / "other" / "server", pairs)[0]
    sent: list[str] = []
    real = workers._folder

    def send(worker: Any, name: str, source: Path, files: Mapping[str, int]) -> None:
        sent.append(name)
        real(worker, name, source, files)

    workers.run(0, task, quiet)
    monkeypatch.setattr(workers, "_folder", send)
    for each in (other, task, other):
        workers.run(0, each, quiet)
    assert workers.loaded(0) == {task.key_id, other.key_id}
    assert [name[:37] for name in sent] == [f"keys/{other.key_id}"]  # and nothing that was there
    assert client.decrypt((tmp_path / "theirs.ct").read_bytes()).shape == (10,)

    (folder,) = folders(workers)
    workers.forget(other.key_id)
    until(lambda: [path.name[:32] for path in (folder / "keys").iterdir()] == [task.key_id])
    workers.run(0, other, quiet)  # sent again
    assert len(sent) == 2


def test_workers_die_with_their_driver(cluster: Any, tiny_plan_folder: Path) -> None:
    code = (
        "import sys, time; from fheinfer.service.ray_workers import RayWorkers; "
        "workers = RayWorkers(sys.argv[1], 1, threads=1); print('ready', flush=True); time.sleep(600)"
    )
    before, held = set(node_workers()), set(Path(tempfile.gettempdir()).glob(f"{ray_node.PREFIX}*"))
    driver = subprocess.Popen(
        [sys.executable, "-c", code, cluster.address], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    (pid,) = set(node_workers()) - before
    driver.send_signal(signal.SIGKILL)
    driver.wait(WAIT)
    driver.stdout.close()
    until(lambda: not psutil.pid_exists(pid))
    ray_node.remove_abandoned(Path(tempfile.gettempdir()))  # as the next worker on that node does
    assert set(Path(tempfile.gettempdir()).glob(f"{ray_node.PREFIX}*")) <= held


# --- without a cluster


class Fake:
    """Workers whose every task is lost as often as `lost` says, or fails."""

    def __init__(self, slots: int, lost: Mapping[str, int], failing: Sequence[str] = ()) -> None:
        self.slots = slots
        self._lost, self._failing = Counter(dict(lost)), failing
        self.done: list[str] = []

    def loaded(self, slot: int) -> frozenset[str]:
        return frozenset()

    def run(self, slot: int, task: Task, on_event: Callable[[Event], None]) -> None:
        time.sleep(0.001)
        if self._lost[task.id] > 0:
            self._lost[task.id] -= 1
            raise WorkerLostError("gone")
        if task.id in self._failing:
            raise CorruptArtifactError("damaged")
        self.done.append(task.id)
        on_event({"event": "end"})

    def cancel(self, slot: int, task_id: str) -> None:
        """Nothing runs for long."""

    def forget(self, key_id: str) -> None:
        """There are no keys."""

    def close(self, grace: float) -> None:
        """There is nothing to close."""

    def memory(self) -> int:
        return 0


def some(count: int) -> list[Task]:
    return [Task(str(i), Path("plan"), Path("keys"), "k", Path(f"{i}.ct"), Path(f"{i}.out")) for i in range(count)]


def test_every_task_is_done_once() -> None:
    fake, told = Fake(4, {"3": TRIES - 1, "19": 1}), []
    run_folder(fake, some(20), lambda task, event: told.append((task.id, event["event"])))
    assert sorted(fake.done, key=int) == [str(i) for i in range(20)]
    assert sorted(told) == sorted((name, "end") for name in fake.done)


def test_a_task_that_kills_every_worker_ends_the_folder() -> None:
    with pytest.raises(WorkerLostError, match=r"2\.ct: 3 workers were lost with it"):
        run_folder(Fake(2, {"2": TRIES}), some(5), lambda task, event: None)


def test_the_first_error_ends_the_folder() -> None:
    fake = Fake(1, {}, failing=["2"])
    with pytest.raises(CorruptArtifactError):
        run_folder(fake, some(5), lambda task, event: None)
    assert fake.done == ["0", "1"]


def test_two_inputs_at_a_time_where_the_plan_takes_them(
    tiny_plan_folder: Path, tiny_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(Path(f"{i}.ct"), Path(f"{i}.out")) for i in range(3)]
    assert [task.files for task in tasks_of(tiny_plan_folder, tiny_keys / "server", pairs)] == [[x] for x in pairs]
    monkeypatch.setattr(fheinfer.Plan, "takes_two_inputs", True)
    assert [task.files for task in tasks_of(tiny_plan_folder, tiny_keys / "server", pairs)] == [pairs[:2], pairs[2:]]


@pytest.mark.parametrize(
    ("processors", "workers", "threads", "found"),
    [
        ([2, 2], None, None, (2, 2)),
        ([8, 2], None, None, (5, 2)),
        ([4, 4], 3, None, (3, 2)),
        ([2, 2], 4, None, (4, 1)),
        ([4, 4], None, 2, (4, 2)),
        ([1], 1, 1, (1, 1)),
    ],
)
def test_where_workers_go(
    processors: list[int], workers: int | None, threads: int | None, found: tuple[int, int]
) -> None:
    assert places(processors, workers, threads) == found


@pytest.mark.parametrize(("processors", "workers", "threads"), [([], None, None), ([2, 2], 5, None), ([2], None, 4)])
def test_workers_that_do_not_fit(processors: list[int], workers: int | None, threads: int | None) -> None:
    with pytest.raises(UsageError, match="Ray cluster"):
        places(processors, workers, threads)


def test_a_node_with_another_version_is_refused() -> None:
    require_version("node", ray_node.own_version())
    with pytest.raises(MismatchError, match=r"node abcdef12 of the Ray cluster has fheinfer 0\.0\.1"):
        require_version("abcdef1234", "0.0.1")


def test_folders_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    held, left = tmp_path / f"{ray_node.PREFIX}held", tmp_path / f"{ray_node.PREFIX}left"
    lock = ray_node.hold_folder(held)
    os.close(ray_node.hold_folder(left))
    (left / "keys" / "file").write_bytes(b"x")
    ray_node.remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [held.name]
    os.close(lock)


def node_with(folder: Path, files: int) -> ray_node.NodeWorker:
    """One without Ray, that has the keys of so many clients; those of the first are the oldest."""
    node = object.__new__(ray_node.NodeWorker)
    node._folder = folder
    os.close(ray_node.hold_folder(folder))
    for number in range(files):
        node.begin(f"keys/{number}-a", 1)
        node.put(f"keys/{number}-a", "manifest.json", b"x")
        node.finish(f"keys/{number}-a")
        os.utime(folder / "keys" / f"{number}-a", (number, number))
    return node


def test_the_keys_that_were_not_used_for_longest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_with(tmp_path, 3)
    assert node.has("keys/0-a")  # and so it was used last
    assert not node.has("keys/9-a")

    def full(path: Path, size: int) -> None:
        if len(list(tmp_path.glob("keys/?-a"))) > 1:
            raise StorageError("full")

    monkeypatch.setattr(ray_node, "require_disk", full)
    node.begin("keys/3-a", 100)
    node.put("keys/3-a", "manifest.json", b"x")
    assert not node.has("keys/3-a")  # not before it is whole
    node.finish("keys/3-a")
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["0-a", "3-a"]


def test_a_disk_that_is_too_small_whatever_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_with(tmp_path, 1)

    def full(path: Path, size: int) -> None:
        raise StorageError("full")

    monkeypatch.setattr(ray_node, "require_disk", full)
    with pytest.raises(StorageError):
        node.begin("keys/3-a", 100)


def test_whoever_waits_for_longer_gets_the_worker(tmp_path: Path) -> None:
    """Slot 1 has lost its worker: its task takes that of slot 0 before the next task there does."""
    workers = object.__new__(RayWorkers)
    only = ray_workers._Worker(None, "node")
    workers._workers, workers._waiting = [only, None], {"lost": 1, "own": 0}
    assert workers._free("lost") is only
    assert workers._free("own") is None
    only.busy = True
    assert workers._free("lost") is None
    workers._waiting = {"own": 0, "lost": 1}
    only.busy = False
    assert workers._free("lost") is None
    assert workers._free("own") is only


def test_the_address_may_be_left_out() -> None:
    assert with_ray_address(["evaluate", "--ray"]) == ["evaluate", "--ray", "local"]
    assert with_ray_address(["--ray", "-i", "x"]) == ["--ray", "local", "-i", "x"]
    assert with_ray_address(["--ray", "head:6379", "-v"]) == ["--ray", "head:6379", "-v"]
    assert with_ray_address(["--ray=auto"]) == ["--ray=auto"]
    assert with_ray_address([]) == []


def test_an_address_without_a_cluster(task: Task) -> None:
    with pytest.raises(FheinferError, match=r"no Ray cluster at 127\.0\.0\.1:1 "):
        RayWorkers("127.0.0.1:1")
    with pytest.raises(UsageError, match="HOST:PORT"):
        RayWorkers("ray://head:10001")
