"""Outputs of a network as tables, JSON fields, CSV and arrays."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.cli.display import err, out, print_json, table
from fheinfer.cli.progress import size
from fheinfer.crypto.client_tensors import OutputSpec, class_logits
from fheinfer.data.files import printable
from fheinfer.errors import UsageError
from fheinfer.evaluation.metrics import class_names, precision_bits, probabilities, top_class
from fheinfer.storage import PRIVATE, atomic_write, require_writable

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


def all_fields(outputs: Mapping[str, F64], specs: Sequence[OutputSpec], plain: Mapping[str, F64] | None) -> Fields:
    """What commands report of one input's outputs: of the only one, or `outputs` by name."""
    each = {s.name: result_fields(outputs[s.name], s, None if plain is None else plain[s.name]) for s in specs}
    return next(iter(each.values())) if len(each) == 1 else {"outputs": each}


def result_fields(values: F64, spec: OutputSpec, plain: F64 | None) -> Fields:
    """What commands report of one output, for both forms of output: no class of what is no vector of scores."""
    fields = _said(values, spec)
    if spec.scores:
        fields["probabilities"] = [float(v) for v in probabilities(values, spec)]
    if plain is not None:
        bits, clear = precision_bits(plain, values), _said(plain, spec)
        if spec.scores:
            clear["agrees"] = clear.pop("index") == fields["index"]
        fields["plain"] = clear | {"worst_bits": bits.minimum, "median_bits": bits.median}
    return fields


def _said(values: F64, spec: OutputSpec) -> Fields:
    if not spec.scores:
        return {"shape": list(spec.shape), "values": values.tolist()}
    best = top_class(class_logits(values))
    return {"class": class_names(spec)[best], "index": best, "logits": values.tolist()}


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
    """Scores, probabilities and the class: all of up to `SHOWN`, the largest of more. Of other values the range."""
    plain = fields.get("plain")
    bits = f"keeps {plain['worst_bits']:.1f} bits, the median {plain['median_bits']:.1f}" if plain else ""
    if not spec.scores:
        numbers = np.ravel(fields["values"])
        of = (
            f"{'x'.join(map(str, spec.shape))} values from {numbers.min():.{decimals}f} to {numbers.max():.{decimals}f}"
        )
        out.print(f"{spec.name}: {of if numbers.size > 1 else f'{numbers[0]:.{decimals}f}'}", style="bold")
        if plain:
            out.print(f"against PyTorch the worst value {bits}")
        return
    classes = class_names(spec)
    columns = ["class", "logit", "probability", *(["plain logit"] if plain else [])]
    logits = class_logits(np.asarray(fields["logits"]))
    clear = class_logits(np.asarray(plain["logits"])) if plain else logits
    order = range(len(classes))
    if len(order) > SHOWN:
        order = sorted(order, key=lambda i: -logits[i])[:FEW]  # type: ignore[assignment]
    rows = []
    for i in order:
        mark = " <" if i == fields["index"] else ""
        row = [classes[i] + mark, f"{logits[i]:.{decimals}f}", f"{100 * fields['probabilities'][i]:.1f} %"]
        rows.append(row + ([f"{clear[i]:.{decimals}f}"] if plain else []))
    largest = f"the {FEW} largest of {len(classes)} " if len(classes) > SHOWN else ""
    table(f"{largest}logits of {spec.name}", columns, rows)
    out.print(f"class: {fields['class']}", style="bold")
    if plain:
        verdict = "the same class" if plain["agrees"] else f"another class: {plain['class']}"
        out.print(f"PyTorch says {verdict}; the worst logit {bits}")


def in_seconds(seconds: Mapping[str, float]) -> str:
    """Phases and their times in words."""
    return ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())


def at_peak(memory: Mapping[str, int]) -> str:
    """Roles and their memory in words."""
    return ", ".join(f"{name} {size(n)} at peak" for name, n in memory.items())


def image_row(
    name: str,
    outputs: Mapping[str, F64],
    specs: Sequence[OutputSpec],
    seconds: float | None,
    plain: Mapping[str, F64] | None,
) -> Fields:
    """What tables, JSON and CSV have of one of many inputs: of its only output, or `outputs` by name."""
    each = {s.name: _row(result_fields(outputs[s.name], s, None if plain is None else plain[s.name])) for s in specs}
    found = next(iter(each.values())) if len(each) == 1 else {"outputs": each}
    return {"image": name, **found, "seconds": seconds}


