"""The plan on clear slots: what an encrypted run computes, without noise, in about a second."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.compiler.plan import Plan, Step
from fheinfer.errors import RangeError
from fheinfer.runtime.executor import StepDone, execute

OVERSHOOT = 1e-6
"""How far outside [-1, 1] an activation input may be before it is reported."""


def run_slots(
    plan: Plan,
    image: NDArray[np.floating],
    *,
    layers: dict[str, NDArray[np.float64]] | None = None,
    observer: Callable[[StepDone], None] | None = None,
) -> NDArray[np.float64]:
    """Logits of a normalised (C, H, W) picture.

    Args:
        layers: filled with the values of every step, by name.

    Raises:
        RangeError: an activation's input is outside the interval its polynomial is valid on, with the layer's name.
    """
    evaluator = _core.SlotsEvaluator(plan.params.slots, plan.params.level_model())
    steps = {step.name: step for step in plan.steps}
    outputs: dict[str, NDArray[np.float64]] = {}

    def watch(done: StepDone) -> None:
        outputs[done.step.name] = slots = done.step.values(evaluator.decrypt(done.value))
        if done.step.op == "relu":
            _check_range(steps[done.step.inputs[0]], outputs[done.step.inputs[0]], done.step.name)
        if layers is not None:
            layers[done.step.name] = slots
        if observer:
            observer(done)

    x = evaluator.encrypt(plan.client.pack(image), plan.client.input_level)
    y = execute(plan, evaluator, x, observer=watch)
    return plan.client.unpack(evaluator.decrypt(y))


def _check_range(source: Step, values: NDArray[np.float64], activation: str) -> None:
    largest = float(np.abs(values).max())
    if largest > source.scale * (1 + OVERSHOOT):
        raise RangeError(
            f"the input of activation {activation!r} reaches {largest:.3g} and its polynomial is valid up to "
            f"{source.scale:.3g}; calibrate the ranges on pictures like this one or raise the margin"
        )
