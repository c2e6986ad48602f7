"""One picture from file to logits: client, server process, client. What `fheinfer infer` and `precision` run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer import errors
from fheinfer.client import Client
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.keystore import Manifest
from fheinfer.crypto.storage import atomic_write, require_disk, storage_errors
from fheinfer.errors import BackendError, FheinferError, StorageError
from fheinfer.machine import peak_memory

GRACE = 2.0
"""Seconds a server process gets to end by itself. Its files are written atomically, so a kill loses nothing."""

Event = Mapping[str, Any]
"""A line of progress from the server process: see `server_cli.evaluate`."""


@dataclass
class Inference:
    """Logits and what they took. Seconds by phase, bytes of memory by role, bytes of files by name."""

    logits: NDArray[np.float64]
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class Inferences:
    """Many pictures: logits by name in the order they were given, seconds of evaluation of each, and totals."""

    logits: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    each: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def run_folder(runs: Path, plan: Plan, image: NDArray[np.uint8], key_id: str) -> Path:
    """Where a run of this plan on these pixels under this key keeps its files, so that `--resume` finds them."""
    name = hashlib.sha256(plan.client.plan.encode() + key_id.encode() + image.tobytes()).hexdigest()[:16]
    return runs / f"set{plan.params.name}-{name}"


def infer_encrypted(
    plan: Plan,
    picture: NDArray[np.float64],
    keys: Path,
    weights: Path,
    folder: Path,
    *,
    resume: bool = False,
    keep_layers: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Inference:
    """Encrypts here, evaluates in a process that gets the server folder and no secret, decrypts here.

    Args:
        picture: normalised (C, H, W).
        keys: folder with `secret` and `server`.
        weights: file the server process reads.
        folder: where ciphertexts of this run are kept; `input.ct` is used again with `resume`.

    Raises:
        FheinferError: whatever either role raises; errors of the server process arrive under their own type.
    """
    with _run_files(folder):
        return _infer(plan, picture, keys, weights, folder, resume=resume, keep_layers=keep_layers, on_event=on_event)


def infer_many(
    plan: Plan,
    pictures: Mapping[str, NDArray[np.float64]],
    keys: Path,
    weights: Path,
    folder: Path,
    *,
    resume: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Inferences:
    """As `infer_encrypted`, with all pictures in one server process, which loads its keys once.

    Args:
        pictures: normalised, by names that can be file names.
        folder: keeps a ciphertext of every picture, and each result; with `resume` what is there is used again.

    Raises:
        FheinferError: whatever either role raises; pictures that were finished stay in the folder.
    """
    with _run_files(folder, worth_keeping="results/*.ct"):
        return _infer_many(plan, pictures, keys, weights, folder, resume, on_event)


def _infer_many(
    plan: Plan,
    pictures: Mapping[str, NDArray[np.float64]],
    keys: Path,
    weights: Path,
    folder: Path,
    resume: bool,
    on_event: Callable[[Event], None],
) -> Inferences:
    client, done = Client(keys), Inferences()
    inputs, results = folder / "inputs", folder / "results"
    with storage_errors(folder):
        inputs.mkdir(exist_ok=True)
        results.mkdir(exist_ok=True)
    require_disk(folder, len(pictures) * (plan.prediction.input_bytes + plan.prediction.output_bytes))
    began = time.perf_counter()
    for name, picture in pictures.items():
        if not (resume and (inputs / f"{name}.ct").exists()):
            atomic_write(inputs / f"{name}.ct", [client.encrypt(picture, plan.client)])
    done.seconds["encrypt"] = time.perf_counter() - began

    def note(event: Event) -> None:
        if event["event"] == "picture":
            done.each[event["name"].removesuffix(".ct")] = event["seconds"]
        on_event(event)

    places = ["--keys", keys / "server", "--weights", weights, "--input", inputs, "--output", results]
    final = _run_server([*(str(a) for a in places), *(["--resume"] if resume else [])], note)
    began = time.perf_counter()
    for name in pictures:
        done.logits[name] = client.decrypt((results / f"{name}.ct").read_bytes())
    done.seconds["decrypt"] = time.perf_counter() - began
    done.seconds.update(final["seconds"])
    done.memory = {"client": peak_memory(), "server": final["memory"]}
    return done


@contextmanager
def _run_files(folder: Path, worth_keeping: str = "block.ct") -> Iterator[None]:
    """Makes the folder; a run that fails before it has something to resume from takes away all that was made."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not any(folder.glob(worth_keeping)):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                for path in made[1:]:
                    path.rmdir()
        raise


