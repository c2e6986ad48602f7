"""Each layer of Brevitas as the layer of PyTorch that it is without its quantisers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fheinfer.errors import GraphError

QUANTISERS = ("weight_quant", "bias_quant", "act_quant", "input_quant", "output_quant")
"""Attributes of a layer that quantise something."""
_FAR = 1e30
"""Where every clipping range has ended; a quantiser that returns it clips nothing."""


def values(result: Any) -> Any:
    """The numbers of a quantised tensor, or the tensor itself."""
    return getattr(result, "value", result)


@dataclass
class Layer:
    """A layer of Brevitas, and what its quantisers did while the network was run.

    module   the layer
    kind     name of its class
    label    where it is, for messages
    was_run  whether the network uses it
    numbers  quantised weight and bias, by quantiser
    shapes   of what each quantiser took
    """

    module: Any
    kind: str
    label: str
    was_run: bool = False
    numbers: dict[str, Tensor] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)

    def fail(self, why: str) -> NoReturn:
        """Refuses the layer with a GraphError that names it."""
        raise GraphError(f"{self.label}: {why}")

    def ran(self, _module: nn.Module, _inputs: Any, _result: Any) -> None:
        """The hook of the layer itself."""
        self.was_run = True

    def recorder(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """The hook of a quantiser."""

        def record(_module: nn.Module, inputs: Any, result: Any) -> None:
            self.shapes[name] = values(inputs[0]).shape
            if name not in ("weight_quant", "bias_quant"):
                return
            numbers = values(result).detach().clone()
            if not torch.equal(self.numbers.setdefault(name, numbers), numbers):
                self.fail(f"is used twice with another {name}, by the scale of its input; make two layers of it")

        return record

    def clip(self, name: str, low: float | None = None) -> nn.Module:
        """What a quantiser of activations does but for rounding: nothing, or a clip to the range of its numbers.

        Args:
            low: smallest number that reaches the quantiser.
        """
        quantiser: Any = getattr(self.module, name, None)
        shape = self.shapes.get(name)
        if shape is None or not quantiser.is_quant_enabled:
            return nn.Identity()
        ends = [values(quantiser(torch.full(shape, end))).flatten() for end in (-_FAR, _FAR)]
        if any(bool((end != end[0]).any()) for end in ends):
            self.fail(f"its {name} has a range for each channel; use one range for the whole tensor")
        least, most = (float(end[0]) for end in ends)
        least = least if low is None else max(least, low)
        if most >= _FAR / 2:
            return nn.Identity()
        if not least < most:
            self.fail(f"its {name} leaves nothing between {least:g} and {most:g}; train it again")
        return nn.Hardtanh(least, most)

    def framed(self, made: nn.Module) -> nn.Module:
        """A layer behind the quantiser of its input and before that of its output, where it has them."""
        before, after = self.clip("input_quant"), self.clip("output_quant")
        if isinstance(before, nn.Identity) and isinstance(after, nn.Identity):
            return made
        return nn.Sequential(OrderedDict(input=before, layer=made, output=after))


def _weights(layer: Layer, made: Any) -> nn.Module:
    """The layer with the numbers of the quantised weight and bias."""
    bias = layer.numbers.get("bias_quant", layer.module.bias)
    made.weight = nn.Parameter(layer.numbers["weight_quant"])
    made.bias = None if bias is None else nn.Parameter(bias.detach().clone().reshape(-1))
    return layer.framed(made)


def _linear(layer: Layer) -> nn.Module:
    return _weights(layer, nn.Linear(layer.module.in_features, layer.module.out_features))


def _convolution(layer: Layer) -> nn.Module:
    module = layer.module
    if getattr(module, "is_same_padded_strided", False):
        layer.fail("has 'same' padding and a stride; give its padding in numbers")
    options = {"output_padding": module.output_padding} if module.transposed else {}
    made = getattr(nn, layer.kind.removeprefix("Quant"))(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
        **options,
    )
    return _weights(layer, made)


def _relu(layer: Layer) -> nn.Module:
    """A ReLU up to the largest number that its quantiser has."""
    clip = layer.clip("act_quant", low=0.0)
    return layer.framed(nn.ReLU() if isinstance(clip, nn.Identity) else clip)


def _hard_tanh(layer: Layer) -> nn.Module:
    clip = layer.clip("act_quant")
    if isinstance(clip, nn.Identity):
        layer.fail("has no quantiser that says where it ends; use nn.Hardtanh")
    return layer.framed(clip)


class _Sum(nn.Module):
    """The sum of two values, each behind the quantiser of inputs."""

    def __init__(self, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total: Tensor = self.after(self.before(a) + self.before(b))
        return total


MAKERS: dict[str, Callable[[Layer], nn.Module]] = {
    "QuantLinear": _linear,
    "QuantConv1d": _convolution,
    "QuantConv2d": _convolution,
    "QuantConvTranspose1d": _convolution,
    "QuantConvTranspose2d": _convolution,
    "QuantReLU": _relu,
    "QuantHardTanh": _hard_tanh,
    "QuantIdentity": lambda layer: layer.clip("act_quant"),
    "QuantSigmoid": lambda layer: layer.framed(nn.Sigmoid()),
    "QuantTanh": lambda layer: layer.framed(nn.Tanh()),
    "QuantEltwiseAdd": lambda layer: _Sum(layer.clip("input_quant"), layer.clip("output_quant")),
}
"""Class of Brevitas -> what makes the layer of PyTorch."""
