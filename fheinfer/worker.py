"""The evaluating process: `python -m fheinfer.worker`, started by whoever has encrypted inputs in files.

It holds no secret and imports nothing of the client. On standard input it takes JSON, one object per line: first what
to load, then one object per job; it ends when its input does. On standard output it writes events, one object per line:

    {"plan": DIR, "keys": DIR, "parent": PID, "memory": BYTES or null, "threads": N or null}
    {"inputs": [FILE] or [FILE, FILE], "outputs": [FILE, ...], "checkpoints": DIR or null, "resume": false, ...}

    {"event": "plan", "seconds": [predicted, ...]}          {"event": "load", "what": "keys", "fraction": 0.5}
    {"event": "ready", "seconds": 0.4}
    {"event": "step", "index": 3, "total": 25, ...}         {"event": "input", "name": ..., "seconds": ...}
    {"event": "done", "memory": BYTES}                      {"event": "error", "kind": ..., "message": ...}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from fheinfer import _core
from fheinfer.crypto.ciphertexts import read_ciphertexts
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.errors import FheinferError
from fheinfer.machine import peak_memory
from fheinfer.process import BROKEN_PIPE, die_with_parent, install
from fheinfer.runtime.executor import StepDone
from fheinfer.server import Server, Session
from fheinfer.storage import atomic_write


class Worker:
    """Serves the lines of `jobs` with one session, and tells `out` what happens."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def run(self, lines: Iterable[str]) -> None:
        """Loads what the first line says and does the job of every other one."""
        jobs = (json.loads(line) for line in lines)
        session: Session | None = None
        for job in jobs:
            if session is None:
                session = self._load(job)
            else:
                self._evaluate(session, job)
        self.tell("done", memory=peak_memory())

    def tell(self, event: str, **fields: Any) -> None:
        """One event as a line."""
        self._out.write(json.dumps({"event": event, **fields}) + "\n")
        self._out.flush()

    def _load(self, job: dict[str, Any]) -> Session:
        die_with_parent(int(job["parent"]))
        began = time.perf_counter()
        if job.get("threads"):
            _core.set_threads(int(job["threads"]))
        server = Server(memory_limit=job.get("memory"))
        plan = server.add(Path(job["plan"]))
        keys = ServerKeys(Path(job["keys"]), identity=plan.client.identity)
        policy = keys.manifest.policy
        self.tell("plan", seconds=[step.seconds.get(policy, 0.0) for step in plan.steps])
        session = server.session(
            plan, keys, progress=lambda what, fraction: self.tell("load", what=what, fraction=fraction)
        )
        self.tell("ready", seconds=time.perf_counter() - began)
        return session

    def _evaluate(self, session: Session, job: dict[str, Any]) -> None:
        began = time.perf_counter()
        files = [Path(name) for name in job["inputs"]]
        count = session.plan.client.input.ciphertexts
        inputs = [read_ciphertexts(file, session.plan.params, count) for file in files]
        checkpoints = Path(job["checkpoints"]) if job.get("checkpoints") else None
        if len(inputs) == 2 and session.two_inputs:
            results = list(session.evaluate_two(inputs[0], inputs[1], observer=self._step))
        else:
            results = [
                session.evaluate(
                    encrypted,
                    observer=self._step,
                    checkpoints=checkpoints,
                    resume=bool(job.get("resume")),
                    keep_layers=bool(job.get("keep_layers")),
                )
                for encrypted in inputs
            ]
        for file, name, result in zip(files, job["outputs"], results, strict=True):
            atomic_write(Path(name), [result])
            seconds = (time.perf_counter() - began) / len(results)
            self.tell("input", name=file.name, seconds=seconds)

    def _step(self, done: StepDone) -> None:
        self.tell(**step_event(done))


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


def main() -> None:
    """Runs until standard input ends; an error of ours is an event and its exit code."""
    install()
    _core.keep_freed_memory()
    worker = Worker(sys.stdout)
    try:
        worker.run(sys.stdin)
    except FheinferError as error:
        worker.tell("error", kind=type(error).__name__, message=str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever listened is gone
        sys.exit(BROKEN_PIPE)


if __name__ == "__main__":
    main()
