"""Workers on the machines of a Ray cluster, behind the same protocol as those of this machine.

An actor per worker has an evaluating process on its node. Plans and keys go there once per node, inputs and results
with every task, all through Ray's object store: nodes need the same fheinfer, and no disk that they share.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from fheinfer.compiler.plan import FILE_NAME as PLAN_FILE
from fheinfer.compiler.plan import load as load_plan
from fheinfer.crypto.artifact import MAX_METADATA
from fheinfer.crypto.ciphertexts import BLOCK, MAX_BLOCK, read_ciphertexts
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.manifest import FILE_NAME as MANIFEST
from fheinfer.crypto.manifest import MAX_BYTES as MAX_MANIFEST
from fheinfer.crypto.manifest import PUBLIC, Manifest
from fheinfer.errors import BackendError, FheinferError, KeyStoreError, MismatchError, WorkerLostError
from fheinfer.evaluating import Event, typed
from fheinfer.service.ray_cluster import connect, last_line, places, processors, require_version
from fheinfer.service.ray_node import NodeWorker
from fheinfer.service.workers import StoppedError, Task
from fheinfer.storage import atomic_write, read_small, shown

START = 120.0
"""Seconds in which there has to be a worker."""
RETRY = 1.0
"""Seconds after which a worker that was lost is started again."""
QUICK = 60.0
"""Seconds in which an actor has to answer what takes no time, and write a file."""
FAREWELL = 10.0
"""Seconds in which it has to end."""
FAILURES = 3
"""Actors that may fail to start before that is what is told."""
HANG, SLOWER = 90.0, 20.0
"""No event for so many seconds, and for so many times those that were predicted: the actor hangs. An evaluating process
that hangs is ended on its node before that."""
CALLS = 8
"""That an actor answers at once."""


@dataclass(eq=False)
class _Worker:
    """An actor that is ready. `loaded`: key ids in its memory, when it was last heard of."""

    actor: Any
    node: str
    busy: bool = False
    loaded: frozenset[str] = frozenset()


class RayWorkers:
    """As `LocalWorkers`, on the nodes of a Ray cluster.

    Args:
        address: HOST:PORT of the cluster's head, of which this machine has to be a node; "auto" for the cluster of
            this machine; "local" or None for one that is started here and ends with the workers.
        workers: how many; by default as many as the processors allow.
        threads: of each worker; by default as many as the smallest node has processors.
        memory: bytes of each worker, as of `LocalWorkers`.

    Raises:
        UsageError: Ray is not installed, or so many workers do not fit.
        BackendError: no such cluster, or no worker that starts.
        MismatchError: another version of fheinfer on a node.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        *,
        threads: int | None = None,
        memory: int | None = None,
    ) -> None:
        self._ray, self._disconnect = connect(address)
        self._session, self._memory = secrets.token_hex(16), memory
        self._changed = threading.Condition()
        self._closing = False
        self._error: Exception | None = None
        self._failures = 0
        self._waiting: dict[str, int] = {}  # task -> its slot, in the order they came
        self._running: dict[str, _Worker] = {}
        self._cancelled: set[str] = set()
        self._specs: dict[tuple[Path, int, int] | None, ClientSpec] = {}
        self._sending: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._workers: list[_Worker | None] = []
        self._keepers: list[threading.Thread] = []
        try:
            self.slots, self.threads = places(processors(self._ray), workers, threads)
            self._workers = [None] * self.slots
            for slot in range(self.slots):
                keeper = threading.Thread(target=self._keep, args=(slot,), name=f"fheinfer-ray-{slot}", daemon=True)
                self._keepers.append(keeper)
                keeper.start()
            with self._changed:
                self._changed.wait_for(lambda: self._ready() or self._failures >= FAILURES, START)
                if not self._ready():
                    raise self._none()
        except BaseException:
            self.close(0.0)
            raise

    def loaded(self, slot: int) -> frozenset[str]:
        """Ids of the keys that the worker has in memory."""
        worker = self._workers[slot]
        return worker.loaded if worker else frozenset()

    def run(self, slot: int, task: Task, on_event: Callable[[Event], None]) -> None:
        """Does a task, on the slot's own worker or, while that is lost, on the next one that is free.

        Raises:
            FheinferError: what the task raised.
            WorkerLostError: the worker or its node died, or hung and was killed.
            StoppedError: the task was cancelled, or the workers were closed.
        """
        with self._taken(slot, task.id) as worker, self._losses(worker):
            self._evaluate(worker, task, self._send(worker, task), on_event)

    def cancel(self, slot: int, task_id: str) -> None:
        """Ends a task soon; nothing where it does not run."""
        with self._changed:
            worker = self._running.get(task_id)
            if worker or task_id in self._waiting:
                self._cancelled.add(task_id)
                self._changed.notify_all()
        if worker:
            worker.actor.cancel.remote(task_id)

    def forget(self, key_id: str) -> None:
        """Keys leave memory and disk on all nodes."""
        for worker in self._ready():
            worker.actor.forget.remote(key_id)

    def memory(self) -> int:
        """Bytes resident in the evaluating processes that answer within a second."""
        asked = [worker.actor.memory.remote() for worker in self._ready()]
        answered = self._ray.wait(asked, num_returns=len(asked), timeout=1.0)[0] if asked else []
        total = 0
        for answer in answered:
            with suppress(self._ray.exceptions.RayError):
                total += self._ray.get(answer)
        return total

    def close(self, grace: float) -> None:
        """Stops all workers; what runs may send a checkpoint first. What is on the nodes is deleted."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._all("close", grace, seconds=grace + FAREWELL)
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout=grace + 1.0)
        self._all("leave", seconds=FAREWELL)
        for worker in self._ready():
            self._ray.kill(worker.actor)
        for keeper in self._keepers:
            keeper.join(FAREWELL)
        self._disconnect()

    def _all(self, method: str, *arguments: Any, seconds: float) -> None:
        calls = [getattr(worker.actor, method).remote(*arguments) for worker in self._ready()]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=seconds)

    def _ready(self) -> list[_Worker]:
        return [worker for worker in list(self._workers) if worker]

    def _none(self) -> FheinferError:
        if isinstance(self._error, FheinferError):
            return self._error
        why = last_line(self._error) if self._error else "its nodes have no processors free"
        return BackendError(f"no worker of the Ray cluster started ({why}); see `ray status`")

    def _keep(self, slot: int) -> None:
        """Sees to it that a slot has a worker until all are closed: a thread of its own."""
        ray = self._ray
        made = ray.remote(num_cpus=self.threads, max_concurrency=CALLS, max_restarts=0, scheduling_strategy="SPREAD")(
            NodeWorker
        )
        while not self._closing:
            actor = made.remote(self._session, self.threads, self._memory)
            try:
                about = actor.about.remote()
                while not ray.wait([about], timeout=0.5)[0] and not self._closing:
                    pass  # no node has room for it yet
                if not self._closing:
                    node, version = ray.get(about)
                    require_version(node, version)
                    self._set(slot, _Worker(actor, node))
                    ray.get(actor.hold.remote())  # until it dies
            except (ray.exceptions.RayError, MismatchError) as error:
                self._error = error
                self._failures += 1
            self._set(slot, None)
            ray.kill(actor)
            if not self._closing:
                time.sleep(RETRY)

    def _set(self, slot: int, worker: _Worker | None) -> None:
        with self._changed:
            self._workers[slot] = worker
            self._changed.notify_all()

    def _lose(self, worker: _Worker) -> None:
        """Makes sure that an actor is dead; its slot waits for another one."""
        with self._changed:
            self._workers = [None if each is worker else each for each in self._workers]
        self._ray.kill(worker.actor)

    @contextmanager
    def _taken(self, slot: int, task: str) -> Iterator[_Worker]:
        """A worker for a task, and for nothing else meanwhile."""
        with self._changed:
            self._waiting[task] = slot
            try:
                worker = self._awaited(task)
                self._running[task], worker.busy = worker, True
            finally:
                del self._waiting[task]
                if task not in self._running:
                    self._cancelled.discard(task)
        try:
            yield worker
        finally:
            with self._changed:
                del self._running[task]
                self._cancelled.discard(task)
                worker.busy = False
                self._changed.notify_all()

    def _awaited(self, task: str) -> _Worker:
        """The first worker that is free for a task, which waits its turn."""
        since = time.monotonic()
        while not (worker := self._free(task)):
            if self._closing or task in self._cancelled:
                raise StoppedError
            if self._ready():
                since = time.monotonic()
            elif time.monotonic() > since + START:
                raise WorkerLostError(str(self._none()))
            self._changed.wait(1.0)
        return worker

    def _free(self, task: str) -> _Worker | None:
        """The slot's own worker, or any while that is lost; unless a task that waits for longer can have it."""
        own = self._workers[self._waiting[task]]
        before = takewhile(lambda other: other != task, self._waiting)
        wanted = [self._workers[self._waiting[other]] for other in before]
        for worker in (own,) if own else self._ready():
            if not worker.busy and not any(other in (None, worker) for other in wanted):
                return worker
        return None

    @contextmanager
    def _losses(self, worker: _Worker) -> Iterator[None]:
        """Whatever Ray raises, as an error of ours; a worker that does not answer is killed."""
        failures = self._ray.exceptions
        try:
            yield
        except failures.RayTaskError as error:  # the actor is well
            cause = error.cause
            raise cause if isinstance(cause, FheinferError) else BackendError(last_line(error)) from error
        except (failures.RayError, TimeoutError) as error:
            self._lose(worker)
            if self._closing:
                raise StoppedError from error
            raise WorkerLostError(f"a worker on node {worker.node[:8]} was lost: {last_line(error)}") from error

    def _send(self, worker: _Worker, task: Task) -> Mapping[str, Any]:
        """Sends plan and keys where the node has them not yet; what the actor has to know of the task."""
        spec = self._spec(task.plan)
        manifest = Manifest.load(task.keys / MANIFEST)
        raw = _read(task.keys / MANIFEST, MAX_MANIFEST)
        # Each folder's keys are kept apart, and sent again where some were added: who claims a key id shares nothing.
        which = hashlib.sha256(f"{task.keys.absolute()}\n".encode() + raw).hexdigest()
        plan, keys = f"plans/{spec.plan}", f"keys/{task.key_id}-{which}"
        sizes = {name: entry.bytes for name, entry in manifest.files.items() if name != PUBLIC}
        with self._sending[worker.node]:
            if not self._call(worker, "has", plan):
                folder = _plan_folder(task.plan)
                self._folder(worker, plan, folder, {PLAN_FILE: (folder / PLAN_FILE).stat().st_size})
            if not self._call(worker, "has", keys):
                self._folder(worker, keys, task.keys, {MANIFEST: len(raw), **sizes})
        return {
            "id": task.id,
            "plan": plan,
            "keys": keys,
            "key_id": task.key_id,
            "seconds": task.seconds,
            "checkpoints": task.checkpoints is not None,
        }

    def _folder(self, worker: _Worker, name: str, source: Path, files: Mapping[str, int]) -> None:
        self._call(worker, "begin", name, sum(files.values()))
        for file, size in files.items():
            self._call(worker, "put", name, file, _read(source / file, size))
        self._call(worker, "finish", name)

    def _call(self, worker: _Worker, method: str, *arguments: Any) -> Any:
        return self._ray.get(getattr(worker.actor, method).remote(*arguments), timeout=QUICK)

    def _evaluate(self, worker: _Worker, task: Task, job: Mapping[str, Any], on_event: Callable[[Event], None]) -> None:
        ray, spec = self._ray, self._spec(task.plan)
        pairs = [(task.input, task.output), *([task.second] if task.second else [])]
        inputs = [read_ciphertexts(file, spec.params, spec.input.ciphertexts) for file, _ in pairs]
        block = None
        if task.checkpoints is not None and (task.checkpoints / BLOCK).exists():
            block = read_small(task.checkpoints / BLOCK, MAX_BLOCK + MAX_METADATA, "a checkpoint")
        events = worker.actor.evaluate.options(num_returns="streaming").remote(job, inputs, block)
        limit = max(HANG, SLOWER * task.seconds)
        while True:
            if not ray.wait([events], timeout=limit)[0]:
                raise TimeoutError(f"nothing heard for {limit:.0f} s")
            if task.id in self._cancelled:
                worker.actor.cancel.remote(task.id)  # it may have been told before it had the task
            try:
                event = ray.get(next(events))
            except StopIteration:
                raise BackendError("a worker ended a task without a result") from None
            if event["event"] == "results":
                for (_, output), result in zip(pairs, event["results"], strict=True):
                    atomic_write(output, [result])
                on_event({"event": "end"})
                return
            if event["event"] == "error":
                raise typed(event)
            if event["event"] == "stopped":
                raise StoppedError
            if event["event"] == "loaded":
                worker.loaded = frozenset(event["keys"])
            if event["event"] == "checkpoint":
                if task.checkpoints is not None:
                    atomic_write(task.checkpoints / BLOCK, [event["block"]])
            elif event["event"] != "end":  # told when the results are here
                on_event(event)

    def _spec(self, plan: Path) -> ClientSpec:
        """What is known of a plan, by the plan file itself; read once."""
        file = _plan_folder(plan) / PLAN_FILE
        status = file.stat() if file.exists() else None
        which = (file, status.st_mtime_ns, status.st_size) if status else None
        if which not in self._specs:
            self._specs[which] = load_plan(plan).client
        return self._specs[which]


def _plan_folder(plan: Path) -> Path:
    """The folder of a plan, which may be named by its file."""
    return plan if plan.is_dir() else plan.parent


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_small(path, limit, "a key")
    except FileNotFoundError:
        raise KeyStoreError(f"{shown(path)}: it is gone; copy the folder again") from None
