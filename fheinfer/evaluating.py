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
from types import TracebackType
from typing import Any

from fheinfer import errors
from fheinfer.crypto.passphrase import VARIABLE as PASSPHRASE
from fheinfer.errors import BackendError, FheinferError, StorageError

GRACE = 2.0
"""Seconds that the evaluating process gets to end by itself. Its files are written atomically: a kill loses nothing."""


Event = Mapping[str, Any]
"""A line of the evaluating process: see `worker`."""


def ignore(event: Event) -> None:
    """Events that nobody follows."""


class EvaluatingProcess:
    """`fheinfer.worker` in a process of its own. It imports what it needs while nobody has said yet what to load, and
    loads keys while the client encrypts.

    Args:
        on_event: told of every event; may be set later.
        threads, memory: what it may use; by default all that there is.
    """

    def __init__(
        self, on_event: Callable[[Event], None] = ignore, *, threads: int | None = None, memory: int | None = None
    ) -> None:
        self.on_event = on_event
        self._limits = {"threads": threads, "memory": memory}
        self._empty = tempfile.TemporaryDirectory(prefix="fheinfer-evaluation-")
        self.load_seconds = 0.0
        self.memory = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fheinfer.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._empty.name,
            env=_environment(),
            start_new_session=True,
        )

    def load(self, plan: Path, keys: Path) -> None:
        """Says what to load, once and before the first job: the folder of a plan and the server folder of keys."""
        files = {"plan": str(plan.absolute()), "keys": str(keys.absolute())}
        self._send({**files, "parent": os.getpid(), **self._limits})

    def __enter__(self) -> EvaluatingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # Ctrl-C included; the process may be seconds deep in a bootstrap
            self._stop()
        self._empty.cleanup()

    def evaluate(
        self,
        inputs: list[Path],
        outputs: list[Path],
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        keep_layers: bool = False,
    ) -> list[float]:
        """One job: seconds of each input, in their order. One input, or two where the plan takes two at a time.

        Raises:
            FheinferError: whatever the process raised, under its own type.
        """
        self._send(
            {
                "inputs": [str(path.absolute()) for path in inputs],
                "outputs": [str(path.absolute()) for path in outputs],
                "checkpoints": str(checkpoints.absolute()) if checkpoints else None,
                "resume": resume,
                "keep_layers": keep_layers,
            }
        )
        done: list[float] = []  # results come in the order of the inputs, whose names may be the same
        for event in self._events():
            if event["event"] == "input":
                done.append(event["seconds"])
            if len(done) == len(inputs):
                return done
        raise self._ended()

    def finish(self) -> None:
        """Ends the process, which has no job left; its peak memory is known afterwards."""
        with suppress(BrokenPipeError):  # it has ended, and what was sent last is still in the buffer
            self._stdin.close()
        finished = any(event["event"] == "done" for event in self._events())
        if self._process.wait() != 0 or not finished:
            raise self._ended()

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _send(self, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it has ended: what it said is still to be read
            self._stdin.write(json.dumps(message) + "\n")
            self._stdin.flush()

    def _events(self) -> Iterator[Event]:
        for line in self._process.stdout or ():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # printed by a library, or cut short by a kill
            if event["event"] == "error":
                with suppress(subprocess.TimeoutExpired):  # it is ending by itself; a signal now makes it noisy
                    self._process.wait(timeout=GRACE)
                raise _typed(event)
            if event["event"] == "ready":
                self.load_seconds = event["seconds"]
            if event["event"] == "done":
                self.memory = event["memory"]
            self.on_event(event)
            yield event

    def _stop(self) -> None:
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

    def _ended(self) -> FheinferError:
        code = self._process.wait()
        if code == -signal.SIGBUS:  # keys are mapped files
            return StorageError(
                "the evaluating process lost a key file that it was using: shortened in place, or its disk failed; "
                "copy the keys again, or make new ones with `fheinfer keygen --force`"
            )
        how = "was killed, most likely for lack of memory" if code in (-9, 137) else f"ended with code {code}"
        return BackendError(f"the evaluating process {how}; run the same command with --resume to go on from there")


def _environment() -> dict[str, str]:
    """The evaluating process imports this very package, wherever it was found, and gets no passphrase."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    paths = f"{here}{os.pathsep}{path}" if path else here
    others = {name: value for name, value in os.environ.items() if name != PASSPHRASE}
    return {**others, "PYTHONPATH": paths}


def _typed(event: Event) -> FheinferError:
    kind = getattr(errors, str(event["kind"]), FheinferError)
    known = isinstance(kind, type) and issubclass(kind, FheinferError)
    return kind(event["message"]) if known else FheinferError(event["message"])
