"""Accuracy of weights over labelled pictures: in clear, by the plan's polynomials, or with the noise of encryption."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fheinfer.compiler.plan import Plan, Step
from fheinfer.data.datasets import Pictures
from fheinfer.errors import UsageError
from fheinfer.evaluation.batch import Batch, Overflow
from fheinfer.evaluation.metrics import Precision, precision_bits
from fheinfer.evaluation.noise import NoiseModel
from fheinfer.model.model import Weights
from fheinfer.train.evaluate import inputs_of
from fheinfer.train.module import from_weights

MODES = ("clear", "approx", "simulate")
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    logits: (N, classes); reached: activation -> largest |input|, 1 being the range of its polynomials; bits: of the
    decrypted logits against those without noise, simulated or encrypted; same_class: how many pictures get the class
    that they get in clear, encrypted.
    """

    mode: str
    logits: F64
    labels: NDArray[np.uint8]
    seconds: float
    reached: dict[str, float]
    overflows: list[Overflow]
    bits: Precision | None = None
    same_class: int | None = None

    def top(self, k: int) -> float:
        """Part of the pictures whose label is among the k largest logits; none where a logit is not a number."""
        order = np.argsort(-np.nan_to_num(self.logits, nan=-np.inf), axis=1, kind="stable")[:, :k]
        right = (order == self.labels[:, None]).any(axis=1) & np.isfinite(self.logits).all(axis=1)
        return float(right.mean())


def evaluate(
    weights: Weights,
    plan: Plan | None,
    pictures: Pictures,
    mode: str = "approx",
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Runs all `pictures`.

    Args:
        plan: of these weights; not needed in clear.
        mode: clear: the network itself. approx: every polynomial of the plan, exactly. simulate: with the noise of
            encryption, key switching, rescaling, bootstrapping and decryption (`simulation.noise`).
        seed: of the noise.
        progress: told how many pictures are done.

    Raises:
        UsageError: an unknown mode, one that lacks its plan, or a set whose noise is not modelled.
    """
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    if mode == "clear":
        return _in_clear(weights, pictures, progress)
    if plan is None:
        raise UsageError(f"mode {mode} needs a plan of the weights")
    began = time.perf_counter()
    noise = NoiseModel(plan, seed) if mode == "simulate" else None
    exact = Batch(plan)
    noisy = Batch(plan, noise) if noise else exact
    found: list[Tensor] = []
    bits: list[Precision] = []
    for x, _ in inputs_of(pictures, weights.mean, weights.std, torch.device("cpu"), progress):
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
        pictures.labels,
        time.perf_counter() - began,
        noisy.reached,
        noisy.overflows(),
        worst,
    )


@torch.inference_mode()
def _in_clear(weights: Weights, pictures: Pictures, progress: Callable[[int, int], None]) -> Evaluation:
    began = time.perf_counter()
    module = from_weights(weights)
    batches = inputs_of(pictures, weights.mean, weights.std, torch.device("cpu"), progress)
    logits = torch.cat([module(x) for x, _ in batches]).double().numpy()
    return Evaluation("clear", logits, pictures.labels, time.perf_counter() - began, {}, [])


@torch.inference_mode()
def simulated_layers(plan: Plan, image: F64, seed: int = 0) -> dict[str, F64]:
    """The values of every step, (C, H, W) as of `run_slots`, with the noise of an encrypted run, in float32.

    Args:
        image: normalised, (C, H, W).
        seed: of the noise.

    Raises:
        UsageError: a set whose noise is not modelled.
    """
    layers: dict[str, F64] = {}

    def watch(step: Step, y: Tensor) -> None:
        scale = np.asarray(step.scale).reshape(-1, 1, 1)
        layers[step.name] = y[0].double().numpy().reshape(y.shape[1], *(y.shape[2:] or (1, 1))) * scale

    Batch(plan, NoiseModel(plan, seed)).logits(torch.from_numpy(image[None]).float(), watch)
    return layers


def check_top(values: Sequence[int], classes: int) -> None:
    """Raises UsageError for a k that is no number of classes."""
    for k in values:
        if not 1 <= k <= classes:
            raise UsageError(f"--top-k {k}: the network has {classes} classes")
