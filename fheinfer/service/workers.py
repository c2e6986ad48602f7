"""Who evaluates for the service: worker processes on this machine, each a `fheinfer.worker` under limits of its own."""

from __future__ import annotations

import logging
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import IO, Protocol

import psutil

from fheinfer.errors import NotEnoughMemoryError, UsageError, WorkerLostError
from fheinfer.evaluating import EvaluatingProcess, Event
from fheinfer.machine import usable_threads
from fheinfer.process import StoppedError

__all__ = ["LocalWorkers", "StoppedError", "Task", "Workers"]

LOG = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 30.0
"""From one checkpoint of a task to the next, at least."""
PATIENCE, FACTOR = 60.0, 20.0
"""A worker that says nothing for so many seconds, and so many times what its task is predicted to take, hangs."""
CANCEL_SECONDS = 5.0
"""That a task gets to end by itself when it is cancelled."""
OOM_SCORE = 500
"""Where memory runs out, the system ends workers before the service."""
DATA_MARGIN, STACK = 256 << 20, 32 << 20
"""Bytes that a worker may take beyond its share before the system refuses: of libraries, and for each thread."""
_PERIOD = 0.2
_LOG_LINE = 2000


@dataclass(frozen=True)
class Task:
    """One evaluation.

    plan         folder of the plan
    keys         folder of the keys, which are those of `key_id`
    input        file with the encrypted input
    output       file that the result is written to, atomically
    checkpoints  folder from which it goes on where there is a checkpoint of this very input; None for none
    seconds      that it is predicted to take
    second       another input and output, where the plan takes two at a time; such a task has no checkpoints
    """

    id: str
    plan: Path
    keys: Path
    key_id: str
    input: Path
    output: Path
    checkpoints: Path | None = None
    seconds: float = 0.0
    second: tuple[Path, Path] | None = None

    @property
    def files(self) -> list[tuple[Path, Path]]:
        """Each input, and where its result goes."""
        return [(self.input, self.output), *([self.second] if self.second else [])]


class Workers(Protocol):
    """Slots that run a task each at a time. One thread per slot calls `run`; any thread the other methods."""

    @property
    def slots(self) -> int:
        """How many there are, numbered from 0."""

    def loaded(self, slot: int) -> frozenset[str]:
        """Key ids whose keys are in the memory of that slot's worker."""

    def run(self, slot: int, task: Task, on_event: Callable[[Event], None]) -> None:
        """Runs a task to its end and tells its events (`fheinfer.worker`).

        Raises:
            FheinferError: of the task: its files, or too little memory.
            WorkerLostError: the worker died, or hung and was ended. It may be tried again.
            StoppedError: the task was cancelled, or the workers were closed.
        """

    def cancel(self, slot: int, task_id: str) -> None:
        """Ends that task soon, where it is what the slot runs: by itself after a step, or by ending its worker."""

    def forget(self, key_id: str) -> None:
        """Lets keys leave the memory of all workers, once the task that uses them is done."""

    def close(self, grace: float) -> None:
        """Ends all workers; tasks get `grace` seconds to write a checkpoint and stop."""

    def memory(self) -> int:
        """Bytes that all workers have in memory now."""


@dataclass
class _Slot:
    """A worker process, which is made anew for the next task where it ended, and its task."""

    running: Lock = field(default_factory=Lock)
    process: EvaluatingProcess | None = None
    loaded: frozenset[str] = frozenset()
    task: str | None = None
    heard: float = 0.0
    patience: float = 0.0
    deadline: float | None = None  # of a task that has to end

    def overdue(self, now: float) -> bool:
        """Whether its worker has to be ended."""
        if self.task is None:
            return False
        return now > self.heard + self.patience or (self.deadline is not None and now > self.deadline)


