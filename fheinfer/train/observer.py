"""Where a training run stands, for whoever watches it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fheinfer.progress import ProgressCallback


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands; `held_out` is the accuracy (0..1) on held-out images at the end of an epoch, else None.

    Images that would not survive encryption count as wrong (`evaluate.accuracy`), so no such epoch is chosen lightly.
    Between epochs, before the first and after the last, `measuring` says what is measured, and steps are images.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    held_out: float | None = None
    measuring: str = ""


TrainingObserver = Callable[[TrainingProgress], None]


def unobserved(progress: TrainingProgress) -> None:
    """An observer that does nothing."""


def measuring(observer: TrainingObserver, epoch: int, epochs: int) -> Callable[[str], ProgressCallback]:
    """Returns what makes, of the name of a measurement, a progress callback that passes it on to the observer."""

    def callback(what: str) -> ProgressCallback:
        return lambda done, total: observer(TrainingProgress(epoch, epochs, done, total, math.nan, measuring=what))

    return callback
