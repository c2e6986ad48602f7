"""Logits as tables, JSON fields and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.cli.display import out, table
from fheinfer.cli.progress import size
from fheinfer.data.images import CLASSES
from fheinfer.evaluation.metrics import precision_bits, softmax, top_class
from fheinfer.local import Inference


def class_names(logits: NDArray[np.float64]) -> tuple[str, ...]:
    """Of CIFAR-10 where there are ten, else numbers."""
    return CLASSES if len(logits) == len(CLASSES) else tuple(str(i) for i in range(len(logits)))


def logits_csv(columns: Sequence[str], rows: Sequence[tuple[Sequence[Any], Any]]) -> str:
    """One line per image: its columns, then its logits."""
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
    out.print(f"class: {fields['class']}", style="bold")
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
