"""Kernels measured one by one, ours beside OpenFHE's. Each backend runs in a process of its own, one after the other:
OpenFHE's bootstrapping keys at N = 2^16 take gigabytes. Keys are made in memory, for what is measured only.

The floor of a kernel is what its transforms and products would take at the speed they were measured at by themselves,
on as many threads: no memory traffic, no encoding, no waiting. It counts the steps of fheinfer/compiler/cost_native.py,
and the products of base conversion.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fheinfer import _core
from fheinfer.approx import activation
from fheinfer.compiler.cost_native import NativeCost
from fheinfer.compiler.work import Work
from fheinfer.errors import BackendError, UsageError
from fheinfer.params import ParameterSet, parameter_set
from fheinfer.runtime.memory import peak_memory

BACKENDS = ("native", "openfhe")
LONG = 20.0
"""Seconds after which a kernel is not repeated any more, nor warmed up."""
HOISTED = 8
"""Rotations of one ciphertext in `hoisted rotations`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One kernel. seconds: median; level: of the input; floor: seconds, where the cost model counts its steps."""

    name: str
    seconds: float
    repeats: int
    level: int | None = None
    floor: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What one process measured. key_bytes: of all keys it made; peak_memory: its largest resident size, bytes."""

    backend: str
    set_name: str
    log_n: int
    threads: int
    cpu_form: str
    rows: tuple[Row, ...]
    key_bytes: int
    peak_memory: int


def parameters(name: str, backend: str, log_n: int | None) -> ParameterSet:
    """The set of that name for a backend; with `log_n` on a small ring, for quick runs and below 128 bits.

    Raises:
        UsageError: no such backend, or no ring of that size.
    """
    if backend not in BACKENDS:
        raise UsageError(f"no backend {backend!r} to measure; there are native, openfhe and both")
    base = name.removesuffix("-openfhe")
    params = parameter_set(base if backend == "native" else f"{base}-openfhe")
    if log_n is None or log_n == params.log_n:
        return params
    if not 10 <= log_n < params.log_n:
        raise UsageError(f"no ring of 2^{log_n} for set {name}; choose --log-n between 10 and {params.log_n}")
    slots = min(params.slots, 1 << (log_n - 2))
    return dataclasses.replace(params, log_n=log_n, slots=slots, insecure=True)


def run(
    name: str, backends: tuple[str, ...] = BACKENDS, *, log_n: int | None = None, repeats: int = 5, network: str = ""
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
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "fheinfer.bench", json.dumps(job)],
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
    """OpenFHE's seconds over ours, by kernel; where both were measured."""
    by = {report.backend: {row.name: row.seconds for row in report.rows} for report in reports}
    ours, theirs = by.get("native", {}), by.get("openfhe", {})
    return {name: theirs[name] / ours[name] for name in ours if name in theirs}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """use(evaluator, x) for an x of that level, on every evaluator."""

    name: str
    level: int
    use: Callable[[Any, Any], Any]


class Floor(NativeCost):
    """The steps of the cost model at the speed of a transform, and of a row times a constant or a row in the cache."""

    def __init__(self, params: ParameterSet, context: _core.Context, ntt: float, row: float, threads: int) -> None:
        super().__init__(params, context)
        self._ntt, self._row, self._plain, self._encode = ntt / threads, row / threads, row / threads, 0.0

    def _mod_up(self, limbs: int) -> float:
        sizes = [min(self._per_digit, limbs - first) for first in range(0, limbs, self._per_digit)]
        rows = sum(size * (limbs + self._special(limbs) - size) for size in sizes)
        return super()._mod_up(limbs) + rows * self._row

    def _mod_down(self, limbs: int) -> float:
        return super()._mod_down(limbs) + self._special(limbs) * limbs * self._row


