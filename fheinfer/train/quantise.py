"""Weights of few bits: a grid for each output channel, and a gradient that passes straight through the rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def quantised(weight: Tensor, bits: int) -> Tensor:
    """Rounds to the nearest of 2^bits - 1 values k s, |k| < 2^(bits - 1).

    The step s of each output channel is such that its largest |weight| is one of them.
    The gradient is that of `weight` itself (Bengio et al., arXiv 1308.3432).

    Args:
        weight: output channels first.
        bits: 2 or more; 0 leaves the weight as it is.
    """
    if not bits:
        return weight
    exact = weight.detach()
    largest = exact.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    step = (largest / (2 ** (bits - 1) - 1)).clamp_min(torch.finfo(weight.dtype).tiny)
    rounded: Tensor = (exact / step).round() * step
    return rounded + (weight - exact)  # the second term is 0 and carries the gradient


class Conv2d(nn.Conv2d):
    """A convolution whose weight is quantised on the way, to `bits` if not 0."""

    bits = 0

    def forward(self, x: Tensor) -> Tensor:
        weight = quantised(self.weight, self.bits)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Linear(nn.Linear):
    """The same for a linear layer over all features of its input."""

    bits = 0

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), quantised(self.weight, self.bits), self.bias)


@torch.no_grad()
def fix(module: nn.Module) -> None:
    """Makes the weights what they are rounded to, for good: what runs then is a plain network on a grid."""
    for layer in module.modules():
        if isinstance(layer, Conv2d | Linear):
            layer.weight.copy_(quantised(layer.weight, layer.bits))
            layer.bits = 0
