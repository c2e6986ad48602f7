"""Kernels measured one by one on one backend, with keys in memory for what is measured only.

The floor of a kernel is what its transforms and products would take at the speed they were measured at by themselves,
on as many threads: no memory traffic, no encoding, no waiting. It counts the steps of fheinfer/compiler/cost/native.py,
and the products of base conversion.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fheinfer import _core
from fheinfer.approx import activation
from fheinfer.compiler.cost import cost_model
from fheinfer.compiler.cost.native import NativeCost
from fheinfer.compiler.maps import linear_map
from fheinfer.compiler.presets import preset
from fheinfer.compiler.program import PLACED_UNDER
from fheinfer.compiler.work import Work
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.key_policy import core_policy
from fheinfer.crypto.params import ParameterSet
from fheinfer.model.ops import Conv2d
from fheinfer.packing import grid_packing

LONG = 20.0
"""Seconds after which a kernel is not repeated any more, nor warmed up."""
HOISTED = 8
"""Rotations of one ciphertext in `hoisted rotations`."""


@dataclass(frozen=True)
class Row:
    """One kernel. seconds: median; level: of the input; floor: seconds, where the cost model counts its steps."""

    name: str
    seconds: float
    repeats: int
    level: int | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Kernel:
    """What is measured: use(evaluator, x) for an x of that level, on every evaluator."""

    name: str
    level: int
    use: Callable[[Any, Any], Any]


class Floor(NativeCost):
    """The steps of the cost model at the speed of a transform, and of a limb times a constant or a limb in the cache.

    Args:
        ntt, limb: seconds of these on one thread.
    """

    def __init__(self, params: ParameterSet, backend: Backend, ntt: float, limb: float, threads: int) -> None:
        super().__init__(params, backend)
        self._ntt, self._conversion = ntt, limb
        self._row = self._diagonal = limb
        self._encode = self._encode_limb = self._call = 0.0
        self._threads = 1 / threads


class Bench:
    """A client, and an evaluator with the keys for what is measured.

    Attributes:
        rows: what was measured so far.
        key_bytes: of all keys that were made.
    """

    def __init__(self, params: ParameterSet, backend: Backend, repeats: int, threads: int) -> None:
        self.params, self.backend, self.repeats, self.threads = params, backend, repeats, threads
        self.context, key_id = backend.context(params), "be" * 16
        self.client = _core.ClientKeys.generate(self.context, key_id)
        self.keys = backend.key_maker(self.client)
        self.evaluator = backend.evaluator(self.context, key_id, core_policy(PLACED_UNDER))
        self.key_bytes, self.rows = 0, list[Row]()
        self.floor: Floor | None = None

    def run(self) -> None:
        """Measures everything that the parameter set has."""
        kernels = self._kernels()
        self._transforms()
        self._load(map(self._trace, kernels))
        if self.params.bootstraps:
            began = time.perf_counter()
            self.evaluator.prepare_bootstrap()
            self.rows.append(Row("tables of a bootstrap", time.perf_counter() - began, 1))
        for kernel in kernels:
            self._measure(kernel)

    def _kernels(self) -> list[Kernel]:
        params, relu = self.params, preset(self.params).activation
        (stage,) = activation(relu).polynomials.stages
        series, shifts = list(stage), range(1, HOISTED + 1)
        levels = self.backend.level_model(params)
        after = params.levels - levels.chebyshev_depth(len(series) - 1)  # a convolution's input
        bootstrap = self.backend.bootstrap_input(params)
        places = {"a bootstrap": bootstrap} if params.bootstraps else {}
        places |= {"a convolution": after, "a ReLU": params.levels, "the whole chain": params.top_level}
        kernels = [Kernel(f"key switch: {at}", level, lambda e, x: e.rotate(x, 1)) for at, level in places.items()]
        kernels += [
            Kernel(f"{HOISTED} hoisted rotations", after, lambda e, x: e.rotate_many(x, shifts)),
            Kernel("convolution 3x3, 16 channels", after, self._convolution()),
            Kernel("product", params.levels, lambda e, x: e.multiply(x, x)),
            Kernel(f"ReLU, {relu}", params.levels, lambda e, x: e.chebyshev(x, series)),
        ]
        if params.bootstraps:
            kernels.append(Kernel("bootstrap", bootstrap, lambda e, x: e.bootstrap(x)))
        return kernels

    def _convolution(self) -> Callable[[Any, Any], Any]:
        """16 -> 16 channels on the largest square image that fits: 32 x 32 with 16,384 slots."""
        side = 1 << ((self.params.slots // 16).bit_length() - 1) // 2
        packing = grid_packing((16, side, side), self.params.slots)
        weight = np.random.default_rng(0).normal(size=(16, 16, 3, 3)) / 12
        found = linear_map(Conv2d(16, 3, 1, 1, "weight"), {"weight": weight}, packing, packing)
        return lambda e, x: _core.linear_map(e, [x], found)

    def _transforms(self) -> None:
        """Of one limb on one thread: the backend's own, ours with every instruction set."""
        n, p, repeats = 1 << self.params.log_n, self.context.q[-1], 10 * self.repeats
        if self.backend.name == "openfhe":
            self._add_transforms("", _core.openfhe_ntt_ms(n, p, repeats + 1))
            return
        usual, names = _core.instruction_set(), _core.instruction_sets()
        ntt = self._add_transforms("", _core.ntt_ms(n, p, repeats + 1))
        try:
            for name in names:
                _core.set_instruction_set(name)
                self._add_transforms(f", {name}", _core.ntt_ms(n, p, repeats + 1))
        finally:
            _core.set_instruction_set(usual)
        limb = _core.conversion_ms(n, p) / 1e3
        self.floor = Floor(self.params, self.backend, ntt, limb, self.threads)

    def _add_transforms(self, name: str, milliseconds: Sequence[tuple[float, float]]) -> float:
        """Adds a row for each direction; the mean of both medians, in seconds."""
        timed = milliseconds[1:]  # the first one warms up
        both = [statistics.median(pair[i] for pair in timed) / 1e3 for i in (0, 1)]
        for direction, seconds in zip(("forward", "inverse"), both, strict=True):
            self.rows.append(Row(f"NTT {direction}{name}", seconds, len(timed)))
        return sum(both) / 2

    def _trace(self, kernel: Kernel) -> Work:
        trace = _core.TraceEvaluator(self.params.slots, self.context.levels)
        kernel.use(trace, trace.encrypt(kernel.level))
        return Work.of(trace.report())

    def _load(self, traces: Iterable[Work]) -> None:
        """Makes keys for what the traces counted and for a bootstrap."""
        half = 1 << (self.params.log_n - 1)
        needs = {(k % half, limbs) for trace in traces for k, limbs in trace.rotation_keys.items()}
        if self.params.bootstraps:
            cost = cost_model(self.params, self.backend, PLACED_UNDER)
            needs |= {(k % half, limbs) for k, limbs in cost.bootstrap_rotations()}
        if self.backend.key_heights == 1:
            needs = set(dict(sorted(needs)).items())  # the tallest of each
        evaluator, keys, add = self.evaluator, self.keys, self._counted
        for k, limbs in sorted(needs):
            evaluator.add_rotation_key(k, add(keys.rotation_keys([(k, limbs)])[0]))
        evaluator.add_relinearisation_key(add(keys.relinearisation_key()))
        if self.params.bootstraps:
            evaluator.add_conjugation_key(add(keys.conjugation_key()))
            to_sparse, to_dense = keys.encapsulation_keys()
            evaluator.add_encapsulation_keys(add(to_sparse), add(to_dense))

    def _counted(self, key: bytes) -> bytes:
        self.key_bytes += len(key)
        return key

    def _measure(self, kernel: Kernel) -> None:
        x, seconds, total = self._encrypt(kernel.level), list[float](), 0.0
        while len(seconds) <= self.repeats and total < LONG:
            began = time.perf_counter()
            kernel.use(self.evaluator, x)
            seconds.append(time.perf_counter() - began)
            total += seconds[-1]
        timed = seconds[1:] or seconds  # the first one warms up
        floor = (self.floor.seconds(self._trace(kernel)) or None) if self.floor else None
        self.rows.append(Row(kernel.name, statistics.median(timed), len(timed), kernel.level, floor))

    def _encrypt(self, level: int) -> _core.Ciphertext:
        values = np.random.default_rng(level).uniform(-0.5, 0.5, self.params.slots)
        return self.evaluator.read(self.client.encrypt(values, level))
