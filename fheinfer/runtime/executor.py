"""One loop over plan steps, for every evaluator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fheinfer import _core
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import Step

Value = tuple[_core.Ciphertext, ...]
"""A tensor: the ciphertexts that it is in."""


@dataclass(frozen=True)
class StepDone:
    """What an observer is told after each step. `seconds` is measured, `step.seconds` was predicted."""

    index: int
    total: int
    step: Step
    level: int
    seconds: float
    value: Value


StepObserver = Callable[[StepDone], None]


class Checkpoints(Protocol):
    """Where a run may stop and start again: after activations, with all values that are alive then, by name."""

    def save(self, index: int, values: Mapping[str, Value]) -> bool: ...

    def latest(self) -> tuple[int, dict[str, Value]] | None: ...


def execute(
    plan: Plan,
    evaluator: _core.Evaluator,
    x: Value,
    *,
    encoded: Mapping[str, _core.LinearMapConstants] | None = None,
    observer: StepObserver | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
) -> dict[str, Value]:
    """Runs the plan on an input and returns the outputs by name.

    Args:
        encoded: what is kept of the diagonals of linear maps, by step.
        checkpoints: told of the values that are alive after every activation, and after the steps that follow until it
            can save them.
        resume: start after the last step that `checkpoints` has.
    """
    values = {plan.steps[0].inputs[0]: x}
    start, due = 0, False
    if resume and checkpoints and (found := checkpoints.latest()):
        index, values = found
        start = index + 1
    for index in range(start, len(plan.steps)):
        step = plan.steps[index]
        began = time.perf_counter()
        inputs = [values[name] for name in step.inputs]
        values[step.name] = step.apply(evaluator, plan.constants, inputs, (encoded or {}).get(step.name))
        seconds = time.perf_counter() - began
        for name in [n for n in values if plan.last_use.get(n, len(plan.steps)) <= index]:
            del values[name]
        value = values[step.name]
        due = due or bool(step.activation)
        if checkpoints and due:
            due = not checkpoints.save(index, values)
        if observer:
            observer(StepDone(index, len(plan.steps), step, evaluator.level(value[0]), seconds, value))
    return {name: values[name] for name in plan.outputs}
