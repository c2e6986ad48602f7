"""HerPN: a quadratic in place of ReLU, every term of it normalised (Park et al., AESPA, arXiv 2201.06699)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fheinfer.model.ops import HERMITE


class HerPN(nn.Module):
    """y = weight * sum_i f_i (h_i(x) - mean_i) / sqrt(var_i + eps) + bias per channel, i = 1, 2.

    h_1 = x and h_2 = (x^2 - 1) / sqrt(2) are Hermite polynomials and f_i ReLU's coefficients on them. (h_0 = 1
    normalises to nothing.) `mean` and `var` (2, channels) are running statistics, as a batch norm has them.
    `fheinfer.approx.quadratic.folded` gives the quadratic of each channel.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, 0.1
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(2, channels))
        self.register_buffer("var", torch.ones(2, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Takes (B, C, H, W) of any float kind; the square and its statistics are taken in float32 or better."""
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        first = self._normalised(0, wide, self.bias)
        return (first + self._normalised(1, (wide * wide - 1) / math.sqrt(2), None)).to(x.dtype)

    def _normalised(self, i: int, h: Tensor, bias: Tensor | None) -> Tensor:
        weight = self.weight * HERMITE[i + 1]
        mean, var = self.mean[i], self.var[i]
        return functional.batch_norm(h, mean, var, weight, bias, self.training, self.momentum, self.eps)
