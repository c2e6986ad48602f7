"""Training as the command line shows it: how far it is, and one line per epoch that stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from fheinfer.cli.display import err
from fheinfer.cli.progress import Meter
from fheinfer.train.observer import TrainingObserver, TrainingProgress


@contextmanager
def training_view(console: Console = err) -> Iterator[TrainingObserver]:
    """An observer for `train`; its bar is removed at the end, also on errors."""
    with Meter("training", "count", console) as meter:
        at = (0.0, 0.0)

        def observe(progress: TrainingProgress) -> None:
            nonlocal at
            if progress.measuring:
                share = 100 * progress.step / max(1, progress.steps)
                meter.update(*at, f"measuring {progress.measuring}, {share:.0f} %")
                return
            at = (progress.epoch * progress.steps + progress.step, progress.epochs * progress.steps)
            meter.update(*at, f"epoch {progress.epoch + 1}/{progress.epochs}, loss {progress.loss:.3f}")
            if progress.held_out is not None:
                meter.print(
                    f"epoch {progress.epoch + 1:3}/{progress.epochs}  loss {progress.loss:.3f}  "
                    f"held out {100 * progress.held_out:.2f} %"
                )

        yield observe
