"""What the command line shows: tables, bars, sizes, errors. On standard error, so that output can be piped."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from fheinfer.compiler.plan import Plan
from fheinfer.data.images import CLASSES
from fheinfer.evaluation.metrics import precision_bits, softmax, top_class
from fheinfer.local import Event, Inference

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def size(n: float) -> str:
    """Bytes for people, decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1000
    raise AssertionError


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> None:
    """A table on standard output under its title, which may be wider; the first `left` columns are text."""
    t = Table()
    for i, column in enumerate(columns):
        t.add_column(column, justify="left" if i < left else "right")
    for row in rows:
        t.add_row(*(str(cell) for cell in row))
    console = out if sys.stdout.isatty() else Console(highlight=False, width=160)
    console.print(title, style="italic", markup=False)
    console.print(t)


def print_json(value: Any) -> None:
    """JSON has no infinity and no NaN: they are null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value) if math.isfinite(value) else None


@contextmanager
def byte_bar(title: str) -> Iterator[Any]:
    """A callback (done, total) that draws bytes and the time left."""
    with Progress(
        TextColumn(title),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps_bar(title: str) -> Iterator[Any]:
    """A callback (done, total) that draws how many are done and the time left."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class EvaluationView:
    """Follows a server process: a bar over the whole run in predicted seconds, and with `verbose` a line a layer."""

    def __init__(self, plan: Plan, *, verbose: bool) -> None:
        self._plan, self._verbose = plan, verbose
        self._weights = [max(step.seconds, 1e-3) for step in plan.steps]
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        # Loading takes about as long as a few bootstraps.
        self._load = 0.1 * sum(self._weights)
        self._task = self._bar.add_task("starting", total=sum(self._weights) + self._load)

    def __enter__(self) -> EvaluationView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if event["event"] == "load":
            done = {"keys": 0.0, "tables": 0.5}[event["what"]] + 0.5 * event["fraction"]
            self._bar.update(self._task, description=f"loading {event['what']}", completed=done * self._load)
        elif event["event"] == "step":
            done = sum(self._weights[: event["index"] + 1]) + self._load
            self._bar.update(
                self._task, description=f"{event['index'] + 1}/{event['total']} {event['step']}", completed=done
            )
            if self._verbose:
                self._bar.console.print(
                    f"{event['index'] + 1:4}/{event['total']}  {event['step']:<30} {event['op']:<10} level "
                    f"{event['level']:>2}  {event['seconds']:7.2f} s  (predicted {event['predicted']:.2f})"
                )


def class_names(logits: NDArray[np.float64]) -> tuple[str, ...]:
    """Of CIFAR-10 where there are ten, else numbers."""
    return CLASSES if len(logits) == len(CLASSES) else tuple(str(i) for i in range(len(logits)))


def logits_csv(columns: Sequence[str], rows: Sequence[tuple[Sequence[Any], Any]]) -> str:
    """A line a picture: its columns, then its logits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"logit_{i}" for i in range(len(rows[0][1])))])
    for fields, logits in rows:
        writer.writerow([*fields, *(f"{value:.6g}" for value in logits)])
    return text.getvalue()


def result_fields(
    logits: NDArray[np.float64], classes: Sequence[str], plain: NDArray[np.float64] | None
) -> dict[str, Any]:
    """What `infer` reports of the logits, for both forms of output."""
    best = top_class(logits)
    fields: dict[str, Any] = {
        "class": classes[best],
        "index": best,
        "logits": [float(v) for v in logits],
        "probabilities": [float(v) for v in softmax(logits)],
    }
    if plain is not None:
        bits = precision_bits(plain, logits)
        fields["plain"] = {
            "class": classes[top_class(plain)],
            "logits": [float(v) for v in plain],
            "agrees": top_class(plain) == best,
            "worst_bits": bits.minimum,
            "median_bits": bits.median,
        }
    return fields


def print_result(fields: Mapping[str, Any], classes: Sequence[str], done: Inference) -> None:
    """Logits, probabilities and the class; then time, memory and bytes."""
    plain = fields.get("plain")
    columns = ["class", "logit", "probability", *(["plain logit"] if plain else [])]
    rows = []
    for i, name in enumerate(classes):
        mark = " <" if i == fields["index"] else ""
        row = [name + mark, f"{fields['logits'][i]:.3f}", f"{100 * fields['probabilities'][i]:.1f} %"]
        rows.append(row + ([f"{plain['logits'][i]:.3f}"] if plain else []))
    table("logits", columns, rows)
    out.print(f"class: [bold]{fields['class']}[/bold]")
    if plain:
        verdict = "the same class" if plain["agrees"] else f"another class: {plain['class']}"
        out.print(
            f"PyTorch says {verdict}; the worst logit keeps {plain['worst_bits']:.1f} bits, the median "
            f"{plain['median_bits']:.1f}"
        )
    if done.seconds:
        out.print("time:   " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in done.seconds.items()))
    if done.memory:
        out.print("memory: " + ", ".join(f"{name} {size(n)} at peak" for name, n in done.memory.items()))
    if done.sizes:
        out.print("bytes:  " + ", ".join(f"{name} {size(n)}" for name, n in done.sizes.items()))
