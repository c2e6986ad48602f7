"""Many inputs on the workers of a Ray cluster: `python -m fheinfer.service.ray_folder ADDRESS`, with the lines of
`fheinfer.worker` for a job of any number of inputs.

A process of its own, because whoever is part of a Ray cluster runs what its other machines send: whoever has the secret
key must not be.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from fheinfer.compiler.plan import load as load_plan
from fheinfer.crypto.manifest import FILE_NAME, Manifest
from fheinfer.errors import FheinferError, WorkerLostError
from fheinfer.evaluating import Event
from fheinfer.process import BROKEN_PIPE, die_with_parent, install
from fheinfer.service.ray_workers import RayWorkers
from fheinfer.service.workers import Task, Workers
from fheinfer.storage import shown

TRIES = 3
"""Workers that a task may lose before it is taken for what kills them."""


def run_folder(workers: Workers, tasks: Iterable[Task], on_event: Callable[[Task, Event], None]) -> None:
    """Does all tasks, each slot one at a time. What a worker had that was lost is done again, by whichever is free.

    Args:
        on_event: told of every event of a task, from several threads; of "end" when its outputs are there.

    Raises:
        FheinferError: of the first task that failed; those that ran then were finished, others were not begun.
    """
    waiting, lost = deque(tasks), Counter[str]()
    failed: list[BaseException] = []
    running: dict[int, str] = {}

    def work(slot: int) -> None:
        while waiting and not failed:
            try:
                task = waiting.popleft()
            except IndexError:  # another slot was faster
                return
            running[slot] = task.id
            try:
                workers.run(slot, task, lambda event, task=task: on_event(task, event))  # type: ignore[misc]
            except WorkerLostError as error:
                lost[task.id] += 1
                if lost[task.id] < TRIES:
                    waiting.append(task)
                else:
                    failed.append(WorkerLostError(f"{shown(task.input)}: {TRIES} workers were lost with it; {error}"))
            except BaseException as error:  # told by whoever waits for this thread
                failed.append(error)
            finally:
                del running[slot]

    threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(workers.slots)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C, SIGTERM
        failed.append(error)
        for slot, task in list(running.items()):
            workers.cancel(slot, task)
    if failed:
        raise failed[0]


class Folder:
    """Obeys commands as `fheinfer.worker.Worker` does: `start`, `load`, and `evaluate` with any number of inputs."""

    def __init__(self, address: str, out: IO[str]) -> None:
        self._address, self._out = address, out
        self._told = threading.Lock()
        self._workers: RayWorkers | None = None

    def run(self, lines: Iterable[str]) -> None:
        """Obeys every line in turn."""
        obey = {"start": self._start, "load": lambda command: None, "evaluate": self._evaluate}
        try:
            for line in lines:
                command = json.loads(line)
                try:
                    obey[command["do"]](command)
                except FheinferError as error:
                    self.tell("error", kind=type(error).__name__, message=str(error))
            self.tell("done", memory=0)
        finally:
            if self._workers:
                self._workers.close(0.0)

    def tell(self, event: str, **fields: Any) -> None:
        """One event as a line."""
        with self._told:
            self._out.write(json.dumps({"event": event, **fields}) + "\n")
            self._out.flush()

    def _start(self, command: Mapping[str, Any]) -> None:
        die_with_parent(int(command["parent"]))
        began = time.perf_counter()
        self._workers = RayWorkers(self._address, threads=command["threads"], memory=command["memory"])
        self.tell("ready", seconds=time.perf_counter() - began)

    def _evaluate(self, command: Mapping[str, Any]) -> None:
        if self._workers is None:
            return  # told why not
        began = time.perf_counter()
        pairs = [(Path(x), Path(y)) for x, y in zip(command["inputs"], command["outputs"], strict=True)]

        def told(task: Task, event: Event) -> None:
            nonlocal began
            if event["event"] == "end":
                seconds, began = (
                    time.perf_counter() - began,
                    time.perf_counter(),
                )  # all together: what passed on the clock
                for file, _ in task.files:
                    self.tell("input", name=file.name, seconds=seconds / len(task.files))

        run_folder(self._workers, tasks_of(Path(command["plan"]), Path(command["keys"]), pairs), told)
        self.tell("end")


def tasks_of(plan: Path, keys: Path, pairs: Sequence[tuple[Path, Path]]) -> list[Task]:
    """A task for every input, or for every two where the plan takes two at a time.

    Args:
        pairs: inputs, and where their results go.

    Raises:
        KeyStoreError, InputError, ArtifactError: see `Manifest.load` and `compiler.plan.load`.
    """
    manifest, loaded = Manifest.load(keys / FILE_NAME), load_plan(plan)
    needs = loaded.client.keys[manifest.policy]
    together = 2 if loaded.takes_two_inputs else 1
    tasks = []
    for start in range(0, len(pairs), together):
        first, *second = pairs[start : start + together]
        tasks.append(
            Task(
                f"{start}",
                plan,
                keys,
                manifest.key_id,
                *first,
                seconds=needs.seconds,
                second=second[0] if second else None,
            )
        )
    return tasks


def main() -> None:
    """Runs until standard input ends."""
    install()
    try:
        Folder(sys.argv[1], sys.stdout).run(sys.stdin)
    except BrokenPipeError:  # whoever listened is gone
        sys.exit(BROKEN_PIPE)


if __name__ == "__main__":
    main()
