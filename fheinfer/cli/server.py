"""`fheinfer evaluate`: the server role as a command. Imports nothing of the client."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fheinfer import _core
from fheinfer.crypto.artifact import MAX_META
from fheinfer.crypto.keystore import Manifest
from fheinfer.crypto.params import ParameterSet, ciphertext_bound, parameter_set
from fheinfer.errors import FheinferError, InputError
from fheinfer.machine import choose_threads, peak_memory
from fheinfer.model.model import load as load_weights
from fheinfer.process import die_with_parent
from fheinfer.runtime.executor import StepDone
from fheinfer.server import Server
from fheinfer.storage import atomic_write, read_small, require_disk, require_writable, storage_errors


def evaluate(
    keys: Annotated[Path, typer.Option("--keys", help="The server folder of the keys, e.g. keys/set1/server.")],
    source: Annotated[Path, typer.Option("--input", "-i", help="Encrypted picture, or a folder of *.ct.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the encrypted result goes, or a folder.")],
    weights: Annotated[Path | None, typer.Option("--weights", help="Weights (.safetensors); ours by default.")] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder to resume from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last finished block.")] = False,
    keep_layers: Annotated[bool, typer.Option("--keep-layers", help="Write every layer's ciphertext there.")] = False,
    threads: Annotated[int | None, typer.Option(help="Cores to use; all by default.")] = None,
    events: Annotated[bool, typer.Option("--events", hidden=True)] = False,
) -> None:
    """Server: evaluate the network on encrypted pictures, with no secret at hand.

    Of a folder, results get the names of their pictures; with --resume those that are there are not made again. Sets
    without bootstraps evaluate two pictures at a time. With
    the hidden --events it writes a JSON object a line: {"event": "load" | "step" | "picture" | "done" | "error", ...}.
    """
    from fheinfer.data.resources import default_weights

    def tell(event: str, **fields: Any) -> None:
        if events:
            sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
            sys.stdout.flush()

    def step(done: StepDone) -> None:
        tell(
            "step",
            index=done.index,
            total=done.total,
            step=done.step.name,
            op=done.step.op,
            level=done.level,
            seconds=done.seconds,
            predicted=done.step.seconds,
        )

    if events and os.environ.get("FHEINFER_PARENT", "").isdigit():
        die_with_parent(int(os.environ["FHEINFER_PARENT"]))
    try:
        _core.keep_freed_memory()
        _core.set_threads(choose_threads(threads, lambda message: sys.stderr.write(f"{message}\n")))
        if source.is_dir():
            if checkpoints or keep_layers:
                raise InputError("--checkpoints and --keep-layers are for a single picture, not for a folder")
        elif (resume or keep_layers) and checkpoints is None:
            raise InputError("--resume and --keep-layers need --checkpoints FOLDER")
        jobs = _jobs(source, output, resume)
        require_writable(output)
        began = time.perf_counter()
        network = parameter_set(Manifest.load(keys / "manifest.json").set_name).network
        server = Server(
            keys,
            load_weights(weights or default_weights(network)),
            progress=lambda what, fraction: tell("load", what=what, fraction=fraction),
        )
        require_disk(output, len(jobs) * (server.plan.prediction.output_bytes + MAX_META))
        if source.is_dir():
            with storage_errors(output):
                output.mkdir(exist_ok=True)
        loaded = time.perf_counter()
        together = 2 if server.params.two_pictures and not checkpoints else 1
        for start in range(0, len(jobs), together):
            now = jobs[start : start + together]
            started = time.perf_counter()
            pictures = [read_input(picture, server.params) for picture, _ in now]
            if len(pictures) == 2:
                results = list(server.evaluate_two(pictures[0], pictures[1], observer=step))
            else:
                result = server.evaluate(
                    pictures[0], observer=step, checkpoints=checkpoints, resume=resume, keep_layers=keep_layers
                )
                results = [result]
            for index, ((picture, result_file), result) in enumerate(zip(now, results, strict=True), start):
                atomic_write(result_file, [result])
                seconds_taken = (time.perf_counter() - started) / len(now)
                tell("picture", index=index, total=len(jobs), name=picture.name, seconds=seconds_taken)
        seconds = {"load keys": loaded - began, "evaluate": time.perf_counter() - loaded}
    except FheinferError as error:
        if not events:
            raise
        tell("error", kind=type(error).__name__, message=str(error))
        sys.exit(error.exit_code)
    tell("done", seconds=seconds, memory=peak_memory())
    if not events:
        sys.stderr.write(
            f"{output}: "
            + ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
            + f", peak memory {peak_memory() / 1e9:.2f} GB\n"
        )


def _jobs(source: Path, output: Path, resume: bool) -> list[tuple[Path, Path]]:
    """Each picture to evaluate, and where its result goes."""
    if not source.is_dir():
        return [(source, output)]
    pictures = sorted(source.glob("*.ct"))
    if not pictures:
        raise InputError(f"{source}: no *.ct in this folder; encrypt pictures with `fheinfer encrypt` first")
    if output.resolve() == source.resolve():
        raise InputError(f"{output}: results need another folder than the pictures")
    jobs = [(picture, output / picture.name) for picture in pictures]
    return [job for job in jobs if not (resume and job[1].exists())]


def read_input(path: Path, params: ParameterSet) -> bytes:
    """A ciphertext file, refused unread when it is larger than any ciphertext of the set."""
    try:
        return read_small(path, ciphertext_bound(params) + (1 << 17))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
