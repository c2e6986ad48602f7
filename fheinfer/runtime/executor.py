"""One loop over plan steps, for every evaluator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fheinfer import _core
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import Step


@dataclass(frozen=True)
class StepDone:
    """What an observer is told after each step. `seconds` is measured, `step.seconds` was predicted."""

    index: int
    total: int
    step: Step
    level: int
    seconds: float
    value: _core.Ciphertext


StepObserver = Callable[[StepDone], None]


class Checkpoints(Protocol):
    """Where a run may stop and start again: steps after which a single value is alive."""

    def save(self, index: int, step: Step, value: _core.Ciphertext) -> None: ...

    def latest(self) -> tuple[int, _core.Ciphertext] | None: ...


def execute(
    plan: Plan,
    evaluator: _core.Evaluator,
    x: _core.Ciphertext,
    *,
    encoded: Mapping[str, _core.LinearMapConstants] | None = None,
    observer: StepObserver | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
) -> _core.Ciphertext:
    """Runs the plan on `x` and returns the logits' ciphertext.

    `encoded` has what is kept of the diagonals of linear maps, by step. With `checkpoints`, every value that is alone
    alive after an activation is saved; with `resume`, the run starts after the last one saved.
    """
    values = {plan.steps[0].inputs[0]: x}
    start = 0
    if resume and checkpoints and (found := checkpoints.latest()):
        index, value = found
        values = {plan.steps[index].name: value}
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
        if checkpoints and step.activation and len(values) == 1:
            checkpoints.save(index, step, value)
        if observer:
            observer(StepDone(index, len(plan.steps), step, evaluator.level(value), seconds, value))
    return values[plan.steps[-1].name]
