"""Takes jobs from the store and has workers do them: a thread per worker, retries, progress, and an end with grace."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Thread

from fheinfer.crypto.ciphertexts import BLOCK
from fheinfer.errors import BackendError, FheinferError, ResourceError, WorkerLostError
from fheinfer.evaluating import Event
from fheinfer.service.folders import Folders, check_result
from fheinfer.service.store import JobRow, Store
from fheinfer.service.workers import StoppedError, Task, Workers

LOG = logging.getLogger(__name__)
TRIES = 3
"""Times that a job is begun at most where its worker is lost, or has too little memory or disk."""
RETRY_SECONDS = 5.0
"""Until a job is tried again for which there was too little memory or disk."""
_PERIOD = 1.0
"""Seconds between two looks at the store: a job that nobody told of, or a disk that was full."""


@dataclass(frozen=True)
class Progress:
    """How far a running job is: steps done, of how many, and the seconds that the others are expected to take."""

    step: int
    steps: int
    seconds_left: float | None


class Follower:
    """Makes progress of the events of a job; what its steps took scales what the others are predicted to take."""

    def __init__(self, seconds: float) -> None:
        self.progress = Progress(0, 0, seconds)
        self._predicted: list[float] = []
        self._took = self._expected = 0.0

    def __call__(self, event: Event) -> bool:
        """Takes an event; True where it changed the progress."""
        if event["event"] == "plan":
            self._predicted = list(event["seconds"])
            self.progress = Progress(0, len(self._predicted), sum(self._predicted))
        elif event["event"] == "step":
            done = event["index"] + 1
            self._took += event["seconds"]
            self._expected += sum(self._predicted[event["index"] : done])
            scale = self._took / self._expected if self._expected else 1.0
            self.progress = Progress(done, event["total"], scale * sum(self._predicted[done:]))
        return event["event"] in ("plan", "step")


class Dispatcher:
    """Runs the jobs of a store on workers, from `start` to `stop`.

    Args:
        on_change: told of the id of every job whose state or progress changed, from any of the threads.
        measure: told of the seconds that a job was "waiting" for its start, of those of the "evaluation" of one that is
            done, and of the seconds after which a worker was "lost".
        retry_seconds: until a job is tried again for which there was too little memory or disk.
    """

    def __init__(
        self,
        store: Store,
        workers: Workers,
        folders: Folders,
        on_change: Callable[[str], None] = lambda job_id: None,
        measure: Callable[[str, float], None] = lambda what, seconds: None,
        *,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._store, self._workers, self._folders, self._on_change = store, workers, folders, on_change
        self._measure, self._retry_seconds = measure, retry_seconds
        self._running: dict[str, tuple[int, Follower]] = {}
        self._later: dict[str, float] = {}  # jobs that wait for memory or disk, and until when
        self._cancelled: set[str] = set()
        self._changed = Condition()
        self._news = 0
        self._stopping = False
        self._threads = [
            Thread(target=self._serve, args=(slot,), name=f"fheinfer-slot-{slot}", daemon=True)
            for slot in range(workers.slots)
        ]

    def start(self) -> None:
        """Begins to take jobs. What ran when the service ended last has to be in the queue again (`Store.recover`)."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Says that there is a new job."""
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def progress(self, job_id: str) -> Progress | None:
        """How far a job is; None where it does not run."""
        found = self._running.get(job_id)
        return found[1].progress if found else None

    def cancel(self, account: str, job_id: str) -> JobRow | None:
        """Cancels a job of an account, running or not, and deletes its files; one that is over is forgotten.

        Returns:
            The job as it was; None where the account has none of that id.

        Raises:
            StorageError: the store cannot write; nothing was cancelled.
        """
        row = self._store.cancel_job(account, job_id)
        if row is None:
            return None
        with self._changed:
            waits = self._later.pop(job_id, None) is not None
            found = self._running.get(job_id)
            if row.state == "running" and not waits:
                self._cancelled.add(job_id)  # its files are deleted when it has ended
        if found:
            self._workers.cancel(found[0], job_id)
        else:
            self._delete(job_id)
        self._tell(job_id)
        return row

    def stop(self, grace: float) -> None:
        """Takes no more jobs; those that run write a checkpoint within `grace` seconds, stop, and are queued again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._workers.close(grace)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for job_id in list(self._later):
            with suppress(FheinferError):  # then it is queued at the next start
                self._store.requeue_job(job_id, counted=False)

    def _serve(self, slot: int) -> None:
        while not self._stopping:
            seen = self._news
            try:
                self._requeue_due()
                job = self._store.take_job(slot, self._workers.loaded(slot))
            except Exception as error:  # whatever it is, it must not end the thread
                LOG.error("no job can be taken: %s", error)
                job = None
            if job is not None:
                self._do(slot, job)
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._news != seen, timeout=_PERIOD)  # noqa: B023

    def _requeue_due(self) -> None:
        now = time.monotonic()
        for job_id, when in list(self._later.items()):
            if when <= now and self._later.pop(job_id, None) is not None:  # one thread does it
                try:
                    self._store.requeue_job(job_id)
                except FheinferError:
                    self._later[job_id] = now + _PERIOD
                    raise

    def _do(self, slot: int, job: JobRow) -> None:
        """One attempt at a job, and what becomes of it."""
        follower, began = Follower(job.seconds), time.monotonic()
        if job.attempts == 1 and job.started is not None:
            self._measure("waiting", max(0.0, job.started - job.created))
        with self._changed:
            self._running[job.id] = slot, follower
        self._tell(job.id)
        record: Callable[[], object]
        try:
            result, size = self._attempt(slot, job, follower)
            self._measure("evaluation", time.monotonic() - began)
            (self._folders.job(job.id) / BLOCK).unlink(missing_ok=True)
            record = lambda: self._store.finish_job(job.id, result, size)  # noqa: E731
        except StoppedError:
            record = lambda: self._store.requeue_job(job.id, counted=False)  # noqa: E731
        except (WorkerLostError, ResourceError) as error:
            if isinstance(error, WorkerLostError):
                self._measure("lost", time.monotonic() - began)
            record = self._again(job, error)
        except FheinferError as error:
            record = self._failure(job, error)
        except Exception as error:  # a bug, which must not end the thread
            LOG.exception("job failed")
            record = self._failure(job, BackendError(f"the service failed at this job: {type(error).__name__}"))
        self._record(record)
        with self._changed:
            del self._running[job.id]
            cancelled = job.id in self._cancelled
            self._cancelled.discard(job.id)
        if cancelled:
            self._delete(job.id)
        self._tell(job.id)

    def _attempt(self, slot: int, job: JobRow, follower: Follower) -> tuple[str, int]:
        """SHA-256 (hex) and bytes of the result, which is there and whole afterwards."""
        folders = self._folders

        def follow(event: Event) -> None:
            if job.id in self._cancelled:  # it was cancelled before the worker had it
                self._workers.cancel(slot, job.id)
            if follower(event):
                self._tell(job.id)

        task = Task(
            id=job.id,
            plan=folders.plan(job.plan),
            keys=folders.keys(job.account, job.key_id),
            key_id=job.key_id,
            input=folders.input(job.id),
            output=folders.result(job.id),
            checkpoints=folders.job(job.id),
            seconds=job.seconds,
        )
        with suppress(FheinferError):  # the service ended before it could write down that the job was done
            return check_result(folders, job)
        self._workers.run(slot, task, follow)
        return check_result(folders, job)

    def _again(self, job: JobRow, error: FheinferError) -> Callable[[], object]:
        """Another attempt, if it was not the last one."""
        if self._stopping:
            return lambda: self._store.requeue_job(job.id, counted=False)
        if job.attempts >= TRIES:
            return self._failure(job, type(error)(f"{error}; tried {job.attempts} times"))
        LOG.warning("job is tried again: %s", error)
        if isinstance(error, ResourceError):
            return lambda: self._later.update({job.id: time.monotonic() + self._retry_seconds})
        return lambda: self._store.requeue_job(job.id)

    def _failure(self, job: JobRow, error: FheinferError) -> Callable[[], object]:
        message = self._folders.hide(str(error))
        return lambda: self._store.fail_job(job.id, type(error).__name__, message)

    def _record(self, change: Callable[[], object]) -> None:
        """Writes down what became of a job, as soon as the store can; otherwise it is queued at the next start."""
        while True:
            try:
                change()
                return
            except Exception as error:
                LOG.error("cannot write down what became of a job: %s", error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopping, timeout=_PERIOD):
                        return

    def _tell(self, job_id: str) -> None:
        try:
            self._on_change(job_id)
        except Exception:  # whoever listens may be gone already; the job is done all the same
            LOG.exception("nobody could be told of a job")

    def _delete(self, job_id: str) -> None:
        shutil.rmtree(self._folders.job(job_id), ignore_errors=True)
