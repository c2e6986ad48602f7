"""A model over many examples: in clear, by the plan's polynomials, or with the noise of encryption.

Accuracy where the examples have labels, bits against the network in clear, and the ranges that were left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fheinfer.compiler.plan import Plan
from fheinfer.compiler.program import Program
from fheinfer.compiler.steps import Step
from fheinfer.crypto.client_tensors import class_logits
from fheinfer.data.labelled import DataSet
from fheinfer.errors import UsageError
from fheinfer.evaluation.approximated import Approximated
from fheinfer.evaluation.batch import Batch, Overflow
from fheinfer.evaluation.inputs import batch_size, inputs_of
from fheinfer.evaluation.metrics import Precision, precision_bits, together
from fheinfer.evaluation.noise import noise_model
from fheinfer.evaluation.plain import node_values
from fheinfer.model.model import Model
from fheinfer.packing import spread
from fheinfer.progress import ProgressCallback, silent

MODES = ("clear", "approx", "simulate")
F64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Evaluation:
    """What came out of an evaluation.

    outputs: by name, (N, *shape) each; reached: activation -> largest |input|, 1 being the range of its polynomials;
    pytorch_bits: of the worst value of an example against the network in clear, by output: the least over all examples
    whose values are numbers, and the median over all; none in clear. bits: of the decrypted outputs against those
    without noise, simulated or encrypted; same_class: how many images get the class that they get in clear, encrypted.
    """

    mode: str
    outputs: Mapping[str, Floats]
    labels: NDArray[np.int64]
    seconds: float
    reached: dict[str, float]
    overflows: list[Overflow]
    pytorch_bits: Mapping[str, Precision] = field(default_factory=dict)
    bits: Precision | None = None
    same_class: int | None = None

    @property
    def logits(self) -> Floats:
        """Of the classes that the only output tells, (N, classes)."""
        (values,) = self.outputs.values()
        return class_logits(values)

    def top(self, k: int) -> float:
        """Returns the part of the images whose label is among the k largest logits; one that is no number misses."""
        order = np.argsort(-np.nan_to_num(self.logits, nan=-np.inf), axis=1, kind="stable")[:, :k]
        right = (order == self.labels[:, None]).any(axis=1) & np.isfinite(self.logits).all(axis=1)
        return float(right.mean())


@torch.inference_mode()
def evaluate(
    model: Model,
    plan: Plan | None,
    data: DataSet,
    mode: str = "approx",
    *,
    outputs: Sequence[str] = (),
    clear: Mapping[str, Floats] | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Evaluation:
    """Evaluates all examples of `data`.

    Args:
        plan: of this model; not needed in clear.
        mode: clear: the network itself. approx: every polynomial of the plan, exactly. simulate: with the noise of
            encryption, key switching, rescaling, bootstrapping and decryption (`evaluation.noise`).
        outputs: those that are looked at; all where none is named.
        clear: what they are in clear of all examples, where that is known; else it is computed beside.
        seed: of the noise.
        progress: called with the images that are done.

    Raises:
        UsageError: an unknown mode, one that lacks its plan, or a backend whose noise is not modelled.
    """
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    found = _Found(model, data, outputs, progress, clear)
    if mode == "clear":
        for _, values in found.batches():
            found.add(values)
        return found.evaluation(mode)
    if plan is None:
        raise UsageError(f"mode {mode} needs a plan of the model")
    noise = noise_model(plan, seed) if mode == "simulate" else None
    exact = Batch(plan)
    noisy = Batch(plan, noise) if noise else exact
    bits: list[Precision] = []
    for x, reference in found.batches():
        values = noisy.outputs(x)
        if noise:
            references = exact.outputs(x)
            values = {name: noise.decrypted(y, references[name]) for name, y in values.items()}
            pairs = [(references[name], values[name]) for name in found.names]
            bits += [precision_bits(one, other) for one, other in pairs if bool(torch.isfinite(one).all())]
        found.add(values, reference)
    return found.evaluation(mode, noisy, together(bits))


@torch.inference_mode()
def evaluate_polynomials(
    model: Model,
    program: Program,
    data: DataSet,
    outputs: Sequence[str] = (),
    progress: ProgressCallback = silent,
    clear: Mapping[str, Floats] | None = None,
) -> Evaluation:
    """Evaluates all examples of `data` with polynomials in place of activations and max pools.

    It takes no plan: a network of any size, and any ReLU, in a few times the time of the network itself.

    Args:
        program: of this model (`compiler.activations.polynomials_of`).
        outputs, progress, clear: as of `evaluate`.
    """
    found, approximated = _Found(model, data, outputs, progress, clear), Approximated(program)
    for x, exact in found.batches():
        found.add(approximated.outputs(x), exact)
    return found.evaluation("approx", approximated)


class _Found:
    """What an evaluation has found so far, beside the network in clear."""

    def __init__(
        self,
        model: Model,
        data: DataSet,
        outputs: Sequence[str],
        progress: ProgressCallback,
        clear: Mapping[str, Floats] | None = None,
    ) -> None:
        self.names = tuple(outputs) or model.graph.outputs
        self._model, self._data, self._progress, self._clear = model, data, progress, clear
        self._began = time.perf_counter()
        self._values: dict[str, list[Tensor]] = {name: [] for name in self.names}
        self._bits: dict[str, list[float]] = {name: [] for name in self.names}

    def batches(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yields (inputs, outputs of the network in clear) of all examples in order."""
        model, size, done = self._model, batch_size(self._model.graph), 0
        tensors = {} if self._clear else {name: torch.tensor(array) for name, array in model.tensors.items()}
        for x, _ in inputs_of(self._data, model.mean, model.std, torch.device("cpu"), self._progress, size):
            if self._clear:
                yield x, {name: torch.from_numpy(self._clear[name][done : done + len(x)]) for name in self.names}
            else:
                yield x, {name: y for name, y in node_values(model.graph, tensors, x) if name in self.names}
            done += len(x)

    def add(self, values: Mapping[str, Tensor], clear: Mapping[str, Tensor] | None = None) -> None:
        """Takes the outputs of a batch, and those that they are compared with."""
        for name in self.names:
            self._values[name].append(values[name])
            if clear is not None:
                pairs = zip(clear[name], values[name], strict=True)
                self._bits[name] += [precision_bits(one, other).minimum for one, other in pairs]

    def evaluation(
        self, mode: str, run: Batch | Approximated | None = None, bits: Precision | None = None
    ) -> Evaluation:
        return Evaluation(
            mode,
            {name: torch.cat(values).numpy() for name, values in self._values.items()},
            self._data.labels,
            time.perf_counter() - self._began,
            run.reached if run else {},
            run.overflows() if run else [],
            {name: found for name, worst in self._bits.items() if (found := of_examples(worst))},
            bits,
        )


def of_examples(worst: Sequence[float]) -> Precision | None:
    """The least bits of those that are numbers, and the median of all; None where none is."""
    numbers = [bits for bits in worst if np.isfinite(bits)]
    return Precision(min(numbers), float(np.median(worst))) if numbers else None


@torch.inference_mode()
def simulated_layers(plan: Plan, image: F64, seed: int = 0) -> dict[str, F64]:
    """Computes the values of every step, (C, H, W) as of `run_slots`, with the noise of an encrypted run, in float32.

    Args:
        image: normalised, (C, H, W), or a vector (F,).
        seed: of the noise.

    Raises:
        UsageError: a backend whose noise is not modelled.
    """
    layers: dict[str, F64] = {}

    def observe(step: Step, y: Tensor) -> None:
        layers[step.name] = y[0].double().numpy() * spread(step.scale, step.shape)

    Batch(plan, noise_model(plan, seed)).outputs(torch.from_numpy(image[None]).float(), observe)
    return layers


def check_top(values: Sequence[int], classes: int) -> None:
    """Checks every k against the number of classes.

    Raises:
        UsageError: one that is below 1 or larger.
    """
    for k in values:
        if not 1 <= k <= classes:
            raise UsageError(f"--top-k {k}: the network has {classes} classes")
