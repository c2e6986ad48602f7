"""ReLU by a composite of odd polynomials whose coefficients are weights (Tong et al., SmartPAF, arXiv 2404.03216)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LEAST = 1e-6
_FARTHEST = 2.0
"""In training, the sign stands still from this many scales on: powers of powers would be no numbers, and what pulls
such an input back is the penalty."""


class PAF(nn.Module):
    """y = (x + x s(x / scale)) / 2, s a composite of odd polynomials of the given degrees.

    `coefficients`, (sum of (degree + 1) / 2,), are those of x, x^3, ... of one polynomial after the other, in the order
    they are applied; `scale`, (1,), is fixed: an input of this size is 1 to the first polynomial. For training only,
    `dynamic` puts the largest |input| of each batch in its place, and while `waiting` holds a 1 the layer is a ReLU.
    """

    def __init__(self, degrees: Sequence[int]) -> None:
        super().__init__()
        self.lengths = [(degree + 1) // 2 for degree in degrees]
        self.coefficients = nn.Parameter(torch.zeros(sum(self.lengths)))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(1))
        self.dynamic = False
        self.waiting: Tensor | None
        self.register_buffer("waiting", None, persistent=False)  # a tensor, so that a compiled network stays one

    def forward(self, x: Tensor) -> Tensor:
        """Works element-wise; in float32 or better, for the powers."""
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        s = wide / (wide.detach().abs().amax().clamp_min(_LEAST) if self.dynamic else self.scale)
        if self.training:
            s = s.clamp(-_FARTHEST, _FARTHEST)
        for stage in torch.split(self.coefficients, self.lengths):
            square, value = s * s, stage[-1]
            for coefficient in stage[:-1].flip(0):
                value = value * square + coefficient
            s = value * s
        y = 0.5 * (wide + wide * s)
        return (y if self.waiting is None else torch.where(self.waiting, wide.relu(), y)).to(x.dtype)
