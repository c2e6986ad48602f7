"""Client and server on one machine: encrypts here, evaluates in a process without the secret, decrypts here."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer import errors
from fheinfer.client import Client
from fheinfer.crypto.key_writer import SERVER_FOLDER
from fheinfer.crypto.passphrase import VARIABLE as PASSPHRASE
from fheinfer.errors import BackendError, FheinferError, StorageError, UsageError
from fheinfer.machine import peak_memory
from fheinfer.storage import atomic_write, require_disk, storage_errors

GRACE = 2.0
"""Seconds that the evaluating process gets to end by itself. Its files are written atomically: a kill loses nothing."""

F64 = NDArray[np.float64]
Event = Mapping[str, Any]
"""A line of the evaluating process: see `worker`."""


def ignore(event: Event) -> None:
    """Events that nobody follows."""


@dataclass
class Inference:
    """Outputs and what they took: seconds by phase, bytes of memory by role, bytes of files by name."""

    outputs: F64
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class Inferences:
    """Many inputs: outputs by name in the order they were given, seconds of evaluation of each, and totals."""

    outputs: dict[str, F64] = field(default_factory=dict)
    each: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


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


class Run:
    """The files of one run, in a folder of its own that no other run uses meanwhile.

    A run that fails before it has something to resume from removes what it made; `finish` removes the rest. Only files
    that a run writes are ever deleted.
    """

    FILES = ("input.ct", "result.ct", "block.ct", "layer_*.ct", "inputs/*.ct", "results/*.ct")

    def __init__(self, root: Path, name: str, *, resume: bool) -> None:
        self.resume = resume
        self._made = [path for path in (root / name, *(root / name).parents) if not path.exists()]
        for number in count(1):
            self.folder = root / (name if number == 1 else f"{name}-{number}")
            lock = _locked(self.folder)
            if lock is not None:
                self._lock = lock
                break
            if resume:
                raise UsageError(f"{self.folder}: that run is going on in another process; wait for it")
        if not resume:
            self._clear()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worth = any(next(self.folder.glob(pattern), None) for pattern in ("block.ct", "results/*.ct"))
        if error is not None and not worth:
            self.finish()
        os.close(self._lock)

    def finish(self) -> None:
        """Removes the files of the run, and folders that are empty then."""
        self._clear()
        with suppress(OSError):
            (self.folder / ".lock").unlink(missing_ok=True)
            for path in (self.folder, *self._made[1:]):
                path.rmdir()

    def _clear(self) -> None:
        for pattern in self.FILES:
            for path in self.folder.glob(pattern):
                with suppress(OSError):
                    path.unlink()
        for inner in ("inputs", "results"):
            with suppress(OSError):
                (self.folder / inner).rmdir()


def _locked(folder: Path) -> int | None:
    """Descriptor of the lock of a folder, which is made where it is not there; None where another run has it."""
    path = folder / ".lock"
    while True:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # whoever had it finished meanwhile, and removed the folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)  # of a folder that was removed


def run_name(label: str, plan: str, key_id: str, *contents: bytes) -> str:
    """The same name for the same inputs under the same plan and key, so that `--resume` finds the run."""
    digest = hashlib.sha256(f"{plan}{key_id}".encode())
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return f"{label}-{digest.hexdigest()[:16]}"


def infer(
    plan: Path,
    keys: Path,
    client: Callable[[], Client],
    x: F64,
    run: Run,
    *,
    keep_layers: bool = False,
    on_event: Callable[[Event], None] = ignore,
    threads: int | None = None,
    memory: int | None = None,
    process: EvaluatingProcess | None = None,
) -> Inference:
    """Encrypts `x` here, evaluates in a process that gets the server folder and no secret, decrypts here.

    Args:
        plan: folder with the plan.
        keys: folder with `secret` and `server`.
        client: opens the client, while the evaluating process starts.
        x: normalised.
        run: keeps the ciphertexts; what is there is used again where it resumes.
        process: one that loads this plan and these keys already; whoever started it ends it.

    Raises:
        FheinferError: whatever either role raises; errors of the evaluating process arrive under their own type.
    """
    source, result = run.folder / "input.ct", run.folder / "result.ct"
    done = Inference(np.zeros(0))
    with _loading(process, plan, keys, on_event, threads, memory) as process:
        with _timed(done.seconds, "client start"):
            opened = client()
        if not (run.resume and source.exists()):
            with _timed(done.seconds, "encrypt"):
                atomic_write(source, [opened.encrypt(x)])
        took = process.evaluate([source], [result], checkpoints=run.folder, resume=run.resume, keep_layers=keep_layers)
        with _timed(done.seconds, "decrypt"):
            done.outputs = opened.decrypt(result.read_bytes(), request=source.read_bytes())
        process.finish()
    done.seconds |= {"load keys": process.load_seconds, "evaluate": sum(took)}
    done.memory = {"client": peak_memory(), "server": process.memory}
    done.sizes = {"input": source.stat().st_size, "result": result.stat().st_size}
    return done


def infer_many(
    plan: Path,
    keys: Path,
    client: Client,
    inputs: Mapping[str, F64],
    run: Run,
    *,
    together: int = 1,
    on_event: Callable[[Event], None] = ignore,
    threads: int | None = None,
    memory: int | None = None,
    process: EvaluatingProcess | None = None,
) -> Inferences:
    """As `infer`, with all inputs in one evaluating process, which loads its keys once.

    Args:
        inputs: normalised, by names that can be file names.
        together: evaluated at a time, 1 or 2.
        run: keeps the ciphertext of every input, and each result; what is there is used again where it resumes.
        process: as of `infer`.

    Raises:
        FheinferError: whatever either role raises; inputs that were finished stay in the run.
    """
    done, spec = Inferences(), client.spec
    folders = run.folder / "inputs", run.folder / "results"
    with storage_errors(run.folder):
        for folder in folders:
            folder.mkdir(exist_ok=True)
    files = {
        name: (folders[0] / f"{number:05d}.ct", folders[1] / f"{number:05d}.ct") for number, name in enumerate(inputs)
    }
    if spec is not None:
        require_disk(run.folder, len(inputs) * (spec.input_bytes + spec.output_bytes))
    with _loading(process, plan, keys, on_event, threads, memory) as process:
        with _timed(done.seconds, "encrypt"):
            for name, x in inputs.items():
                if not (run.resume and files[name][0].exists()):
                    atomic_write(files[name][0], [client.encrypt(x)])
        waiting = [name for name in inputs if not (run.resume and files[name][1].exists())]
        for start in range(0, len(waiting), together):
            now = waiting[start : start + together]
            took = process.evaluate([files[n][0] for n in now], [files[n][1] for n in now])
            done.each |= dict(zip(now, took, strict=True))
        process.finish()
    with _timed(done.seconds, "decrypt"):
        for name, (source, result) in files.items():
            done.outputs[name] = client.decrypt(result.read_bytes(), request=source.read_bytes())
    done.seconds |= {"load keys": process.load_seconds, "evaluate": sum(done.each.values())}
    done.memory = {"client": peak_memory(), "server": process.memory}
    return done


@contextmanager
def _loading(
    process: EvaluatingProcess | None,
    plan: Path,
    keys: Path,
    on_event: Callable[[Event], None],
    threads: int | None,
    memory: int | None,
) -> Iterator[EvaluatingProcess]:
    """A process that loads the plan and the keys: the one that was started, or one for this block."""
    if process is not None:
        process.on_event = on_event
        yield process
        return
    with EvaluatingProcess(on_event, threads=threads, memory=memory) as own:
        own.load(plan, keys / SERVER_FOLDER)
        yield own


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - began


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
