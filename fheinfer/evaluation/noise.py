"""The error an encrypted run adds to every step, by backend.

`native`: a rescaling or a key switch rounds both polynomials of a ciphertext: (1 + h) / 12 of variance in every
coefficient, with h = 2N/3 for a dense ternary secret (Cheon et al., ePrint 2016/421, section 3.3). A slot is a sum of
coefficients, twice as many as there are slots (those between are no part of it, and never come in: factors have none),
of which a real value sees half. That is `unit`, and all but bootstraps add a few of them.

A bootstrap computes sin(2 pi x / r) r / (2 pi) for a message ratio r: less than x by (2 pi / r)^2 x^3 / 6, and with the
noise of EvalMod. The double angles amplify that by 8 / |sin theta| at theta = 2 pi (I - 1/4) / 8, where I, the multiple
of q_0 they remove, is nearly normal with variance h' / 12 for an ephemeral secret of weight h'. So some slots are far
noisier than others. Its size is fitted to bootstraps of sets 1 to 4 at N = 2^11 to 2^14
(docs/explanation/precision.md).

Decryption adds noise of its own: OpenFHE's decoder estimates the error in a ciphertext by the imaginary parts, and adds
as much again, so that a decrypted value says less about the key (Li and Micciancio, ePrint 2020/1533).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fheinfer.compiler.maps import LINEAR
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import Step
from fheinfer.compiler.values import Arrays
from fheinfer.compiler.views import VIEWS
from fheinfer.errors import UsageError
from fheinfer.model.ops import Add, AddConstant, Bootstrap, Chebyshev, SumPool

ERROR = 3.19
"""Standard deviation of the errors of encryption."""
RATIO_BITS, SPARSE_WEIGHT, DOUBLE_ANGLES = 10, 32, 3
"""As in csrc/ckks/bootstrap.h."""
EVAL_MOD_NOISE = 2**16.4
"""Noise of a bootstrap, in units."""


class NoiseModel(Protocol):
    """Adds the error of an encrypted run to the values of a `Batch`."""

    def __call__(self, step: Step | None, x: Tensor, y: Tensor) -> Tensor:
        """Returns `y`, the output of a step on `x`, with its error; encryption's, where there is no step."""

    def decrypted(self, y: Tensor, exact: Tensor) -> Tensor:
        """Returns outputs after decryption; `exact` are the same without any noise."""


