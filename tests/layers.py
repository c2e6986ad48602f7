"""Layers on the ciphertexts of any evaluator, for tests of evaluators."""

from __future__ import annotations

from typing import Any

import numpy as np

from fheinfer import _core
from fheinfer.compiler.maps import linear_map
from fheinfer.model.ops import Conv2d, Linear
from fheinfer.packing import Packing, plain, spread


def layer(
    evaluator: Any, x: Any, weight: np.ndarray, bias: np.ndarray, source: Packing, target: Packing, stride: int = 1
) -> Any:
    """A convolution, or a linear layer, by the shape of its weight, in one ciphertext, plus a bias."""
    y = _core.linear_map(evaluator, [x], layer_map(weight, source, target, stride))[0]
    return evaluator.add_plain(y, plain(spread(bias, target.shape), target)[0])


def layer_map(weight: np.ndarray, source: Packing, target: Packing, stride: int = 1) -> _core.LinearMap:
    """The map of a convolution, padded by half its kernel, or of a linear layer."""
    size = weight.shape[-1]
    op = Conv2d(len(weight), size, stride, size // 2, "w") if weight.ndim == 4 else Linear(len(weight), "w")
    return linear_map(op, {"w": weight}, source, target)