def _row(fields: Fields) -> Fields:
    plain = fields.get("plain")
    row: Fields = {name: fields[name] for name in ("class", "shape", "values", "logits") if name in fields}
    if "class" in row:
        row["probability"] = fields["probabilities"][fields["index"]]
    if plain and "class" in row:
        row["plain_class"] = plain["class"]
    return row | ({"worst_bits": plain["worst_bits"]} if plain else {})


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV: logits and other values one per column, after all else; those of several outputs by their name."""
    text, flat = io.StringIO(), [_flat(row) for row in rows]
    writer = csv.DictWriter(text, flat[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> Fields:
    words: Fields = {}
    numbers: Fields = {}
    for key, value in row.items():
        if key == "outputs":
            for name, fields in value.items():
                numbers |= _flat(fields, f"{name}.")
        elif key in ("logits", "values"):
            numbers |= {f"{prefix}{key[:-1]}_{i}": f"{number:.6g}" for i, number in enumerate(np.ravel(value))}
        elif key != "shape":
            words[prefix + key] = value
    return words | numbers


def report_images(
    rows: Sequence[Mapping[str, Any]],
    specs: Sequence[OutputSpec],
    failures: Mapping[str, str],
    taken: Taken,
    each: float,
    as_json: bool,
) -> None:
    """One line per image, in a table for each output, and what all of them took."""
    if as_json:
        totals = {"seconds": taken.seconds, "seconds_per_image": each, "memory": taken.memory}
        print_json({"images": rows, "failures": failures, **totals})
        return
    for spec in specs:
        _print_rows([row | row.get("outputs", {}).get(spec.name, {}) for row in rows], spec)
    err.print(f"{each:.1f} s per image; {in_seconds(taken.seconds)}; {at_peak(taken.memory)}")


def _print_rows(rows: Sequence[Mapping[str, Any]], spec: OutputSpec) -> None:
    columns = ["value"] if math.prod(spec.shape) == 1 else ["smallest", "largest"]
    columns = ["class", "probability"] if spec.scores else columns
    plain = "worst_bits" in rows[0]
    compared = [*(["PyTorch"] if plain and spec.scores else []), *(["worst bits"] if plain else [])]
    lines = []
    for row in rows:
        said = (
            [row["class"], f"{100 * row['probability']:.1f} %"]
            if spec.scores
            else [f"{number(row['values']):.{DECIMALS}f}" for number in (np.min, np.max)[: len(columns)]]
        )
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
        clear = [row["plain_class"]] if plain and spec.scores else []
        lines.append([row["image"], *said, seconds, *clear, *([f"{row['worst_bits']:.1f}"] if plain else [])])
    title = f"{'classes' if spec.scores else 'values'} of {spec.name}"
    table(title, ["image", *columns, "seconds", *compared], lines, left=2 if spec.scores else 1)
    if plain and spec.scores:
        same = sum(row["class"] == row["plain_class"] for row in rows)
        out.print(f"the class of PyTorch on {same} of {len(rows)}")


def require_arrays(file: Path, specs: Sequence[OutputSpec]) -> None:
    """Asks before a run whether `write_arrays` will be able to write these outputs there.

    Raises:
        UsageError: another kind of file, or one that holds a single output, and there are several.
        StorageError: it cannot be written.
    """
    if file.suffix not in (".npy", ".npz"):
        raise UsageError(
            f"{file}: values are written to a .npy, or to a .npz by the names of outputs; name one of them"
        )
    if file.suffix == ".npy" and len(specs) > 1:
        raise UsageError(f"{file}: a .npy is of one output, and there are {names_of(specs)}; name a .npz")
    require_writable(file)


def names_of(specs: Sequence[OutputSpec]) -> str:
    """The names of outputs in words."""
    return ", ".join(printable(spec.name) for spec in specs)


def write_arrays(file: Path, outputs: Mapping[str, F64]) -> None:
    """Writes outputs to a .npz by their names, or the only one to a .npy."""
    content = io.BytesIO()
    if file.suffix == ".npy":
        np.save(content, next(iter(outputs.values())))
    else:
        with zipfile.ZipFile(content, "w") as archive:  # numpy.savez takes not every name
            for name, values in outputs.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values)
    atomic_write(file, [content.getbuffer()], PRIVATE)