class LocalWorkers:
    """Worker processes of this machine.

    Each dies with this process, has no token and no passphrase in its environment, and writes its standard error to the
    log. One that died is made anew for the next task.

    Args:
        workers: how many.
        threads: that all of them may use together; by default all that are usable.
        memory: bytes that all of them may take together, keys and all; by default what the machine has.

    Raises:
        UsageError: less than one worker.
        NotEnoughMemoryError: the system starts no process.
    """

    def __init__(self, workers: int, *, threads: int | None = None, memory: int | None = None) -> None:
        if workers < 1:
            raise UsageError(f"{workers} workers cannot compute anything; give one or more")
        self._threads = max(1, (threads or usable_threads()) // workers)
        self._share = None if memory is None else memory // workers  # of each: nobody takes what another was promised
        self._slots = [_Slot(process=self._begin()) for _ in range(workers)]
        self._state = Lock()
        self._closing = False
        self._closed = Flag()
        Thread(target=self._watch, name="fheinfer-watch", daemon=True).start()

    @property
    def slots(self) -> int:
        """See `Workers`, as for all that follows."""
        return len(self._slots)

    def loaded(self, slot: int) -> frozenset[str]:
        place = self._slots[slot]
        return place.loaded if place.process and place.process.alive else frozenset()

    def run(self, slot: int, task: Task, on_event: Callable[[Event], None]) -> None:
        place = self._slots[slot]
        with place.running, self._taken(place, task) as process:

            def follow(event: Event) -> None:
                place.heard = time.monotonic()
                if event["event"] == "loaded":
                    place.loaded = frozenset(event["keys"])
                on_event(event)

            process.on_event = follow
            process.evaluate(
                [file for file, _ in task.files],
                [file for _, file in task.files],
                checkpoints=task.checkpoints,
                resume=True,
                id=task.id,
                plan=str(task.plan.absolute()),
                keys=str(task.keys.absolute()),
                key_id=task.key_id,
                every=CHECKPOINT_SECONDS,
            )

    def cancel(self, slot: int, task_id: str) -> None:
        place = self._slots[slot]
        with self._state:
            if place.task != task_id or place.deadline is not None or place.process is None:
                return
            place.deadline = time.monotonic() + CANCEL_SECONDS
            process = place.process
        process.cancel(task_id)

    def forget(self, key_id: str) -> None:
        for place in self._slots:
            if process := place.process:
                place.loaded -= {key_id}
                process.forget(key_id)

    def close(self, grace: float) -> None:
        with self._state:
            self._closing = True
            busy = [place for place in self._slots if place.task is not None]
            for place in busy:
                place.deadline = min(place.deadline or float("inf"), time.monotonic() + grace)
        for place in busy:
            if process := place.process:
                process.stop()
        for place in self._slots:
            with place.running:
                self._end(place)
        self._closed.set()

    def memory(self) -> int:
        total = 0
        for place in self._slots:
            if process := place.process:
                with suppress(psutil.Error):
                    total += psutil.Process(process.pid).memory_info().rss
        return total

    @contextmanager
    def _taken(self, place: _Slot, task: Task) -> Iterator[EvaluatingProcess]:
        """The worker of a slot while it has this task; it does not outlive an end that it did not tell itself."""
        with self._state:
            if self._closing:
                raise StoppedError
            if place.process is None or not place.process.alive:
                self._end(place)
                place.process = self._begin()
            process = place.process
            place.heard, place.patience = time.monotonic(), max(PATIENCE, FACTOR * task.seconds)
            place.task, place.deadline = task.id, None
        try:
            yield process
        except WorkerLostError as error:
            if place.deadline is not None:
                raise StoppedError from None
            if time.monotonic() > place.heard + place.patience:
                raise WorkerLostError(f"a worker did nothing for {place.patience:.0f} s and was ended") from None
            LOG.warning("%s", error)
            raise WorkerLostError("a worker was lost while it evaluated this") from None
        finally:
            with self._state:
                place.task = None
                if process.busy or not process.alive:
                    process.kill()
                    self._end(place)

    def _begin(self) -> EvaluatingProcess:
        try:
            process = EvaluatingProcess(threads=self._threads, share=self._share, stderr=subprocess.PIPE)
        except OSError as error:
            raise NotEnoughMemoryError(
                f"no worker can be started ({error.strerror or error}); free memory, processes or temporary files"
            ) from error
        with suppress(OSError):  # it ended at once, or the system has no such file
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(OOM_SCORE))
        if self._share is not None:
            with suppress(OSError):
                most = self._share + DATA_MARGIN + STACK * usable_threads()
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (most, most))
        Thread(target=_log, args=(process.stderr,), name="fheinfer-log", daemon=True).start()
        return process

    def _end(self, place: _Slot) -> None:
        if place.process:
            place.process.close()
        place.process, place.loaded = None, frozenset()

    def _watch(self) -> None:
        """Ends workers that hang, and those whose task has to end and does not."""
        while not self._closed.wait(_PERIOD):
            with self._state:
                for place in self._slots:
                    if place.process and place.overdue(time.monotonic()):
                        place.process.kill()


def _log(stderr: IO[str]) -> None:
    while line := stderr.readline(_LOG_LINE):
        LOG.warning("worker: %s", line.rstrip())
    stderr.close()
