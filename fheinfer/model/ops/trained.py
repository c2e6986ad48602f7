"""Polynomial activations that a network was trained with: valid only as far as its inputs went in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fheinfer.model.ops.activations import Activation
from fheinfer.model.ops.base import Invalid, Shape, per_channel, positive, whole

if TYPE_CHECKING:
    from torch import Tensor

HERMITE = (1 / math.sqrt(2 * math.pi), 0.5, 1 / math.sqrt(4 * math.pi))
"""ReLU's coefficients on the Hermite polynomials 1, x and (x^2 - 1) / sqrt(2), which are orthonormal under N(0, 1)."""


@dataclass(frozen=True)
class HerPN(Activation):
    """A quadratic in place of a ReLU, each Hermite term normalised (Park et al., AESPA, arXiv 2201.06699).

    weight * sum_i f_i (h_i(x) - mean_i) / sqrt(var_i + eps) + bias per channel, h_1 = x, h_2 = (x^2 - 1) / sqrt(2).
    """

    kind = "herpn"
    polynomial = True
    TENSORS = ("weight", "bias", "mean", "var")
    eps: float
    weight: str
    bias: str
    mean: str
    var: str

    def check(self, inputs: Sequence[Shape]) -> None:
        positive("eps", self.eps)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        channels = inputs[0][0]
        return {"weight": (channels,), "bias": (channels,), "mean": (2, channels), "var": (2, channels)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        x, t = inputs[0], tensors
        terms = []
        for i, h in enumerate((x, (x * x - 1) / math.sqrt(2))):
            weight = t["weight"] * HERMITE[i + 1]
            terms.append(functional.batch_norm(h, t["mean"][i], t["var"][i], weight, None, False, 0.0, self.eps))
        return terms[0] + terms[1] + per_channel(t["bias"], x)


@dataclass(frozen=True)
class Paf(Activation):
    """(x + x s(x / scale)) / 2, s a composite of odd polynomials (Tong et al., SmartPAF, arXiv 2404.03216).

    `degrees` are those of the polynomials in the order they are applied; `coefficients` holds those of x, x^3, ... of
    one after the other.
    """

    kind = "paf"
    polynomial = True
    TENSORS = ("coefficients", "scale")
    degrees: tuple[int, ...]
    coefficients: str
    scale: str

    def check(self, inputs: Sequence[Shape]) -> None:
        if not isinstance(self.degrees, tuple) or not self.degrees:
            raise Invalid(f"degrees {self.degrees!r} are no tuple of odd numbers")
        for degree in self.degrees:
            if whole("a degree", degree, 1) % 2 == 0:
                raise Invalid(f"degree {degree} is even; polynomials of a PAF are odd")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Coefficients of each polynomial."""
        return tuple((degree + 1) // 2 for degree in self.degrees)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"coefficients": (sum(self.lengths),), "scale": (1,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        x = inputs[0]
        s = x / tensors["scale"]
        for stage in torch.split(tensors["coefficients"], list(self.lengths)):
            square, value = s * s, stage[-1]
            for coefficient in stage[:-1].flip(0):
                value = value * square + coefficient
            s = value * s
        return 0.5 * (x + x * s)
