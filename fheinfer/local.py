"""Client and server on one machine: encrypts here, evaluates in a process without the secret, decrypts here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.client import Client
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.key_writer import SERVER_FOLDER
from fheinfer.crypto.keygen import keygen
from fheinfer.evaluating import EvaluatingProcess, Event, ignore
from fheinfer.machine import peak_memory
from fheinfer.runs import Run
from fheinfer.storage import atomic_write, require_disk, storage_errors

F64 = NDArray[np.float64]


@dataclass
class Inference:
    """Outputs by name, as the server computed them, and what they took: seconds by phase, bytes of memory by role,
    bytes of files by name."""

    outputs: dict[str, F64] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class Inferences:
    """Many inputs: the outputs of each, in the order they were given, seconds of evaluation of each, and totals."""

    outputs: dict[str, dict[str, F64]] = field(default_factory=dict)
    each: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def infer(
    plan: Plan | Path | str,
    x: NDArray[np.floating],
    *,
    keys: Path | str | None = None,
    threads: int | None = None,
    memory: int | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Any:
    """What the network returns of normalised inputs, computed encrypted: a trial of both roles on this machine.

    Keys are made, `x` is encrypted and the result decrypted here; evaluated is in a process without the secret.

    Args:
        plan: a plan, or the folder that it was saved in.
        x: one input, or several along a first axis.
        keys: folder of keys, made there where there are none yet; without one, keys are made for this call only.
        threads: that the evaluating process may use; by default all that there are.
        memory: bytes that it may use; by default all that there are.
        on_event: told of every event of that process (`fheinfer.worker`).

    Returns:
        As `Client.decrypt`, of several inputs with a first axis for them.

    Raises:
        FheinferError: whatever either role raises.
    """
    values = np.asarray(x, np.float64)
    with TemporaryDirectory(prefix="fheinfer-infer-") as temporary:
        folder = Path(plan) if isinstance(plan, Path | str) else Path(temporary) / "plan"
        if isinstance(plan, Plan):
            plan.save(folder)
        spec, where = ClientSpec.load(folder), Path(keys) if keys is not None else Path(temporary) / "keys"
        many = values.ndim == len(spec.input_shape) + 1
        inputs = {str(index): one for index, one in enumerate(values if many else values[None])}
        for one in inputs.values():
            spec.pack(one)  # before keys are made
        if not (where / SERVER_FOLDER).exists():
            keygen(spec, where)
        client = Client(where, spec)
        with Run(Path(temporary) / "runs", "infer", resume=False) as run:
            done = infer_many(folder, where, client, inputs, run, on_event=on_event, threads=threads, memory=memory)
            run.finish()
    found = [done.outputs[name] for name in inputs]
    return spec.finish_many(found) if many else spec.finish(found[0])


def infer_run(
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
    done = Inference()
    with _loading(process, plan, keys, on_event, threads, memory) as process:
        with _timed(done.seconds, "client start"):
            opened = client()
        if not (run.resume and source.exists()):
            with _timed(done.seconds, "encrypt"):
                atomic_write(source, [opened.encrypt(x)])
        took = process.evaluate([source], [result], checkpoints=run.folder, resume=run.resume, keep_layers=keep_layers)
        with _timed(done.seconds, "decrypt"):
            done.outputs = opened.outputs(result.read_bytes(), request=source.read_bytes())
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
    ray: str | None = None,
) -> Inferences:
    """As `infer_run`, with all inputs in one evaluating process, which loads its keys once.

    Args:
        inputs: normalised, by names that can be file names.
        together: evaluated at a time, 1 or 2; with `ray` all of them.
        run: keeps the ciphertext of every input, and each result; what is there is used again where it resumes.
        process: as of `infer_run`.
        ray: address of the Ray cluster that evaluates, as of `EvaluatingProcess`.

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
        require_disk(run.folder, len(inputs) * (spec.input.bytes + spec.output_bytes))
    with _loading(process, plan, keys, on_event, threads, memory, ray) as process:
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
            done.outputs[name] = client.outputs(result.read_bytes(), request=source.read_bytes())
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
    ray: str | None = None,
) -> Iterator[EvaluatingProcess]:
    """A process that loads the plan and the keys: the one that was started, or one for this block."""
    if process is not None:
        process.on_event = on_event
        yield process
        return
    with EvaluatingProcess(on_event, threads=threads, memory=memory, ray=ray) as own:
        own.load(plan, keys / SERVER_FOLDER)
        yield own


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - began
