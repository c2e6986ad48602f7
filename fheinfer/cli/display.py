"""What the command line shows: tables and JSON on standard output; progress and errors on standard error.

Nothing printed here is ever interpreted: names of files may hold what looks like markup, or what no terminal shows.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fheinfer.cli.progress import Meter, size
from fheinfer.storage import shown

__all__ = [
    "EvaluationView",
    "byte_bar",
    "err",
    "out",
    "print_error",
    "print_json",
    "size",
    "spinner",
    "steps_bar",
    "table",
]

Progress = Callable[[float, float], None]
"""Called with how much is done and how much there is in all."""

WIDTH = 160
"""Columns at least of a table that no terminal limits."""


class _Plain(Console):
    """Prints text as it is."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False, width=width)

    def on_broken_pipe(self) -> None:
        """Whoever read this stopped (`| head`): the entry point ends the process as the shell expects."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


out = _Plain()
err = _Plain(stderr=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> None:
    """A table on standard output under its title, which may be wider; the first `left` columns are text.

    Where no terminal limits it, it is as wide as its content asks for: nothing is cut or wrapped.
    """
    t = Table()
    for i, column in enumerate(columns):
        t.add_column(shown(column), justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        t.add_row(*(shown(cell, len(str(cell))) for cell in row))
    console = out
    if not sys.stdout.isatty():
        endless = out.options.update(max_width=1 << 20)
        console = _Plain(width=max(WIDTH, Measurement.get(out, endless, t).maximum))
    console.print(shown(title, len(title)), style="italic")
    console.print(t, soft_wrap=False)


def print_json(value: Any) -> None:
    """JSON has no infinity and no NaN: they are null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    """One line "error: ..." on standard error, whatever is in the message and whatever became of standard error."""
    with suppress(OSError, ValueError):
        sys.stderr.write("\n".join(shown(line, len(line)) for line in f"error: {message}".split("\n")) + "\n")
        sys.stderr.flush()


@contextmanager
def byte_bar(title: str) -> Iterator[Progress]:
    """A callback (done, total) that shows bytes and the time left."""
    with Meter(title, "bytes", err) as meter:
        yield meter.update


@contextmanager
def steps_bar(title: str) -> Iterator[Progress]:
    """A callback (done, total) that shows how many are done and the time left."""
    with Meter(title, "count", err) as meter:
        yield meter.update


@contextmanager
def spinner(title: str) -> Iterator[Callable[[str], None]]:
    """For work of unknown length: a callback that takes what is being done now."""
    with Meter(title, "unknown", err) as meter:
        yield lambda text: meter.update(0, 0, text)


class EvaluationView:
    """Follows an evaluation by its events: how much of the predicted time is done, with `verbose` a line per layer."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._seconds: list[float] = []
        self._factor = 1.0
        self._meter = Meter("evaluating", "percent", err)

    def __enter__(self) -> Self:
        self._meter.__enter__()
        self._update(0.0, "starting")
        return self

    def __exit__(self, *error: Any) -> None:
        self._meter.__exit__(*error)

    def expect(self, step_seconds: Sequence[float]) -> None:
        """Takes the predicted seconds of each step of the plan, in order."""
        self._seconds = list(step_seconds)
        if self._verbose and self._seconds:
            from fheinfer.speed import scale_seconds

            self._factor = scale_seconds(1.0)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes an event of `fheinfer.worker`; those it does not know are ignored."""
        if event["event"] == "plan":
            self.expect(event["seconds"])
        elif event["event"] == "load":
            done = {"keys": 0.0, "tables": 0.5}.get(event["what"], 0.0) + 0.5 * event["fraction"]
            self._update(done * self._load, f"loading {event['what']}")
        elif event["event"] == "step":
            index, number = event["index"], f"{event['index'] + 1}/{event['total']}"
            if self._verbose:
                predicted = self._factor * self._seconds[index] if index < len(self._seconds) else 0.0
                self._meter.print(
                    f"{number:>9}  {event['step']:<30} {event['op']:<10} level {event['level']:>2}  "
                    f"{event['seconds']:7.2f} s  (predicted {predicted:.2f})"
                )
            self._update(self._load + sum(self._weights[: index + 1]), f"{number} {event['step']}")

    @property
    def _weights(self) -> list[float]:
        return [max(seconds, 1e-3) for seconds in self._seconds]

    @property
    def _load(self) -> float:
        return 0.1 * sum(self._weights)  # loading takes about as long as a few bootstraps

    def _update(self, done: float, note: str) -> None:
        self._meter.update(done, self._load + sum(self._weights), note)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value) if math.isfinite(value) else None
