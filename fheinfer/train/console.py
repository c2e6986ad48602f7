"""A progress bar with the time left, and one line an epoch that stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fheinfer.train.loop import Observer, Progress


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Observer]:
    """An observer for `train`; the bar is removed at the end, also on errors."""
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("loss {task.fields[loss]:.3f}"), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn(elapsed_when_finished=True))
    with Bar(*columns, console=console, transient=True, speed_estimate_period=120) as bar:
        task = bar.add_task("train", total=None, epoch=0, loss=float("nan"))
        first: list[int] = []  # a resumed run starts in the middle, and the speed counts from there

        def observe(progress: Progress) -> None:
            done = progress.epoch * progress.steps + progress.step
            if not first:
                first.append(done - 1)
                bar.reset(task, total=progress.epochs * progress.steps, completed=done - 1)
            bar.update(task, completed=done, epoch=f"{progress.epoch + 1}/{progress.epochs}", loss=progress.loss)
            if progress.held_out is not None:
                bar.console.print(f"epoch {progress.epoch + 1:3}/{progress.epochs}  loss {progress.loss:.3f}  "
                                  f"held out {100 * progress.held_out:.2f} %", highlight=False)

        yield observe