def _infer(
    plan: Plan,
    picture: NDArray[np.float64],
    keys: Path,
    weights: Path,
    folder: Path,
    *,
    resume: bool,
    keep_layers: bool,
    on_event: Callable[[Event], None],
) -> Inference:
    source, result = folder / "input.ct", folder / "result.ct"
    began = time.perf_counter()
    client = Client(keys)
    done = Inference(np.zeros(0))
    done.seconds["client start"] = time.perf_counter() - began
    if not (resume and source.exists()):
        began = time.perf_counter()
        atomic_write(source, [client.encrypt(picture, plan.client)])
        done.seconds["encrypt"] = time.perf_counter() - began
    arguments = [
        "--keys",
        keys / "server",
        "--weights",
        weights,
        "--input",
        source,
        "--output",
        result,
        "--checkpoints",
        folder,
        *(["--resume"] if resume else []),
        *(["--keep-layers"] if keep_layers else []),
    ]
    final = _run_server([str(a) for a in arguments], on_event)
    began = time.perf_counter()
    done.logits = client.decrypt(result.read_bytes())
    done.seconds["decrypt"] = time.perf_counter() - began
    done.seconds.update(final["seconds"])
    done.memory = {"client": peak_memory(), "server": final["memory"]}
    done.sizes = {
        "input": source.stat().st_size,
        "result": result.stat().st_size,
        "server keys": Manifest.load(keys / "server" / "manifest.json").total_bytes,
    }
    return done


def _run_server(arguments: list[str], on_event: Callable[[Event], None]) -> Event:
    """`fheinfer evaluate` in a process of its own, in an empty folder; returns its last event."""
    arguments = [a if a.startswith("--") else str(Path(a).absolute()) for a in arguments]
    with (
        tempfile.TemporaryDirectory(prefix="fheinfer-server-") as empty,
        subprocess.Popen(
            [sys.executable, "-m", "fheinfer", "evaluate", *arguments, "--events"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=empty,
            env=_environment(),
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        final: Event = {}
        try:
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "error":
                    with suppress(subprocess.TimeoutExpired):  # it is ending by itself; a signal now makes it noisy
                        process.wait(timeout=GRACE)
                    raise _typed(event)
                if event["event"] == "done":
                    final = event
                on_event(event)
        except BaseException:  # Ctrl-C included; the server may be seconds deep in a bootstrap
            process.terminate()
            try:
                process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        code = process.wait()
    if code != 0 or not final:
        if code == -signal.SIGBUS:  # keys are mapped files
            raise StorageError(
                "the server process lost a key file that it was using: shortened in place, or its disk failed; "
                "copy the keys again, or make new ones with `fheinfer keygen --force`"
            )
        how = "was killed, most likely for lack of memory" if code in (-9, 137) else f"ended with code {code}"
        raise BackendError(f"the server process {how}; run the same command with --resume to go on from its last block")
    return final


def _environment() -> dict[str, str]:
    """The server imports this very package, wherever the client found it."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    paths = f"{here}{os.pathsep}{path}" if path else here
    return {**os.environ, "PYTHONPATH": paths, "FHEINFER_PARENT": str(os.getpid())}


def _typed(event: Event) -> FheinferError:
    kind = getattr(errors, str(event["kind"]), FheinferError)
    return (
        kind(event["message"])
        if isinstance(kind, type) and issubclass(kind, FheinferError)
        else FheinferError(event["message"])
    )