class Bench:
    """A client, and an evaluator with the keys for what is measured."""

    def __init__(self, params: ParameterSet, backend: str, repeats: int) -> None:
        self.params, self.native, self.repeats = params, backend == "native", repeats
        self.context, tag = _core.Context(params.core()), "be" * 16
        self.client = _core.ClientKeys.generate(self.context, tag)
        self.keys = _core.NativeKeys(self.client) if self.native else self.client
        self.evaluator: Any = (
            _core.NativeEvaluator(self.context) if self.native else _core.OpenFheEvaluator(self.context, tag)
        )
        self.key_bytes, self.rows = 0, list[Row]()
        self.floor: Floor | None = None

    def encrypt(self, level: int) -> Any:
        values = np.random.default_rng(level).uniform(-0.5, 0.5, self.params.slots)
        return self.evaluator.read(self.client.encrypt(values, level))

    def _counted(self, key: bytes) -> bytes:
        self.key_bytes += len(key)
        return key

    def load(self, traces: Iterable[Work]) -> None:
        """Keys for what the traces counted and for a bootstrap. OpenFHE's evaluator takes one key for a rotation."""
        half = 1 << (self.params.log_n - 1)
        needs = {(k % half, limbs) for trace in traces for k, limbs in trace.rotation_keys.items()}
        if self.native and self.params.bootstraps:
            needs |= {(k % half, limbs) for k, limbs in _core.native_bootstrap_rotations(self.context)}
        elif not self.native:
            needs |= set(self.context.bootstrap_rotations().items())
            needs = set(dict(sorted(needs)).items())  # the tallest of each
        evaluator, keys, add = self.evaluator, self.keys, self._counted
        for k, limbs in sorted(needs):
            evaluator.add_rotation_key(k, add(keys.rotation_keys([(k, limbs)])[0]))
        evaluator.add_relinearisation_key(add(keys.relinearisation_key()))
        if self.params.bootstraps:
            evaluator.add_conjugation_key(add(keys.conjugation_key()))
            evaluator.add_encapsulation_keys(*map(add, keys.encapsulation_keys()))

    def trace(self, kernel: Kernel) -> Work:
        trace = _core.TraceEvaluator(self.params.slots, self.context.levels)
        kernel.use(trace, trace.encrypt(kernel.level))
        return Work.of(trace.report())

    def measure(self, kernel: Kernel) -> None:
        x, seconds, total = self.encrypt(kernel.level), list[float](), 0.0
        while len(seconds) <= self.repeats and total < LONG:
            began = time.perf_counter()
            kernel.use(self.evaluator, x)
            seconds.append(time.perf_counter() - began)
            total += seconds[-1]
        timed = seconds[1:] or seconds  # the first one warms up
        floor = (self.floor.seconds(self.trace(kernel)) or None) if self.floor else None
        self.rows.append(Row(kernel.name, statistics.median(timed), len(timed), kernel.level, floor))

    def transforms(self) -> None:
        """Of one limb on one thread: OpenFHE's, or ours with every instruction set."""
        n, p = 1 << self.params.log_n, self.context.q[-1]
        repeats = 10 * self.repeats

        def add(name: str, measure: Callable[[int, int, int], list[tuple[float, float]]]) -> float:
            times = measure(n, p, repeats + 1)[1:]
            forward = statistics.median(f for f, _ in times) / 1e3
            inverse = statistics.median(i for _, i in times) / 1e3
            self.rows.append(Row(f"NTT forward{name}", forward, len(times)))
            self.rows.append(Row(f"NTT inverse{name}", inverse, len(times)))
            return (forward + inverse) / 2

        if not self.native:
            add("", _core.openfhe_ntt_ms)
            return
        best = _core.instruction_set()
        seconds = add("", _core.ntt_ms)
        for name in _core.instruction_sets():
            _core.set_instruction_set(name)
            add(f", {name}", _core.ntt_ms)
        _core.set_instruction_set(best)
        row = _core.conversion_ms(n, p) / 1e3
        self.floor = Floor(self.params, self.context, seconds, row, _threads())

    def kernels(self) -> None:
        params = self.params
        (stage,) = activation(params.activation).polynomials.stages
        series, shifts = list(stage), range(1, HOISTED + 1)
        after = params.levels - params.level_model().chebyshev_depth(len(series) - 1)  # a convolution's input
        places = {"a bootstrap": params.bootstrap_input} if params.bootstraps else {}
        places |= {
            "a convolution": after,
            "a ReLU": params.levels,
            "the whole chain": params.top_level,
        }
        kernels = [Kernel(f"key switch: {at}", level, lambda e, x: e.rotate(x, 1)) for at, level in places.items()]
        kernels += [
            Kernel(f"{HOISTED} hoisted rotations", after, lambda e, x: e.rotate_many(x, shifts)),
            Kernel("convolution 3x3, 16 channels", after, self._convolution()),
            Kernel("product", params.levels, lambda e, x: e.multiply(x, x)),
            Kernel(f"ReLU, {params.activation}", params.levels, lambda e, x: e.chebyshev(x, series)),
        ]
        if params.bootstraps:
            kernels.append(Kernel("bootstrap", params.bootstrap_input, lambda e, x: e.bootstrap(x)))
        self.transforms()
        self.load(map(self.trace, kernels))
        if self.params.bootstraps:
            began = time.perf_counter()
            self.evaluator.prepare_bootstrap()
            self.rows.append(Row("tables of a bootstrap", time.perf_counter() - began, 1))
        for kernel in kernels:
            self.measure(kernel)

    def _convolution(self) -> Callable[[Any, Any], Any]:
        """16 -> 16 channels on the largest square picture that fits: 32 x 32 with 16,384 slots."""
        side = 1 << ((self.params.slots // 16).bit_length() - 1) // 2
        layout, conv = _core.Layout(16, side, side, 1, side, side), _core.Conv2d(3, 1, 1)
        out = _core.conv2d_output(layout, 16, conv)
        weight = np.random.default_rng(0).normal(size=(16, 16, 3, 3)) / 12
        return lambda e, x: _core.conv2d(e, x, weight, np.zeros(16), layout, out, conv)

    def network(self, name: str) -> None:
        """The whole network of random weights, from ciphertext to ciphertext, and what its server needs before."""
        import fheinfer
        from fheinfer.frontends import zoo
        from fheinfer.weights import Weights, shapes

        graph, rng = zoo.network(name), np.random.default_rng(0)
        arrays = {k: rng.uniform(0.01, 0.02, shape).astype(np.float32) for k, shape in shapes(graph).items()}
        ranges = {node.name: 10.0 for node in graph.activations}
        weights = Weights(graph, arrays, (0.5,) * 3, (0.5,) * 3, ranges)
        with tempfile.TemporaryDirectory(prefix="fheinfer-bench-") as folder:
            timed: dict[str, float] = {}

            def clock(what: str, action: Callable[[], Any]) -> Any:
                began = time.perf_counter()
                result = action()
                timed[what] = time.perf_counter() - began
                return result

            keys = Path(folder) / f"set{self.params.name}"
            manifest = clock("keys", lambda: fheinfer.keygen(self.params, Path(folder), network=name, policy="fast"))
            server = clock("loading", lambda: fheinfer.Server(keys / "server", weights))
            client, spec = fheinfer.Client(keys), server.plan.client
            picture = clock("encryption", lambda: client.encrypt(np.zeros(spec.input_shape), spec))
            clock("ciphertext to ciphertext", lambda: server.evaluate(picture))
        self.key_bytes += manifest.total_bytes
        self.rows += [Row(f"{name}: {what}", seconds, 1) for what, seconds in timed.items()]


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _worker(job: dict[str, Any]) -> Report:
    _core.keep_freed_memory()
    params = parameters(job["name"], job["backend"], job["log_n"])
    bench = Bench(params, job["backend"], job["repeats"])
    bench.kernels()
    if job["network"]:
        bench.network(job["network"])
    return Report(
        job["backend"],
        params.name,
        params.log_n,
        _threads(),
        _core.instruction_set() if bench.native else "OpenFHE",
        tuple(bench.rows),
        bench.key_bytes,
        peak_memory(),
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dataclasses.asdict(_worker(json.loads(sys.argv[1])))))
