"""The network in clear, in float64: the reference every encrypted result is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fheinfer.errors import InputError
from fheinfer.model.model import Weights
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from torch import Tensor

F64 = npt.NDArray[np.float64]


def plain_outputs(weights: Weights, image: F64) -> F64:
    """Logits, (classes,), of one normalised picture (3, H, W).

    Raises:
        UsageError: torch is not installed.
        InputError: the picture is not of the network's input shape.
    """
    return plain_layers(weights, image)[weights.graph.output.name]


def plain_layers(weights: Weights, image: F64) -> dict[str, F64]:
    """The output of every node, (C, H, W) or (F,), by node name in graph order.

    Raises:
        UsageError: torch is not installed.
        InputError: the picture is not of the network's input shape.
    """
    with needs_torch("the plain reference"):
        import torch

        from fheinfer.train.module import from_weights
    shape = tuple(weights.graph.input.attrs["shape"])
    if image.shape != shape:
        raise InputError(f"{weights.network} takes inputs of {shape}, not {image.shape}")
    with torch.inference_mode():
        x: Tensor = torch.tensor(image, dtype=torch.float64)
        values = from_weights(weights, torch.float64).forward_all(x.unsqueeze(0))
    return {name: np.asarray(value[0].numpy(), dtype=np.float64) for name, value in values.items()}
