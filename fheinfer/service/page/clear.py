"""The network in clear, for comparison: of a model file on this machine, computed by this process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.data.resources import default_model
from fheinfer.errors import UsageError, WeightsError
from fheinfer.evaluation.plain import plain_values
from fheinfer.model.model import load
from fheinfer.optional import have

F64 = NDArray[np.float64]


class InClear:
    """Computes what a service's network returns by the model of the same name that is here.

    Args:
        file: that model; without one, those that came with fheinfer.

    Raises:
        FheinferError: the file is not there, or no model.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._given = None if file is None else load(file)

    def has(self, spec: ClientSpec) -> bool:
        """Whether there is something to compare with: PyTorch, and a model."""
        return have("torch") and (
            self._shipped(spec) is not None if self._given is None else self._given.name == spec.model
        )

    def outputs(self, spec: ClientSpec, x: F64) -> dict[str, F64]:
        """Every output by name, as `Client.outputs`.

        Raises:
            UsageError: there is no such model, or no PyTorch.
            FheinferError: the file is no model.
        """
        file = self._shipped(spec) if self._given is None else None
        model = self._given if file is None else load(file)
        if model is None or model.name != spec.model:
            raise UsageError(f"no model of {spec.model} is here to compare with; name its file with --model")
        return plain_values(model, x)

    def _shipped(self, spec: ClientSpec) -> Path | None:
        with suppress(WeightsError):
            if Path(spec.model).name == spec.model:  # the service says this name
                return default_model(spec.model)
        return None
