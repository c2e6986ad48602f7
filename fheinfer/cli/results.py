"""Outputs of a network as tables, JSON fields and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.cli.display import err, out, print_json, table
from fheinfer.cli.progress import size
from fheinfer.evaluation.metrics import precision_bits, softmax, top_class

F64 = NDArray[np.float64]
DECIMALS = 3
"""Of outputs in tables, where nothing says how many."""


@dataclass(frozen=True)
class Taken:
    """What a run took: seconds by phase, bytes of memory by role, bytes of files by name."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


def logits_csv(columns: Sequence[str], rows: Sequence[tuple[Sequence[Any], Any]]) -> str:
    """One line per input: its columns, then its outputs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"logit_{i}" for i in range(len(rows[0][1])))])
    for fields, logits in rows:
        writer.writerow([*fields, *(f"{value:.6g}" for value in logits)])
    return text.getvalue()


def result_fields(logits: F64, classes: Sequence[str], plain: F64 | None) -> dict[str, Any]:
    """What commands report of one input's outputs, for both forms of output."""
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


def print_result(
    fields: Mapping[str, Any], classes: Sequence[str], taken: Taken | None = None, decimals: int = DECIMALS
) -> None:
    """Outputs, probabilities and the class; then time, memory and bytes."""
    plain = fields.get("plain")
    columns = ["class", "logit", "probability", *(["plain logit"] if plain else [])]
    rows = []
    for i, name in enumerate(classes):
        mark = " <" if i == fields["index"] else ""
        row = [name + mark, f"{fields['logits'][i]:.{decimals}f}", f"{100 * fields['probabilities'][i]:.1f} %"]
        rows.append(row + ([f"{plain['logits'][i]:.{decimals}f}"] if plain else []))
    table("logits", columns, rows)
    out.print(f"class: {fields['class']}", style="bold")
    if plain:
        verdict = "the same class" if plain["agrees"] else f"another class: {plain['class']}"
        out.print(
            f"PyTorch says {verdict}; the worst logit keeps {plain['worst_bits']:.1f} bits, the median "
            f"{plain['median_bits']:.1f}"
        )
    if taken and taken.seconds:
        out.print("time:   " + in_seconds(taken.seconds))
    if taken and taken.memory:
        out.print("memory: " + at_peak(taken.memory))
    if taken and taken.sizes:
        out.print("bytes:  " + ", ".join(f"{name} {size(n)}" for name, n in taken.sizes.items()))


def in_seconds(seconds: Mapping[str, float]) -> str:
    """Phases and their times in words."""
    return ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())


def at_peak(memory: Mapping[str, int]) -> str:
    """Roles and their memory in words."""
    return ", ".join(f"{name} {size(n)} at peak" for name, n in memory.items())


def image_row(
    name: str, logits: F64, classes: Sequence[str], seconds: float | None, plain: F64 | None
) -> dict[str, Any]:
    """What tables, JSON and CSV have of one of many images."""
    best = top_class(logits)
    row: dict[str, Any] = {
        "image": name,
        "class": classes[best],
        "probability": float(softmax(logits)[best]),
        "seconds": seconds,
        "logits": [float(v) for v in logits],
    }
    if plain is not None:
        bits = precision_bits(plain, logits)
        row |= {"plain_class": classes[top_class(plain)], "worst_bits": bits.minimum}
    return row


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `image_row` as CSV."""
    names = [name for name in rows[0] if name != "logits"]
    return logits_csv(names, [([row[name] for name in names], row["logits"]) for row in rows])


def report_images(
    rows: Sequence[Mapping[str, Any]], failures: Mapping[str, str], taken: Taken, each: float, as_json: bool
) -> None:
    """One line per image, and what all of them took."""
    if as_json:
        totals = {"seconds": taken.seconds, "seconds_per_image": each, "memory": taken.memory}
        print_json({"images": rows, "failures": failures, **totals})
        return
    plain = "plain_class" in rows[0]
    columns = ["image", "class", "probability", "seconds", *(["PyTorch", "worst bits"] if plain else [])]
    lines = [
        [
            row["image"],
            row["class"],
            f"{100 * row['probability']:.1f} %",
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
            *([row["plain_class"], f"{row['worst_bits']:.1f}"] if plain else []),
        ]
        for row in rows
    ]
    table("classes", columns, lines, left=2)
    if plain:
        same = sum(row["class"] == row["plain_class"] for row in rows)
        out.print(f"the class of PyTorch on {same} of {len(rows)}")
    err.print(f"{each:.1f} s per image; {in_seconds(taken.seconds)}; {at_peak(taken.memory)}")
