"""`fheinfer evaluate`: the server as a command. Imports nothing of the client and opens no secret."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli import choices
from fheinfer.cli.options import (
    ActOption,
    BackendOption,
    KeysOption,
    MemoryOption,
    ModelOption,
    PlanOption,
    RayOption,
    ResumeOption,
    SetOption,
    ThreadsOption,
    VerboseOption,
    refuse,
)
from fheinfer.errors import InputError, UsageError
from fheinfer.optional import require

if TYPE_CHECKING:
    from fheinfer.cli.display import EvaluationView
    from fheinfer.runtime.executor import StepDone
    from fheinfer.server import Session

Job = tuple[Path, Path]
"""An encrypted input, and where its result goes."""


def evaluate(
    source: Annotated[
        Path, typer.Option("--input", "-i", metavar="FILE|DIR", help="Encrypted input, or a folder of *.ct.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE|DIR", help="Where the encrypted result goes, or a folder.")
    ],
    keys: KeysOption = None,
    plan: PlanOption = None,
    set_name: SetOption = None,
    model: ModelOption = None,
    act: ActOption = None,
    backend: BackendOption = None,
    checkpoints: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep there what --resume goes on from.")
    ] = None,
    resume: ResumeOption = False,
    keep_layers: Annotated[
        bool, typer.Option("--keep-layers", help="Keep the ciphertext of every layer among the checkpoints.")
    ] = False,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    ray: RayOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Server: evaluate a plan on encrypted inputs, with no secret at hand.

    Of a folder, results get the names of their inputs; with --resume those that are there are not made again. Plans
    without bootstraps and series evaluate two inputs at a time. DIR of --keys may also be a copy of its server/ alone.
    With --ray, --threads and --memory are those of each worker.
    """
    from fheinfer import _core
    from fheinfer.cli.display import EvaluationView, err, size
    from fheinfer.machine import choose_threads, peak_memory

    _check(source, checkpoints, resume, keep_layers)
    if ray is not None:
        _check_ray(source, verbose)
        _evaluate_on(
            ray,
            _jobs(source, output, resume),
            output,
            keys,
            choices.plan_folder(plan, set_name, model, act, backend),
            threads,
            memory,
        )
        return
    _core.keep_freed_memory()
    _core.set_threads(choose_threads(threads, err.print))
    jobs = _jobs(source, output, resume and source.is_dir())
    began = time.perf_counter()
    with EvaluationView(verbose=verbose) as view:
        folder = choices.plan_folder(plan, set_name, model, act, backend)
        session = _session(folder, keys, memory, view)
        loaded = time.perf_counter()
        _prepare(output, len(jobs), session, folder=source.is_dir())
        together = 2 if session.two_inputs and checkpoints is None else 1
        for start in range(0, len(jobs), together):
            _evaluate(session, jobs[start : start + together], view, checkpoints, resume, keep_layers)
    done = time.perf_counter()
    err.print(
        f"{output}: load keys {loaded - began:.1f} s, evaluate {done - loaded:.1f} s, peak memory {size(peak_memory())}"
    )


def _check(source: Path, checkpoints: Path | None, resume: bool, keep_layers: bool) -> None:
    if source.is_dir():
        refuse("it is for a single input, not for a folder", checkpoints=checkpoints, keep_layers=keep_layers)
    elif (resume or keep_layers) and checkpoints is None:
        raise UsageError("--resume and --keep-layers need --checkpoints DIR")


def _check_ray(source: Path, verbose: bool) -> None:
    require("ray", "evaluation on several machines")
    if not source.is_dir():
        raise UsageError("--ray is for a folder of inputs")
    refuse("workers elsewhere tell nothing by layer", verbose=verbose)


