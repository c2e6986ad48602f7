"""Encrypted runs for commands: where their files are, how far they are, and when they are deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fheinfer.cli import choices, unlock
from fheinfer.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fheinfer.client import Client
    from fheinfer.crypto.client_spec import ClientSpec
    from fheinfer.evaluating import EvaluatingProcess, Event
    from fheinfer.local import Inferences
    from fheinfer.runs import Run

    F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """What an encrypted run works with, as the options say it."""

    plan: Path
    spec: ClientSpec
    keys: Path
    runs: Path = choices.RUNS
    passphrase_file: Path | None = None
    threads: int | None = None
    memory: int | None = None
    resume: bool = False
    keep: bool = False
    verbose: bool = False
    process: EvaluatingProcess | None = None
    """The evaluating process, where one loads the plan and the keys already."""
    ray: str | None = None
    """The Ray cluster that evaluates, where one does."""

    def client(self) -> Client:
        """Opens the client; see `unlock.open_client`."""
        return unlock.open_client(self.keys, self.spec, self.passphrase_file)

    def key_id(self) -> str:
        """Whose keys these are; their folder need not hold the secret for that.

        Raises:
            KeyStoreError, ArtifactError, PlanError: see `Manifest.load`.
        """
        from fheinfer.crypto.key_writer import SERVER_FOLDER
        from fheinfer.crypto.manifest import FILE_NAME, Manifest

        return Manifest.load(self.keys / SERVER_FOLDER / FILE_NAME).key_id

    def run(self, label: str, key_id: str, inputs: Mapping[str, F64]) -> Run:
        """The folder of the run of these inputs.

        Raises:
            InputError: to be resumed, and there is none.
            StorageError: it cannot be made.
        """
        from fheinfer.runs import Run, run_name

        contents = [part for name, x in inputs.items() for part in (name.encode("utf-8", "replace"), x.tobytes())]
        name = run_name(label, self.spec.plan, key_id, *contents)
        if self.resume and not (self.runs / name).is_dir():
            raise InputError(
                f"nothing to resume: no run of this input, plan and keys in {self.runs}; leave out --resume"
            )
        return Run(self.runs, name, resume=self.resume)


def threads_of(asked: int | None) -> int | None:
    """What --threads says; a line on standard error where that is more than can run.

    Raises:
        UsageError: less than one.
    """
    if asked is None:
        return None
    from fheinfer.cli.display import err
    from fheinfer.machine import choose_threads

    return choose_threads(asked, err.print)


@contextmanager
def evaluated(
    job: Job,
    client: Client,
    inputs: Mapping[str, F64],
    follow: Callable[[Callable[[Event], object]], Callable[[Event], None]] = lambda view: lambda event: None,
) -> Iterator[Inferences]:
    """All inputs encrypted, evaluated and decrypted, under a bar. The run's files are deleted after the block, in which
    results are written: what fails there loses nothing.

    Args:
        follow: wraps the callback that gets the events of the evaluating process.
    """
    from fheinfer.local import infer_many

    with job.run("images", client.key_id, inputs) as run:
        with _View(run, len(inputs), job.verbose) as view:
            done = infer_many(
                job.plan,
                job.keys,
                client,
                inputs,
                run,
                together=len(inputs) if job.ray else 2 if job.spec.key_backend.two_inputs(job.spec.params) else 1,
                on_event=follow(view),
                threads=job.threads,
                memory=job.memory,
                process=job.process,
                ray=job.ray,
            )
        yield done
        if not job.keep:
            run.finish()


class _View:
    """How many inputs are done; with `verbose` a line for every layer instead."""

    def __init__(self, run: Run, total: int, verbose: bool) -> None:
        from fheinfer.cli.display import EvaluationView, err
        from fheinfer.cli.progress import Meter

        self._total = total
        self._done = sum(1 for _ in run.folder.glob("results/*.ct")) if run.resume else 0
        self._layers = EvaluationView(verbose=True) if verbose else None
        self._meter = None if verbose else Meter("images", "count", err)

    def __enter__(self) -> _View:
        if self._layers is not None:
            self._layers.__enter__()
        if self._meter is not None:
            self._meter.__enter__()
            self._meter.update(self._done, self._total)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._layers is not None:
            self._layers.__exit__(*error)
        if self._meter is not None:
            self._meter.__exit__(*error)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self._layers is not None:
            self._layers(event)
        if self._meter is not None and event["event"] == "input":
            self._done += 1
            self._meter.update(self._done, self._total)
