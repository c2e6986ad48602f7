"""The evaluating process, as the client's side starts it, feeds it and follows it: a process without the secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Any

from fheinfer import errors
from fheinfer.crypto.passphrase import VARIABLE as PASSPHRASE
from fheinfer.errors import FheinferError, StorageError, WorkerLostError
from fheinfer.process import StoppedError

GRACE = 2.0
"""Seconds that the evaluating process gets to end by itself. Its files are written atomically: a kill loses nothing."""
WITHHELD = (PASSPHRASE, "FHEINFER_TOKEN")
"""Environment variables that the evaluating process does not get: what they hold is its client's."""

Event = Mapping[str, Any]
Command = Mapping[str, Any]
"""A line from the evaluating process, and one to it: see `worker`."""


def ignore(event: Event) -> None:
    """Events that nobody follows."""


class EvaluatingProcess:
    """`fheinfer.worker` in a process of its own. It imports what it needs while nobody has said yet what to load, and
    loads keys while the client encrypts.

    One thread gives it jobs; any may call `stop`, `cancel`, `forget` and `kill` meanwhile.

    Args:
        on_event: told of every event; may be set later.
        threads: that it may use; by default all that there are.
        memory: bytes that keys may take in it; by default all that there are.
        share: bytes that the whole process may take, in place of `memory`.
        stderr: where its standard error goes, as `subprocess` takes it; by default to that of this process.
        ray: address of the Ray cluster that evaluates; the process hands jobs on, any number of inputs each
            (`service.ray_folder`). Limits are those of each worker then.
    """

    def __init__(
        self,
        on_event: Callable[[Event], None] = ignore,
        *,
        threads: int | None = None,
        memory: int | None = None,
        share: int | None = None,
        stderr: int | None = None,
        ray: str | None = None,
    ) -> None:
        self.on_event = on_event
        self.load_seconds = 0.0
        self.memory = 0
        self.busy = False
        """Whether it has a job whose end nobody has read."""
        self._files: Command = {}
        self._sending = Lock()
        self._empty = tempfile.TemporaryDirectory(prefix="fheinfer-evaluation-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", *(("fheinfer.worker",) if ray is None else ("fheinfer.service.ray_folder", ray))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            cwd=self._empty.name,
            env=environment(),
            start_new_session=True,
        )
        self._send({"do": "start", "parent": os.getpid(), "threads": threads, "memory": memory, "share": share})

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def stderr(self) -> IO[str] | None:
        """What it writes there, where that is a pipe."""
        return self._process.stderr

    def load(self, plan: Path, keys: Path) -> None:
        """Says before the first job what the jobs will take: the folder of a plan and the server folder of keys."""
        self._files = {"plan": str(plan.absolute()), "keys": str(keys.absolute())}
        self._send({"do": "load", **self._files})

    def __enter__(self) -> EvaluatingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # Ctrl-C included; the process may be seconds deep in a bootstrap
            self.close()
        self._empty.cleanup()

    def evaluate(
        self,
        inputs: list[Path],
        outputs: list[Path],
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        **job: Any,
    ) -> list[float]:
        """One job: seconds of each input, in their order. One input, or two where the plan takes two at a time.

        Args:
            checkpoints: folder to write them to.
            resume: go on from the one that is there.
            job: whatever else `worker` says of a job: `keep_layers`; `id`, by which it can be cancelled; `plan`,
                `keys` and `key_id` where they are others than those of `load`; `every`.

        Raises:
            FheinferError: whatever the process raised, under its own type.
            WorkerLostError, StorageError: the process ended.
            StoppedError: `cancel` or `stop` was called.
        """
        self.busy = True
        self._send(
            {
                "do": "evaluate",
                "id": "",
                **self._files,
                "inputs": [str(path.absolute()) for path in inputs],
                "outputs": [str(path.absolute()) for path in outputs],
                "checkpoints": str(checkpoints.absolute()) if checkpoints else None,
                "resume": resume,
                **job,
            }
        )
        done: list[float] = []  # results come in the order of the inputs, whose names may be the same
        for event in self._events():
            if event["event"] == "input":
                done.append(event["seconds"])
            if event["event"] in ("end", "stopped"):
                self.busy = False
                if event["event"] == "stopped":
                    raise StoppedError
                return done
        raise self._ended()

    def stop(self) -> None:
        """Ends its job after the next checkpoint."""
        self._send({"do": "stop"})

    def cancel(self, job: str) -> None:
        """Ends the job of that `id` after its current step, if it has one."""
        self._send({"do": "cancel", "id": job})

    def forget(self, key_id: str) -> None:
        """Lets the keys of that id leave its memory, after its job."""
        self._send({"do": "forget", "key_id": key_id})

    def finish(self) -> None:
        """Ends the process, which has no job left; its peak memory is known afterwards."""
        with suppress(BrokenPipeError):  # it has ended, and what was sent last is still in the buffer
            self._stdin.close()
        finished = any(event["event"] == "done" for event in self._events())
        if self._process.wait() != 0 or not finished:
            raise self._ended()

    def kill(self) -> None:
        """Ends it at once; whoever waits for its job is told."""
        self._process.kill()

    def close(self) -> None:
        """Ends it, whatever it does."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream:
                    stream.close()
        self._empty.cleanup()

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _send(self, command: Command) -> None:
        # It may have ended: what it said is still to be read. Or it was closed by another thread.
        with self._sending, suppress(BrokenPipeError, ValueError):
            self._stdin.write(json.dumps(command) + "\n")
            self._stdin.flush()

    def _events(self) -> Iterator[Event]:
        for line in self._process.stdout or ():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # cut short by a kill
            if not isinstance(event, dict) or "event" not in event:
                continue  # printed by a library
            if event["event"] == "error":
                self.busy = False
                raise typed(event)
            if event["event"] == "ready":
                self.load_seconds = event["seconds"]
            if event["event"] == "done":
                self.memory = event["memory"]
            self.on_event(event)
            yield event

    def _ended(self) -> FheinferError:
        code = self._process.wait()
        if code == -signal.SIGBUS:  # keys are mapped files
            return StorageError(
                "the evaluating process lost a key file that it was using: shortened in place, or its disk failed; "
                "copy the keys again, or make new ones with `fheinfer keygen --force`"
            )
        how = "was killed, most likely for lack of memory" if code in (-9, 137) else f"ended with code {code}"
        return WorkerLostError(f"the evaluating process {how}; run the same command with --resume to go on from there")


def environment() -> dict[str, str]:
    """For a process that imports this very package, wherever it was found: this one's environment, less `WITHHELD`."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    paths = f"{here}{os.pathsep}{path}" if path else here
    others = {name: value for name, value in os.environ.items() if name not in WITHHELD}
    return {**others, "PYTHONPATH": paths}


def typed(event: Event) -> FheinferError:
    """The error that an event tells of, under its own type."""
    kind = getattr(errors, str(event["kind"]), FheinferError)
    known = isinstance(kind, type) and issubclass(kind, FheinferError)
    return kind(event["message"]) if known else FheinferError(event["message"])