def _evaluate_on(
    ray: str, jobs: list[Job], output: Path, keys: Path | None, plan: Path, threads: int | None, memory: int | None
) -> None:
    """Every job on the workers of a Ray cluster; results appear in the order in which they are done."""
    from fheinfer.cli.display import err
    from fheinfer.cli.progress import Meter
    from fheinfer.compiler.plan import load
    from fheinfer.evaluating import EvaluatingProcess, Event
    from fheinfer.storage import make_folder, require_disk

    if not jobs:
        return
    spec = load(plan).client
    require_disk(output, len(jobs) * (spec.output_bytes + (1 << 17)))
    make_folder(output)
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        if event["event"] == "input":
            done += 1
            meter.update(done, len(jobs))

    with (
        Meter("inputs", "count", err) as meter,
        EvaluatingProcess(count, threads=threads, memory=memory, ray=ray) as process,
    ):
        meter.update(0, len(jobs))
        process.load(plan, server_keys(keys, spec.params.name))
        took = process.evaluate([file for file, _ in jobs], [file for _, file in jobs])
        process.finish()
    err.print(f"{output}: start workers {process.load_seconds:.1f} s, evaluate {sum(took):.1f} s")


def _jobs(source: Path, output: Path, resume: bool) -> list[Job]:
    """Each input to evaluate, and where its result goes."""
    from fheinfer.storage import require_writable

    if not source.is_dir():
        if not source.exists():
            raise InputError(f"{source}: no such file; check the path")
        require_writable(output)
        return [(source, output)]
    inputs = sorted(source.glob("*.ct"))
    if not inputs:
        raise InputError(f"{source}: no *.ct in this folder; encrypt inputs with `fheinfer encrypt` first")
    if output.resolve() == source.resolve():
        raise UsageError(f"{output}: results need another folder than the inputs")
    require_writable(output)
    jobs = [(file, output / file.name) for file in inputs]
    return [job for job in jobs if not (resume and job[1].exists())]


def server_keys(keys: Path | None, set_name: str) -> Path:
    """The server folder of keys: DIR/server, or DIR itself where it is a copy of that."""
    from fheinfer.crypto.key_writer import SERVER_FOLDER
    from fheinfer.crypto.manifest import FILE_NAME

    folder = choices.keys_folder(keys, set_name)
    return folder if (folder / FILE_NAME).exists() else folder / SERVER_FOLDER


def _session(plan: Path, keys: Path | None, memory: int | None, view: EvaluationView) -> Session:
    from fheinfer.crypto.keystore import ServerKeys
    from fheinfer.server import Server

    server = Server(memory_limit=memory)
    loaded = server.add(plan)
    opened = ServerKeys(server_keys(keys, loaded.params.name), identity=loaded.client.identity)
    view.expect([step.seconds.get(opened.manifest.policy, 0.0) for step in loaded.steps])
    return server.session(
        loaded, opened, progress=lambda what, part: view({"event": "load", "what": what, "fraction": part})
    )


def _prepare(output: Path, results: int, session: Session, *, folder: bool) -> None:
    """Asks for room before anything is computed."""
    from fheinfer.storage import make_folder, require_disk

    require_disk(output, results * (session.plan.client.output_bytes + (1 << 17)))
    if folder:
        make_folder(output)


def _evaluate(
    session: Session, jobs: list[Job], view: EvaluationView, checkpoints: Path | None, resume: bool, keep_layers: bool
) -> None:
    from fheinfer.crypto.ciphertexts import read_ciphertexts
    from fheinfer.storage import atomic_write
    from fheinfer.worker import step_event

    count = session.plan.client.input.ciphertexts
    inputs = [read_ciphertexts(file, session.plan.params, count) for file, _ in jobs]

    def observe(done: StepDone) -> None:
        view(step_event(done))

    results: tuple[bytes, ...]
    if len(inputs) == 2:
        results = session.evaluate_two(inputs[0], inputs[1], observer=observe)
    else:
        results = (
            session.evaluate(
                inputs[0], observer=observe, checkpoints=checkpoints, resume=resume, keep_layers=keep_layers
            ),
        )
    for (_, file), result in zip(jobs, results, strict=True):
        atomic_write(file, [result])
