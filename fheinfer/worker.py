"""The evaluating process: `python -m fheinfer.worker`, started by whoever has encrypted inputs in files.

It holds no secret and imports nothing of the client. On standard input it takes commands in JSON, one object per line,
and ends when its input does. `start` comes first; `load` says ahead what jobs will need; `cancel` and `stop` are obeyed
while a job runs, after its step: `stop` once it has a checkpoint, from which the same job goes on later.

    {"do": "start", "parent": PID, "memory": BYTES or null, "share": BYTES or null, "threads": N or null}
    {"do": "load", "plan": DIR, "keys": DIR}
    {"do": "evaluate", "id": ID, "plan": DIR, "keys": DIR, "inputs": [FILE] or [FILE, FILE], "outputs": [FILE, ...],
     "checkpoints": DIR or null, "every": SECONDS, "resume": false, "keep_layers": false}
    {"do": "cancel", "id": ID}          {"do": "stop"}          {"do": "forget", "key_id": KEY ID}

`memory` is what keys and constants may take, `share` what the whole process may. On standard output it writes events,
one object per line. An error of a job is one of them, and the process goes on:

    {"event": "plan", "seconds": [predicted, ...]}          {"event": "load", "what": "keys", "fraction": 0.5}
    {"event": "ready", "seconds": 0.4}
    {"event": "step", "index": 3, "total": 25, ...}         {"event": "input", "name": ..., "seconds": ...}
    {"event": "loaded", "keys": [KEY ID, ...]}              before each of the three that end a job:
    {"event": "end"}     {"event": "stopped"}               {"event": "error", "kind": ..., "message": ...}
    {"event": "done", "memory": BYTES}                      the process ends
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from fheinfer import _core
from fheinfer.compiler.plan import BASE_MEMORY, RING_MEMORY, Plan
from fheinfer.compiler.plan import FILE_NAME as PLAN_FILE
from fheinfer.crypto.ciphertexts import read_ciphertexts
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.crypto.manifest import FILE_NAME as MANIFEST_FILE
from fheinfer.errors import FheinferError, NotEnoughMemoryError
from fheinfer.machine import peak_memory
from fheinfer.process import BROKEN_PIPE, StoppedError, die_with_parent, install
from fheinfer.runtime.checkpoints import Pace
from fheinfer.runtime.executor import StepDone
from fheinfer.server import Server, Session
from fheinfer.storage import atomic_write

Command = dict[str, Any]
KEPT_PLANS = 32
"""That stay in memory: the least recently used goes first, and is read again when it is needed."""


class Job:
    """A job that waits or runs, and what was said of it meanwhile."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.cancelled = False
        self.pace = Pace(command.get("every") or 0.0)
        self.checkpoints = Path(command["checkpoints"]) if command.get("checkpoints") else None

    def check(self, *, begun: bool = True) -> None:
        """Raises StoppedError where the job has to end now, and not at its next checkpoint."""
        if self.cancelled or (self.pace.stop and not (begun and self.checkpoints)):
            raise StoppedError