class NativeNoise:
    """The noise of the native backend."""

    def __init__(self, plan: Plan, seed: int = 0) -> None:
        self.plan = plan
        self.random = torch.Generator().manual_seed(seed)
        self._n = 1 << plan.params.log_n
        self._scale = 2.0**plan.params.scale_bits
        self._full: set[str] = set()  # values that sums are in: slots between their elements have parts of sums
        for step in plan.steps:
            if not isinstance(step.op, LINEAR) and (isinstance(step.op, SumPool) or self._full & {*step.inputs}):
                self._full.add(step.name)

    def __call__(self, step: Step | None, x: Tensor, y: Tensor) -> Tensor:
        if step is None:
            return self._add(y, self.fresh)
        if isinstance(step.op, Bootstrap):
            return self._bootstrap(y)
        if isinstance(step.op, LINEAR):
            y = y + self._normal(y) * self._encoded(step, x).view(-1, *[1] * (y.dim() - 1))
        return self._add(y, self.added(step))

    def _slots(self, coefficient_variance: float) -> float:
        """Standard deviation of a real slot value, given the variance of every coefficient."""
        return math.sqrt(self.plan.params.slots * coefficient_variance) / self._scale

    @property
    def unit(self) -> float:
        """Standard deviation of what one rescaling or key switch adds to a slot."""
        return self._slots((1 + 2 * self._n / 3) / 12)

    @property
    def fresh(self) -> float:
        """Standard deviation of the noise of an input, which is encrypted under the secret key."""
        return self._slots(ERROR**2)

    def added(self, step: Step) -> Tensor:
        """Standard deviation of what a step adds to its output: one number, or one per element of a linear map.

        Key switches of rotated inputs are weighted like these, so that their variances go through the map with its
        weights squared. Those of Horner sums and of rotate-and-sum come before the rescaling, which divides them away.
        """
        op = step.op
        units = 2.0  # variance, in units squared: a product's rescaling and relinearisation
        if isinstance(op, LINEAR):
            return self._unit_of(_through_squares(step, self.plan.constants) + 1)
        if isinstance(op, Chebyshev):
            # Each T_k carries about k units, as its slope does; the last products add theirs.
            series = self.plan.constants[op.coefficients]
            units += float(np.square(series * np.arange(len(series))).sum())
        elif isinstance(op, SumPool):
            units = float(math.prod(step.in_packings[0].shape[1:]))
        elif isinstance(op, (Add, AddConstant, *VIEWS)):
            units = 0.0
        return self._unit_of(torch.tensor(units))

    def _unit_of(self, variance: Tensor) -> Tensor:
        return variance.sqrt() * self.unit

    def _encoded(self, step: Step, x: Tensor) -> Tensor:
        """Standard deviation, one per image, of what rounding the coefficients of diagonals adds to the output.

        Such an error is in all slots of a diagonal, zeros too, and is multiplied by what the input has there. Where the
        output has a shorter period than the input, rotate-and-sum adds up so many slots of each product.
        """
        source, target = step.in_packings[0], step.packing
        slots = source.size if step.inputs[0] in self._full else source.period * source.ciphertexts
        mean_square = x.square().flatten(1).sum(1) / slots
        products = step.multiplications / target.ciphertexts * max(1.0, source.total / target.total)
        return self._slots(1 / 12) * (products * mean_square).sqrt()

    def decrypted(self, y: Tensor, exact: Tensor) -> Tensor:
        """Returns `y` after decryption, which adds as much noise as there is in the result of each input."""
        noise = (y - exact).square().flatten(1).mean(1).sqrt()
        return y + self._normal(y) * noise.view(-1, *[1] * (y.dim() - 1))

    def _add(self, y: Tensor, deviation: Tensor | float) -> Tensor:
        return y + self._normal(y) * deviation

    def _normal(self, y: Tensor) -> Tensor:
        return torch.empty_like(y).normal_(generator=self.random)

    def _bootstrap(self, y: Tensor) -> Tensor:
        multiple = torch.round(self._normal(y) * math.sqrt(SPARSE_WEIGHT / 12))
        theta = 2 * math.pi * (multiple - 0.25) / (1 << DOUBLE_ANGLES)
        deviation = self.bootstrap / (_MEAN_AMPLIFICATION * torch.sin(theta).abs())
        sine = (2 * math.pi / (1 << RATIO_BITS)) ** 2 / 6
        return y - sine * y**3 + self._normal(y) * deviation

    @property
    def bootstrap(self) -> float:
        """Standard deviation of the noise of a bootstrap, over all I."""
        return EVAL_MOD_NOISE * self.unit


def _through_squares(step: Step, constants: Arrays) -> Tensor:
    """What a linear map without its bias makes of ones where its weights are squared, (*shape)."""
    own = {role: torch.from_numpy(constants[name]).float() for role, name in step.op.tensors.items() if role != "bias"}
    ones = torch.ones(1, *step.in_packings[0].shape)
    return step.op.reference([ones], {role: weight.square() for role, weight in own.items()})[0]


def _mean_amplification() -> float:
    """Root mean square of 1 / |sin theta|."""
    i = np.arange(-12, 13)
    weight = np.exp(-(i**2) / (2 * SPARSE_WEIGHT / 12))
    theta = 2 * np.pi * (i - 0.25) / (1 << DOUBLE_ANGLES)
    return float(np.sqrt((weight / np.sin(theta) ** 2).sum() / weight.sum()))


_MEAN_AMPLIFICATION = _mean_amplification()

NOISE_MODELS: dict[str, Callable[[Plan, int], NoiseModel]] = {"native": NativeNoise}
"""By name of the backend; one that is not here cannot be simulated."""


def noise_model(plan: Plan, seed: int = 0) -> NoiseModel:
    """Returns the noise of the backend that a plan is for, of that seed.

    Raises:
        UsageError: the noise of that backend is not modelled.
    """
    if plan.backend.name not in NOISE_MODELS:
        raise UsageError(
            f"the noise of the {plan.backend.name} backend is not modelled; compile for {' or '.join(NOISE_MODELS)} "
            "to simulate an encrypted run"
        )
    return NOISE_MODELS[plan.backend.name](plan, seed)
