"""What the page asks for, one run at a time. Everything is in the memory of this process, and nothing on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fheinfer.errors import FheinferError, JobError, NotFoundError, UnreachableError
from fheinfer.service.page.answers import answers
from fheinfer.service.page.clear import InClear
from fheinfer.service.page.steps import F64, SAMPLE, Run, Stopped
from fheinfer.service.remote import RemoteModel

T = TypeVar("T")

KEPT = 50
"""Runs in the history; the oldest is forgotten first."""
FIRST_PAUSE, LAST_PAUSE = 0.5, 4.0
"""Seconds between two tries while the service does not answer."""
GRACE = 10.0
"""Seconds that a run gets to stop."""


class Runs:
    """The runs of a session by number, of which one may be going on. Every method may be called by any thread.

    Args:
        open_model: the model of that name of the service.
        in_clear: computes what answers are compared with.
    """

    def __init__(self, open_model: Callable[[str], RemoteModel], in_clear: InClear) -> None:
        self._open, self._clear = open_model, in_clear
        self._lock = threading.Lock()
        self._runs: dict[int, Run] = {}
        self._number = 0
        self._thread: threading.Thread | None = None
        self._side = ThreadPoolExecutor(1, thread_name_prefix="fheinfer-plain")  # importing PyTorch takes seconds

    def start(self, model: str, name: str, pixels: NDArray[np.uint8], x: F64, *, compare: bool) -> Run:
        """Begins a run of an image and its normalised form.

        Raises:
            JobError: another one is going on.
        """
        with self._lock:
            if any(run.going_on for run in self._runs.values()):
                raise JobError("another image is on its way; wait for its answer, or stop it")
            self._number += 1
            run = self._runs[self._number] = Run(self._number, model, name, pixels, x, compare)
            while len(self._runs) > KEPT:
                del self._runs[next(iter(self._runs))]
            self._thread = threading.Thread(target=self._work, args=(run,), name="fheinfer-run", daemon=True)
            self._thread.start()
        return run

    def run(self, number: int) -> Run:
        """The run of that number.

        Raises:
            NotFoundError: there is none, or not any more.
        """
        with self._lock:
            if number in self._runs:
                return self._runs[number]
        raise NotFoundError("this image is no longer in the history; choose it again")

    def all(self) -> list[Run]:
        """Every run, the newest first."""
        with self._lock:
            return list(reversed(self._runs.values()))

    def stop(self, run: Run) -> None:
        """Stops a run that goes on, and has the service delete its job."""
        run.stopping.set()
        if run.job and run.going_on:
            self._forget(run)

    def clear(self) -> None:
        """Forgets every run but the one that goes on."""
        with self._lock:
            self._runs = {number: run for number, run in self._runs.items() if run.going_on}

    def close(self) -> None:
        """Stops what goes on, and waits until it has stopped: no thread may be in native code when the process ends."""
        self._side.shutdown(wait=False, cancel_futures=True)
        for run in self.all():
            self.stop(run)
        if self._thread is not None:
            self._thread.join(GRACE)

    def _work(self, run: Run) -> None:
        try:
            self._steps(run)
            run.finish("done")
        except Stopped:
            run.finish("stopped")
        except FheinferError as error:
            run.finish("stopped" if run.stopping.is_set() else "failed", error)
        except Exception as error:
            run.finish(
                "failed", FheinferError(f"this is a fault of fheinfer ({type(error).__name__}); please report it")
            )
            raise

    def _steps(self, run: Run) -> None:
        with run.step("keys"):
            model = self._patiently(run, lambda: self._open(run.model))
            self._patiently(run, lambda: model.prepare(run.follow))
        with run.step("encrypt"):
            encrypted = model.encrypt(run.x)
            run.sent, run.sample = len(encrypted), encrypted[len(encrypted) // 2 :][:SAMPLE]
        with run.step("upload"):
            run.job = self._patiently(run, lambda: model.submit(encrypted)).id
        plain = self._side.submit(self._clear.outputs, model.spec, run.x) if run.compare else None
        run.begin("queue")
        job = self._patiently(run, lambda: model.follow(run.job, run.follow))
        if job.state != "done":
            self._forget(run)
            raise model.failure(job)
        run.end("queue")
        with run.step("layers"):  # which nobody saw where the service was away meanwhile
            pass
        with run.step("result"):
            result = self._patiently(run, lambda: model.result(run.job, encrypted))
        with run.step("decrypt"):
            outputs = model.decrypt(result, encrypted)
            run.answers = answers(outputs, model.spec, None)
        if plain is not None:
            try:
                run.answers = answers(outputs, model.spec, plain.result())
            except Exception as error:  # of PyTorch or a model file: the answer is there all the same
                run.note = (
                    str(error) if isinstance(error, FheinferError) else f"PyTorch failed ({type(error).__name__})"
                )

    def _patiently(self, run: Run, work: Callable[[], T]) -> T:
        """Does what may be done again, until the service answers.

        Raises:
            Stopped: the person does not want to wait any longer.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                found = work()
            except UnreachableError as error:
                run.wait(error)
                if run.stopping.wait(pause):
                    raise Stopped from None
                pause = min(2 * pause, LAST_PAUSE)
            else:
                run.resume()
                return found

    def _forget(self, run: Run) -> None:
        """The service deletes input and result at once; where it does not answer, when their time is over."""
        with suppress(FheinferError):
            self._open(run.model).delete(run.job)
