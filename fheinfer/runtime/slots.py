"""The plan on clear slots: what an encrypted run computes, without noise, in about a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.approx.forms import OVERSHOOT
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import BOOTSTRAPPED, Step
from fheinfer.crypto.client_tensors import InputSpec
from fheinfer.errors import RangeError
from fheinfer.packing import spread
from fheinfer.runtime.executor import StepDone, execute


def run_slots(
    plan: Plan,
    image: NDArray[np.floating],
    *,
    layers: dict[str, NDArray[np.float64]] | None = None,
    observer: Callable[[StepDone], None] | None = None,
) -> Any:
    """What the network returns of a normalised input, (C, H, W) or (F,), as `Client.decrypt` returns it.

    Arguments and errors are those of `slots_outputs`.
    """
    return plan.client.finish(slots_outputs(plan, image, layers=layers, observer=observer))


def slots_outputs(
    plan: Plan,
    image: NDArray[np.floating],
    *,
    layers: dict[str, NDArray[np.float64]] | None = None,
    observer: Callable[[StepDone], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Every output by name, as a server computes it, of a normalised input.

    Args:
        layers: filled with the values of every step, by name.

    Raises:
        RangeError: an activation's input is outside the interval its polynomial is valid on, with the layer's name.
    """
    evaluator = _core.SlotsEvaluator(plan.params.slots, plan.backend.level_model(plan.params))
    readers: dict[str, list[Step]] = {}  # activations, by what they read
    for step in plan.steps:
        if isinstance(step.op, BOOTSTRAPPED):
            readers.setdefault(step.inputs[0], []).append(step)

    def check(source: Step | InputSpec, name: str, values: NDArray[np.float64]) -> None:
        for step in readers.get(name, ()):
            _check_range(source, values, step, plan.params.max_slot)

    def observe(done: StepDone) -> None:
        if layers is not None or done.step.name in readers:
            values = done.step.values([evaluator.decrypt(one) for one in done.value])
            check(done.step, done.step.name, values)
            if layers is not None:
                layers[done.step.name] = values
        if observer:
            observer(done)

    x = tuple(evaluator.encrypt(slots, plan.client.input.level) for slots in plan.client.pack(image))
    if (entry := plan.steps[0].inputs[0]) in readers:
        check(plan.client.input, entry, np.asarray(image, np.float64).reshape(plan.client.input.shape))
    y = execute(plan, evaluator, x, observer=observe)
    decrypted = [evaluator.decrypt(ciphertext) for name in plan.outputs for ciphertext in y[name]]
    return plan.client.unpack(decrypted)


def _check_range(source: Step | InputSpec, values: NDArray[np.float64], step: Step, max_slot: float) -> None:
    scale = spread(source.scale, source.shape) * step.valid_range(max_slot)
    ratio = np.abs(values / scale)
    if not ratio.max() <= 1 + OVERSHOOT:  # NaN, too
        worst = np.unravel_index(np.nanargmax(ratio), ratio.shape)
        bound = np.broadcast_to(scale, ratio.shape)[worst]
        raise RangeError(
            f"the input of activation {step.activation!r} reaches {abs(values[worst]):.3g} and its polynomial is valid "
            f"up to {bound:.3g}; raise the margin, or measure ranges on images like this one (fheinfer calibrate); "
            "the scale of a PAF is part of the weights"
        )