class Worker:
    """Obeys commands with one server, and tells `out` what happens."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._commands: SimpleQueue[Command | Job | None] = SimpleQueue()
        self._jobs: list[Job] = []
        self._server = Server()
        self._plans: dict[Path, tuple[object, Plan]] = {}
        self._session: tuple[object, Session] | None = None

    def run(self, lines: Iterable[str | bytes]) -> None:
        """Obeys every line: `cancel` and `stop` at once, the others in turn."""
        threading.Thread(target=self._read, args=(lines,), name="fheinfer-commands", daemon=True).start()
        obey = {"start": self._start, "load": self._load, "forget": self._forget}
        while (command := self._commands.get()) is not None:
            if isinstance(command, Job):
                self._evaluate(command)
            else:
                obey[command["do"]](command)
        self.tell("done", memory=peak_memory())

    def tell(self, event: str, **fields: Any) -> None:
        """One event as a line."""
        self._out.write(json.dumps({"event": event, **fields}) + "\n")
        self._out.flush()

    def _read(self, lines: Iterable[str | bytes]) -> None:
        try:
            for line in lines:
                command = json.loads(line)
                if command["do"] == "evaluate":
                    job = Job(command)
                    self._jobs.append(job)
                    self._commands.put(job)
                elif command["do"] == "stop":
                    for job in list(self._jobs):
                        job.pace.stop = True
                elif command["do"] == "cancel":
                    for job in list(self._jobs):
                        job.cancelled = job.cancelled or job.command["id"] == command["id"]
                else:
                    self._commands.put(command)
        finally:
            self._commands.put(None)

    def _start(self, command: Command) -> None:
        die_with_parent(int(command["parent"]))
        if command.get("threads"):
            _core.set_threads(int(command["threads"]))
        memory, share = command.get("memory"), command.get("share")
        self._server = Server(memory_limit=memory if share is None else max(0, share - BASE_MEMORY - RING_MEMORY))

    def _load(self, command: Command) -> None:
        try:
            self._open(command)
        except (FheinferError, MemoryError) as error:
            self._fail(error)

    def _evaluate(self, job: Job) -> None:
        try:
            job.check(begun=False)
            self._run(job, self._open(job.command))
            ending: Callable[[], None] = partial(self.tell, "end")
        except StoppedError:
            ending = partial(self.tell, "stopped")
        except (FheinferError, MemoryError) as error:
            ending = partial(self._fail, error)
        self._jobs.remove(job)
        self.tell("loaded", keys=sorted(self._server.keys.key_ids))
        ending()

    def _forget(self, command: Command) -> None:
        self._session = None
        self._server.keys.drop(command["key_id"])

    def _fail(self, error: FheinferError | MemoryError) -> None:
        if isinstance(error, MemoryError):
            error = NotEnoughMemoryError("the evaluating process ran out of memory; raise --memory, or try again later")
        self.tell("error", kind=type(error).__name__, message=str(error))

    def _open(self, command: Command) -> Session:
        """The session of a plan and keys: that of the last job where they are the same."""
        began = time.perf_counter()
        plan, folder = self._plan(Path(command["plan"])), Path(command["keys"])
        key_id = command.get("key_id")
        which = plan.identity, folder, key_id, _state(folder / MANIFEST_FILE)
        last = self._session[1] if self._session is not None and self._session[0] == which else None
        keys = last.keys if last else ServerKeys(folder, identity=plan.client.identity, key_id=key_id)
        self.tell("plan", seconds=[step.seconds.get(keys.manifest.policy, 0.0) for step in plan.steps])
        if last:
            return last
        session = self._server.session(
            plan, keys, progress=lambda what, fraction: self.tell("load", what=what, fraction=fraction)
        )
        self._session = which, session
        self.tell("ready", seconds=time.perf_counter() - began)
        return session

    def _plan(self, folder: Path) -> Plan:
        """The plan in a folder, which is read again where its file is another one than last time."""
        state, known = _state(folder / PLAN_FILE), self._plans.pop(folder, None)
        if known is not None and known[0] != state:
            self._server.discard(known[1].identity)
            known = None
        self._plans[folder] = known or (state, self._server.add(folder))  # the last one is the last used
        if len(self._plans) > KEPT_PLANS:
            self._server.discard(self._plans.pop(next(iter(self._plans)))[1].identity)
        return self._plans[folder][1]

    def _run(self, job: Job, session: Session) -> None:
        command, began = job.command, time.perf_counter()
        files = [Path(name) for name in command["inputs"]]
        count = session.plan.client.input.ciphertexts
        inputs = [read_ciphertexts(file, session.plan.params, count) for file in files]

        def observe(done: StepDone) -> None:
            self.tell(**step_event(done))
            job.check()

        if len(inputs) == 2 and session.two_inputs:
            results = list(session.evaluate_two(inputs[0], inputs[1], observer=observe))
        else:
            results = [
                session.evaluate(
                    encrypted,
                    observer=observe,
                    checkpoints=job.checkpoints,
                    pace=job.pace,
                    resume=bool(command.get("resume")),
                    keep_layers=bool(command.get("keep_layers")),
                )
                for encrypted in inputs
            ]
        for file, name, result in zip(files, command["outputs"], results, strict=True):
            atomic_write(Path(name), [result])
            self.tell("input", name=file.name, seconds=(time.perf_counter() - began) / len(results))


def step_event(done: StepDone) -> dict[str, Any]:
    """What is told of a step that is done."""
    return {
        "event": "step",
        "index": done.index,
        "total": done.total,
        "step": done.step.name,
        "op": done.step.op.kind,
        "level": done.level,
        "seconds": done.seconds,
    }


def _state(path: Path) -> object:
    """What tells whether a file is still the one that was read; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _lines(descriptor: int) -> Iterator[bytes]:
    """Lines as they arrive. Nothing is locked while it waits: a buffered stream would be, and the process could not end
    by a signal then."""
    rest = b""
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def main() -> None:
    """Runs until standard input ends."""
    install()
    _core.keep_freed_memory()
    try:
        Worker(sys.stdout).run(_lines(0))
    except BrokenPipeError:  # whoever listened is gone
        sys.exit(BROKEN_PIPE)


if __name__ == "__main__":
    main()
