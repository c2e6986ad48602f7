"""Inputs of commands from arrays: `.npy` files of one input or many, and CSV files of vectors, a line each."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fheinfer.cli.inputs import MAX_BYTES, array_input, as_input
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.data.files import printable, read_given
from fheinfer.errors import InputError

F64 = NDArray[np.float64]
MAX_ROWS = 100_000
_NPY = b"\x93NUMPY"


def arrays_input(path: Path, spec: ClientSpec) -> dict[str, F64]:
    """The inputs in a file by name, as the network takes them: normalised by what client.json says.

    A CSV file has a vector's numbers on every line, and may have a line of names in front; an array of numpy has one
    input, or with one axis more several.

    Raises:
        InputError: no such file, no such numbers, or none of the length that the network takes.
    """
    data = read_given(path, MAX_BYTES, InputError, "an array of numpy, or lines of numbers")
    if data.startswith(_NPY):
        return array_input(path, spec)
    if len(spec.input_shape) != 1:
        raise InputError(
            f"{printable(path)}: no array of numpy, and {spec.model} takes no vector; save it with numpy.save"
        )
    rows = _rows(data, printable(path), spec.input_shape[0])
    return {f"{path.name}:{line}": as_input(row, spec) for line, row in rows}


def _rows(data: bytes, name: str, length: int) -> list[tuple[int, F64]]:
    """(number of the line, numbers on it)."""
    rows: list[tuple[int, F64]] = []
    reader = csv.reader(io.StringIO(data.decode("utf-8", "replace")))
    try:
        lines = [(reader.line_num, line) for line in reader if any(field.strip() for field in line)]
    except csv.Error as error:
        raise InputError(f"{name}: no lines of numbers with commas between ({error})") from None
    for index, (number, line) in enumerate(lines):
        try:
            row = np.array([float(field) for field in line])
        except ValueError:
            if index == 0:
                continue  # names of the columns
            raise InputError(f"{name}: line {number} has something that is no number") from None
        if len(row) != length:
            raise InputError(f"{name}: line {number} has {len(row)} numbers, and the network takes {length}")
        rows.append((number, row))
    if not rows:
        raise InputError(f"{name}: no line of numbers; write {length} of them on a line, with commas between")
    if len(rows) > MAX_ROWS:
        raise InputError(f"{name}: {len(rows):,} lines; at most {MAX_ROWS:,} are read")
    return rows
