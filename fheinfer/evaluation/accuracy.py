"""Accuracy of a model over labelled data: in clear, by the plan's polynomials, or with the noise of encryption."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fheinfer.compiler.plan import Plan
from fheinfer.compiler.program import Program
from fheinfer.compiler.steps import Step
from fheinfer.data.labelled import DataSet
from fheinfer.errors import UsageError
from fheinfer.evaluation.approximated import Approximated
from fheinfer.evaluation.batch import Batch, Overflow
from fheinfer.evaluation.inputs import inputs_of
from fheinfer.evaluation.metrics import Precision, precision_bits
from fheinfer.evaluation.noise import noise_model
from fheinfer.evaluation.plain import node_values
from fheinfer.model.model import Model
from fheinfer.packing import spread
from fheinfer.progress import ProgressCallback, silent

MODES = ("clear", "approx", "simulate")
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What came out of an evaluation.

    logits: (N, classes); reached: activation -> largest |input|, 1 being the range of its polynomials; bits: of the
    decrypted logits against those without noise, simulated or encrypted, or of those by polynomials without a plan
    against the network; same_class: how many images get the
    class that they get in clear, encrypted.
    """

    mode: str
    logits: F64
    labels: NDArray[np.int64]
    seconds: float
    reached: dict[str, float]
    overflows: list[Overflow]
    bits: Precision | None = None
    same_class: int | None = None

    def top(self, k: int) -> float:
        """Returns the part of the images whose label is among the k largest logits; one that is no number misses."""
        order = np.argsort(-np.nan_to_num(self.logits, nan=-np.inf), axis=1, kind="stable")[:, :k]
        right = (order == self.labels[:, None]).any(axis=1) & np.isfinite(self.logits).all(axis=1)
        return float(right.mean())


def evaluate(
    model: Model,
    plan: Plan | None,
    data: DataSet,
    mode: str = "approx",
    *,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Evaluation:
    """Evaluates all examples of `data`.

    Args:
        plan: of this model; not needed in clear.
        mode: clear: the network itself. approx: every polynomial of the plan, exactly. simulate: with the noise of
            encryption, key switching, rescaling, bootstrapping and decryption (`evaluation.noise`).
        seed: of the noise.
        progress: called with the images that are done.

    Raises:
        UsageError: an unknown mode, one that lacks its plan, or a backend whose noise is not modelled.
    """
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    if mode == "clear":
        return _in_clear(model, data, progress)
    if plan is None:
        raise UsageError(f"mode {mode} needs a plan of the model")
    began = time.perf_counter()
    noise = noise_model(plan, seed) if mode == "simulate" else None
    exact = Batch(plan)
    noisy = Batch(plan, noise) if noise else exact
    found: list[Tensor] = []
    bits: list[Precision] = []
    for x, _ in inputs_of(data, model.mean, model.std, torch.device("cpu"), progress):
        with torch.inference_mode():
            y = noisy.logits(x)
            if noise:
                reference = exact.logits(x)
                y = noise.decrypted(y, reference)
                if bool(torch.isfinite(reference).all()):
                    bits.append(precision_bits(reference, y))
        found.append(y)
    worst = Precision(min(b.minimum for b in bits), float(np.median([b.median for b in bits]))) if bits else None
    return Evaluation(
        mode,
        torch.cat(found).double().numpy(),
        data.labels,
        time.perf_counter() - began,
        noisy.reached,
        noisy.overflows(),
        worst,
    )


@torch.inference_mode()
def evaluate_polynomials(
    model: Model, program: Program, data: DataSet, progress: ProgressCallback = silent
) -> Evaluation:
    """Evaluates all examples of `data` with polynomials in place of activations and max pools, and in clear beside it.

    It takes no plan: a network of any size, and any ReLU, in a few times the time of the network itself. `bits` are of
    the worst output of an example against the network: the least over all examples whose values are numbers, and the
    median over all.

    Args:
        program: of this model (`compiler.activations.polynomials_of`).
        progress: called with the examples that are done.

    Raises:
        GraphError: the network has several outputs.
    """
    began, name = time.perf_counter(), model.graph.output.name
    approximated = Approximated(program)
    tensors = {name: torch.tensor(array) for name, array in model.tensors.items()}
    found: list[Tensor] = []
    worst: list[float] = []
    for x, _ in inputs_of(data, model.mean, model.std, torch.device("cpu"), progress):
        y, expected = approximated.outputs(x)[name], node_values(model.graph, tensors, x)[name]
        found.append(y)
        worst += [precision_bits(one, other).minimum for one, other in zip(expected, y, strict=True)]
    numbers = [bits for bits in worst if np.isfinite(bits)]
    return Evaluation(
        "approx",
        torch.cat(found).double().numpy(),
        data.labels,
        time.perf_counter() - began,
        approximated.reached,
        approximated.overflows(),
        Precision(min(numbers), float(np.median(worst))) if numbers else None,
    )


@torch.inference_mode()
def _in_clear(model: Model, data: DataSet, progress: ProgressCallback) -> Evaluation:
    began = time.perf_counter()
    graph = model.graph
    tensors = {name: torch.tensor(array) for name, array in model.tensors.items()}
    batches = inputs_of(data, model.mean, model.std, torch.device("cpu"), progress)
    logits = torch.cat([node_values(graph, tensors, x)[graph.output.name] for x, _ in batches]).double().numpy()
    return Evaluation("clear", logits, data.labels, time.perf_counter() - began, {}, [])


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

    Batch(plan, noise_model(plan, seed)).logits(torch.from_numpy(image[None]).float(), observe)
    return layers


def check_top(values: Sequence[int], classes: int) -> None:
    """Checks every k against the number of classes.

    Raises:
        UsageError: one that is below 1 or larger.
    """
    for k in values:
        if not 1 <= k <= classes:
            raise UsageError(f"--top-k {k}: the network has {classes} classes")
