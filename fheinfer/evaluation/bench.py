"""Kernels and a whole network measured, every backend in a process of its own, one after the other: OpenFHE's
bootstrapping keys at N = 2^16 take gigabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fheinfer import _core
from fheinfer.client import Client
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.presets import preset
from fheinfer.crypto.backends import BACKENDS
from fheinfer.crypto.backends import backend as find_backend
from fheinfer.crypto.keygen import keygen
from fheinfer.crypto.params import ParameterSet, parameter_set, parameter_sets
from fheinfer.errors import BackendError, UsageError
from fheinfer.evaluation.kernels import Bench, Row
from fheinfer.frontends import zoo
from fheinfer.machine import peak_memory
from fheinfer.server import Server


@dataclass(frozen=True)
class Report:
    """What one process measured.

    instruction_set  that the backend's kernels use; "OpenFHE" for those of OpenFHE
    key_bytes        of all keys it made
    peak_memory      its largest resident size, bytes
    """

    backend: str
    set_name: str
    log_n: int
    threads: int
    instruction_set: str
    rows: tuple[Row, ...]
    key_bytes: int
    peak_memory: int


def parameters(name: str, backend: str, log_n: int | None) -> ParameterSet:
    """Returns the set of that name for a backend; with `log_n` on a small ring, for quick runs and below 128 bits.

    Raises:
        UsageError: no such backend, no set for it, or no ring of that size.
    """
    if backend not in BACKENDS:
        raise UsageError(f"no backend {backend!r} to measure; there are {', '.join(BACKENDS)} and both")
    base = parameter_set(name).name.removesuffix("-openfhe")
    fitting = [s for s in parameter_sets(insecure=True) if s.name.removesuffix("-openfhe") == base]
    params = next((s for s in fitting if preset(s).backend == backend), None)
    if params is None:
        raise UsageError(f"set {base} is not for the {backend} backend; measure another set, or another backend")
    if log_n is None or log_n == params.log_n:
        return params
    if not 10 <= log_n < params.log_n:
        raise UsageError(f"no ring of 2^{log_n} for set {name}; choose --log-n between 10 and {params.log_n}")
    slots = min(params.slots, 1 << (log_n - 2))
    return replace(params, log_n=log_n, slots=slots, insecure=True)


def run(
    name: str,
    backends: Collection[str] = tuple(BACKENDS),
    *,
    log_n: int | None = None,
    repeats: int = 5,
    network: str = "",
) -> list[Report]:
    """Measures the backends one after the other, on the threads that OpenMP is told to use, or all cores.

    Args:
        name: of a parameter set; OpenFHE is measured on the set of the same name with -openfhe.
        log_n: a smaller ring.
        network: also this network, from ciphertext to ciphertext; with keys in a temporary folder.

    Raises:
        UsageError: see `parameters`.
        BackendError: a process failed.
    """
    for backend in backends:
        params = parameters(name, backend, log_n)
        if network and params is not parameter_set(params.name):
            raise UsageError("a network is measured on the ring of its set; leave out --log-n")
    reports = []
    for backend in backends:
        job = {"name": name, "backend": backend, "log_n": log_n, "repeats": repeats, "network": network}
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fheinfer.evaluation.bench", json.dumps(job)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BackendError(f"measuring {backend} ended with code {done.returncode}; its last words are above")
        fields = json.loads(done.stdout)
        reports.append(Report(**{**fields, "rows": tuple(Row(**row) for row in fields["rows"])}))
    return reports


def ratios(reports: list[Report]) -> dict[str, float]:
    """Returns OpenFHE's seconds over ours, by kernel; where both were measured."""
    by = {report.backend: {row.name: row.seconds for row in report.rows} for report in reports}
    ours, theirs = by.get("native", {}), by.get("openfhe", {})
    return {name: theirs[name] / ours[name] for name in ours if name in theirs}


def measure_network(name: str, params: ParameterSet, backend: str) -> tuple[list[Row], int]:
    """Measures a whole network of constant weights, from ciphertext to ciphertext, and what comes before it.

    Returns:
        The rows, and the bytes of the keys, which are written to a temporary folder.
    """
    timed: dict[str, float] = {}

    def clock(what: str, action: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = action()
        timed[what] = time.perf_counter() - began
        return result

    model = zoo.placeholder(zoo.network(name))
    plan = clock("compilation", lambda: compile(model, params, backend=backend))
    with tempfile.TemporaryDirectory(prefix="fheinfer-bench-") as folder:
        keys = Path(folder)
        manifest = clock("keys", lambda: keygen(plan.client, keys, policy="fast"))
        session = clock("loading", lambda: Server().session(plan, keys / "server"))
        client = Client(keys, plan.client)
        encrypted = clock("encryption", lambda: client.encrypt(np.zeros(plan.client.input_shape)))
        clock("ciphertext to ciphertext", lambda: session.evaluate(encrypted))
    return [Row(f"{name}: {what}", seconds, 1) for what, seconds in timed.items()], manifest.total_bytes


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _worker(job: dict[str, Any]) -> Report:
    _core.keep_freed_memory()
    params, backend = parameters(job["name"], job["backend"], job["log_n"]), find_backend(job["backend"])
    bench = Bench(params, backend, job["repeats"], _threads())
    bench.run()
    rows, key_bytes = bench.rows, bench.key_bytes
    if job["network"]:
        more, more_bytes = measure_network(job["network"], params, backend.name)
        rows, key_bytes = rows + more, key_bytes + more_bytes
    return Report(
        backend=backend.name,
        set_name=params.name,
        log_n=params.log_n,
        threads=_threads(),
        instruction_set="OpenFHE" if backend.name == "openfhe" else _core.instruction_set(),
        rows=tuple(rows),
        key_bytes=key_bytes,
        peak_memory=peak_memory(),
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_worker(json.loads(sys.argv[1])))))
