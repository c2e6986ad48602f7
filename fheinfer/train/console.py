"""A progress bar with the time left, and one line per epoch that stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fheinfer.train.loop import TrainingObserver, TrainingProgress


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[TrainingObserver]:
    """Gives an observer for `train`; the bar is removed at the end, also on errors."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Bar(*columns, console=console, transient=True, speed_estimate_period=120) as bar:
        task = bar.add_task("train", total=None, note="")
        measuring = bar.add_task("measure", total=None, note="", visible=False)
        first: list[int] = []  # a resumed run starts in the middle, and the speed counts from there

        def observe(progress: TrainingProgress) -> None:
            if progress.measuring:
                if progress.step < bar.tasks[measuring].completed:
                    bar.reset(measuring)
                bar.update(
                    measuring,
                    completed=progress.step,
                    total=progress.steps,
                    visible=True,
                    description=f"measuring {progress.measuring}",
                )
                return
            done = progress.epoch * progress.steps + progress.step
            if not first:
                first.append(done - 1)
                bar.reset(task, total=progress.epochs * progress.steps, completed=done - 1)
            bar.update(measuring, visible=False)
            bar.update(
                task,
                completed=done,
                description=f"epoch {progress.epoch + 1}/{progress.epochs}",
                note=f"loss {progress.loss:.3f}",
            )
            if progress.held_out is not None:
                bar.console.print(
                    f"epoch {progress.epoch + 1:3}/{progress.epochs}  loss {progress.loss:.3f}  "
                    f"held out {100 * progress.held_out:.2f} %",
                    highlight=False,
                )

        yield observe
