"""Outputs of a network as tables, JSON fields and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.cli.display import err, out, print_json, table
from fheinfer.cli.progress import size
from fheinfer.crypto.client_tensors import OutputSpec
from fheinfer.evaluation.metrics import precision_bits, softmax, top_class

F64 = NDArray[np.float64]
Fields = dict[str, Any]
DECIMALS = 3
"""Of outputs in tables, where nothing says how many."""
SHOWN, FEW = 40, 10
"""Classes that a table shows at most, and how many of more."""


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


def all_fields(outputs: Mapping[str, F64], specs: Sequence[OutputSpec], plain: Mapping[str, F64] | None) -> Fields:
    """What commands report of one input's outputs: of the only one, or `outputs` by name."""
    each = {s.name: result_fields(outputs[s.name], s, None if plain is None else plain[s.name]) for s in specs}
    return next(iter(each.values())) if len(each) == 1 else {"outputs": each}


def result_fields(values: F64, spec: OutputSpec, plain: F64 | None) -> Fields:
    """What commands report of one output, for both forms of output."""
    logits, classes = values.ravel(), class_names(spec)
    best = top_class(logits)
    fields: Fields = {
        "class": classes[best],
        "index": best,
        "logits": [float(v) for v in logits],
        "probabilities": [float(v) for v in probabilities(values, spec)],
    }
    if len(spec.shape) > 1:
        fields["shape"] = list(spec.shape)
    if plain is not None:
        clear = plain.ravel()
        bits = precision_bits(clear, logits)
        fields["plain"] = {
            "class": classes[top_class(clear)],
            "logits": [float(v) for v in clear],
            "agrees": top_class(clear) == best,
            "worst_bits": bits.minimum,
            "median_bits": bits.median,
        }
    return fields


def class_names(spec: OutputSpec) -> Sequence[str]:
    """Names of the values of an output: those of its classes, or numbers."""
    return spec.classes or tuple(map(str, range(math.prod(spec.shape))))


def probabilities(values: F64, spec: OutputSpec) -> F64:
    """Of each class: by the sigmoid where that is the network's last operation, else by softmax."""
    return spec.finish(values).ravel() if spec.final == "sigmoid" else softmax(values.ravel())


def print_results(
    fields: Fields, specs: Sequence[OutputSpec], taken: Taken | None = None, decimals: int = DECIMALS
) -> None:
    """A table for each output, then time, memory and bytes."""
    for spec in specs:
        print_result(fields["outputs"][spec.name] if "outputs" in fields else fields, spec, decimals)
    if taken and taken.seconds:
        out.print("time:   " + in_seconds(taken.seconds))
    if taken and taken.memory:
        out.print("memory: " + at_peak(taken.memory))
    if taken and taken.sizes:
        out.print("bytes:  " + ", ".join(f"{name} {size(n)}" for name, n in taken.sizes.items()))


def print_result(fields: Fields, spec: OutputSpec, decimals: int = DECIMALS) -> None:
    """Values, probabilities and the class of an output: all of up to `SHOWN`, the largest of more."""
    plain, classes = fields.get("plain"), class_names(spec)
    columns = ["class", "logit", "probability", *(["plain logit"] if plain else [])]
    order = range(len(classes))
    if len(order) > SHOWN:
        order = sorted(order, key=lambda i: -fields["logits"][i])[:FEW]  # type: ignore[assignment]
    rows = []
    for i in order:
        mark = " <" if i == fields["index"] else ""
        row = [classes[i] + mark, f"{fields['logits'][i]:.{decimals}f}", f"{100 * fields['probabilities'][i]:.1f} %"]
        rows.append(row + ([f"{plain['logits'][i]:.{decimals}f}"] if plain else []))
    of = f" of {spec.name}" if len(spec.shape) > 1 else ""
    largest = f"the {FEW} largest of {len(classes)} " if len(classes) > SHOWN else ""
    table(f"{largest}logits{of}", columns, rows)
    out.print(f"class: {fields['class']}", style="bold")
    if plain:
        verdict = "the same class" if plain["agrees"] else f"another class: {plain['class']}"
        out.print(
            f"PyTorch says {verdict}; the worst logit keeps {plain['worst_bits']:.1f} bits, the median "
            f"{plain['median_bits']:.1f}"
        )


def in_seconds(seconds: Mapping[str, float]) -> str:
    """Phases and their times in words."""
    return ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())


def at_peak(memory: Mapping[str, int]) -> str:
    """Roles and their memory in words."""
    return ", ".join(f"{name} {size(n)} at peak" for name, n in memory.items())


def image_row(name: str, outputs: F64, spec: OutputSpec, seconds: float | None, plain: F64 | None) -> dict[str, Any]:
    """What tables, JSON and CSV have of the (first) output of one of many inputs."""
    logits, classes = outputs.ravel(), class_names(spec)
    best = top_class(logits)
    row: dict[str, Any] = {
        "image": name,
        "class": classes[best],
        "probability": float(probabilities(outputs, spec)[best]),
        "seconds": seconds,
        "logits": [float(v) for v in logits],
    }
    if plain is not None:
        clear = plain.ravel()
        row |= {"plain_class": classes[top_class(clear)], "worst_bits": precision_bits(clear, logits).minimum}
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
