"""One pass of a batch of inputs through the steps of a plan, in torch: what an encrypted run computes, many at once.

Values are those of the slots (value = slot * scale), so polynomials see what they see encrypted, ranges included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import BOOTSTRAPPED, Step
from fheinfer.model.ops import Chebyshev

Noise = Callable[[Step | None, Tensor, Tensor], Tensor]
"""Step, its (first) input, its output -> the output with the error an encrypted run would add to it; None and twice the
input of the network for encryption."""
BatchObserver = Callable[[Step, Tensor], None]
"""Called after each step with its output, (B, C, H, W) or (B, F), in slots."""

ROUNDING = 1e-5
"""How far beyond 1 an input may be: between stages of a composite they reach 1, and these are single precision."""
_CHUNK = 1 << 16  # elements of a polynomial at once: what a second-level cache holds


@dataclass(frozen=True)
class Overflow:
    """Inputs of an activation beyond what its polynomials are valid for, in so many `images`."""

    activation: str
    images: int
    largest: float


class Batch:
    """Runs batches through a plan and keeps count of ranges.

    Attributes:
        reached: activation -> largest |input| of any of its polynomials, 1 being the range.
        beyond: activation -> images with an input beyond the range.
    """

    def __init__(self, plan: Plan, noise: Noise | None = None) -> None:
        self.plan, self.noise = plan, noise
        self.constants = {name: torch.from_numpy(array).float() for name, array in plan.constants.items()}
        self.reached: dict[str, float] = {}
        self.beyond: dict[str, int] = {}

    @torch.inference_mode()
    def outputs(self, images: Tensor, observer: BatchObserver | None = None) -> dict[str, Tensor]:
        """Computes the outputs by name, (B, *shape), of normalised float32 images (B, C, H, W), or vectors (B, F)."""
        plan = self.plan
        self._outside: dict[str, Tensor] = {}
        x = _encrypted(plan, images) / plan.client.input.scale
        values = {plan.steps[0].inputs[0]: self.noise(None, x, x) if self.noise else x}
        for index, step in enumerate(plan.steps):
            inputs = [values[name] for name in step.inputs]
            if isinstance(step.op, BOOTSTRAPPED):
                self._note(step, inputs[0])
            y = _apply(step, inputs, {role: self.constants[name] for role, name in step.op.tensors.items()})
            values[step.name] = self.noise(step, inputs[0], y) if self.noise else y
            if observer:
                observer(step, values[step.name])
            for name in [n for n in values if plan.last_use.get(n, len(plan.steps)) <= index]:
                del values[name]
        for name, outside in self._outside.items():
            self.beyond[name] = self.beyond.get(name, 0) + int(outside.sum())
        return {o.name: values[o.name].reshape(-1, *o.shape) * o.scale for o in plan.client.outputs}

    def _note(self, step: Step, x: Tensor) -> None:
        largest = x.abs().flatten(1).amax(1) / step.valid_range(self.plan.params.max_slot)
        # An image that is not a number any more has left a range before.
        most = float(largest.nan_to_num(torch.inf).max())
        self.reached[step.activation] = max(self.reached.get(step.activation, 0.0), most)
        outside = ~(largest <= 1 + ROUNDING)
        self._outside[step.activation] = self._outside.get(step.activation, outside) | outside

    def overflows(self) -> list[Overflow]:
        """Lists the activations that left their range, in the order of the network."""
        return [Overflow(name, n, self.reached[name]) for name, n in self.beyond.items() if n]


def _encrypted(plan: Plan, images: Tensor) -> Tensor:
    """What is encrypted of the inputs: of a split model the output of its first layers."""
    if plan.client.before is None:
        return images
    return torch.from_numpy(plan.client.encrypted(images.double().numpy())).to(images.dtype)


def _apply(step: Step, inputs: list[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    if isinstance(step.op, Chebyshev):
        return chebyshev(inputs[0], tensors["coefficients"])
    return step.op.reference(inputs, tensors)


def chebyshev(x: Tensor, coefficients: Tensor) -> Tensor:
    """Computes sum_k coefficients[k] T_k(x), element-wise, on pieces that stay in the cache.

    With y = 2 x^2 - 1, T_2k(x) = T_k(y) and 2 x T_2k = T_2k+1 + T_2k-1, so it is E(y) + x O(y) with series of half the
    degree; of ReLU the odd one is a constant, of a sign the even one.
    """
    c = coefficients.tolist() + [0.0] * (len(coefficients) % 2)
    even, odd = c[::2], [2 * value for value in c[1::2]]
    for k in range(len(odd) - 2, -1, -1):
        odd[k] -= odd[k + 1]
    odd[0] /= 2
    out = torch.empty_like(x)
    for source, target in zip(_pieces(x), _pieces(out), strict=True):
        y = (source * source).mul_(2).sub_(1)
        torch.addcmul(_clenshaw(even, y), source, _clenshaw(odd, y), out=target)
    return out


def _clenshaw(c: list[float], y: Tensor) -> Tensor:
    """b_k = c_k + 2 y b_k+1 - b_k+2, with b_k = s e_k, s = +, +, -, - in turn: then no operand has to be negated."""
    while len(c) > 1 and c[-1] == 0:
        c = c[:-1]
    twice, e1, e2 = 2 * y, torch.zeros_like(y), torch.zeros_like(y)
    for k in range(len(c) - 1, 0, -1):
        sign, ratio = (-1) ** (k // 2), (-1) ** k
        e2.addcmul_(twice, e1, value=ratio).add_(sign * c[k])
        e1, e2 = e2, e1
    return torch.addcmul(e2, y, e1).add_(c[0])  # b_0 - y b_1, of which b_0 = c_0 + 2 y b_1 - b_2 and b_2 = -e_2


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """Views of all elements in memory order."""
    flat = x.permute(0, 2, 3, 1) if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) else x
    return torch.split(flat.reshape(-1), _CHUNK)
