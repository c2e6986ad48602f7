"""Weights as people save them, under the names that a network expects; every guess is a note.

`read_checkpoint` finds the tensors in a file, `match` gives them the names of a network: prefixes of wrappers come off,
known spellings are recognised, counters are ignored, and the shortcuts of "option A" networks, which have no weights,
become the constant convolutions they are (He et al. 2015, section 4.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fheinfer.data.files import printable
from fheinfer.errors import WeightsError
from fheinfer.frontends.spellings import Shapes, last_layers, matched
from fheinfer.frontends.tensor_files import F32, MAX_BYTES, Contents, read

_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
_AVERAGED = re.compile(r"(^|[_.])(ema|swa|averaged?|shadow|teacher)([_.]|$)")
_NOT_WEIGHTS = re.compile(r"optim|scheduler|scaler|criterion")
_MAX_DEPTH = 8
_MAX_NAME = 500
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file.

    arrays    by the names in the file: float32, finite
    notes     what was chosen or ignored, a line each
    metadata  words that a safetensors file holds
    """

    arrays: Mapping[str, F32]
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def classes(self, last_layer: str = "fc") -> int:
        """Length of the output, as the weights of the last layer say.

        Args:
            last_layer: its name in the network; fc, linear, classifier, head and the like are tried, too.

        Raises:
            WeightsError: no such layer, or several.
        """
        found = {name: int(self.arrays[name].shape[0]) for name in last_layers(self.arrays, last_layer)}
        if len(set(found.values())) != 1:
            have = ", ".join(f"{printable(name, 60)} with {count}" for name, count in found.items())
            raise WeightsError(
                f"no last layer by which to count classes ({have or f'no {last_layer}.weight or the like'})"
            )
        return next(iter(found.values()))


@dataclass(frozen=True)
class Matched:
    """Arrays under the names and of the shapes that a network expects; notes, those of reading first."""

    arrays: Mapping[str, F32]
    notes: tuple[str, ...]


def read_checkpoint(path: Path, entry: str | None = None) -> Checkpoint:
    """The weights in a file: of torch.save, with a state_dict at any place in it, safetensors, or a numpy archive.

    float16, bfloat16 and float64 become float32. Counters and other tensors that are not real numbers are ignored.

    Args:
        entry: which state_dict, where there are several: its key, or keys joined by dots. None takes the only one,
            and beside averaged ones (EMA) the plain one.

    Raises:
        WeightsError: no such file, not of such a kind, several state_dicts, more than 512 MiB as float32, a tensor that
            is not dense, or with NaN or infinite values.
    """
    contents = read(path)
    try:
        table, notes = _chosen(contents, entry)
        arrays, left_off = _arrays(table, contents)
    except WeightsError as error:
        raise WeightsError(f"{printable(path)}: {error}") from None
    return Checkpoint(arrays, (*notes, *left_off), contents.metadata)


def match(
    source: Checkpoint | Mapping[str, F32],
    expected: Shapes,
    *,
    option_a: bool | None = None,
    prefix: str | None = None,
    eps: float = 1e-5,
) -> Matched:
    """The arrays of a checkpoint under the names that a network expects.

    Args:
        expected: name -> shape, in the order of the result.
        option_a: a network whose shortcuts have no weights, all of which are missing then. True demands that, False
            refuses it, None takes it and notes so.
        prefix: take only names that begin with it and a dot, where a file holds several networks.
        eps: of the batch norms that option A adds: they then do nothing at all.

    Raises:
        WeightsError: naming the tensor that is missing, unknown or of another shape.
    """
    arrays, notes = (source.arrays, source.notes) if isinstance(source, Checkpoint) else (source, ())
    real = {name: array for name, array in arrays.items() if array.dtype.kind == "f" and not name.endswith(_COUNTER)}
    found, more = matched(real, expected, option_a, prefix, eps)
    return Matched(found, (*notes, *more))


def _chosen(contents: Contents, entry: str | None) -> tuple[Mapping[Any, Any], list[str]]:
    """(the state_dict, notes)."""
    tables = dict(_tables(contents.tree, contents.tensor, (), set()))
    names = ", ".join(printable(name, 60) or "its top" for name in list(tables)[:6])
    if not tables:
        kind = type(contents.tree).__name__
        raise WeightsError(f"holds no tensors by name (it is a {kind}); save model.state_dict() with torch.save")
    if entry is not None:
        taken = [name for name in tables if entry in (name, name.rpartition(".")[2])]
        if len(taken) != 1:
            raise WeightsError(f"no one state_dict {printable(entry, 60)!r}; there are {names}")
    else:
        taken = [name for name in tables if not _AVERAGED.search(name.lower())] or list(tables)
        if len(taken) > 1:
            usual = [name for plain in _PLAIN for name in taken if name.rpartition(".")[2] == plain]
            taken = usual[:1]
        if not taken:
            raise WeightsError(f"holds several state_dicts: {names}; say which one to take")
    where = taken[0]
    others = [printable(name, 60) for name in tables if name != where]
    notes = [f"the weights are under {printable(where, 60)!r}"] if where else []
    if others:
        notes = [f"of several state_dicts {printable(where, 60)!r} is taken, not {', '.join(others[:6])}"]
    return tables[where], notes


def _tables(tree: Any, tensor: type, where: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every mapping in `tree` that holds weights by name, by its keys joined by dots; an optimizer's are none."""
    if not isinstance(tree, Mapping) or id(tree) in seen or len(where) > _MAX_DEPTH or "param_groups" in tree:
        return
    seen.add(id(tree))  # a pickle may hold itself
    below: list[tuple[str, Mapping[Any, Any]]] = []
    for key, value in tree.items():
        if isinstance(key, str) and not _NOT_WEIGHTS.search(key.lower()):
            below += _tables(value, tensor, (*where, key), seen)
    yield from below
    names = [key for key, value in tree.items() if isinstance(key, str) and isinstance(value, tensor)]
    # Beside a state_dict there may be a loss or the like.
    if any("." in name for name in names) or (names and not below):
        yield ".".join(where), tree


def _arrays(table: Mapping[Any, Any], contents: Contents) -> tuple[dict[str, F32], list[str]]:
    """(float32 arrays by name, notes of what was ignored)."""
    arrays: dict[str, F32] = {}
    counters, others = 0, []
    total = 0
    for name, value in table.items():
        shown = printable(str(name), 60)
        if isinstance(name, str) and name.rpartition(".")[2] == _COUNTER:
            counters += 1
        elif isinstance(name, str) and len(name) > _MAX_NAME:
            raise WeightsError(f"the name of tensor {shown!r} has {len(name):,} characters; {_MAX_NAME} are read")
        elif not isinstance(name, str) or not isinstance(value, contents.tensor):
            others.append(f"{shown} ({type(value).__name__})")
        elif (array := _array(shown, value, contents)) is None:
            others.append(f"{shown} ({str(getattr(value, 'dtype', '')).removeprefix('torch.')})")
        else:
            total += array.size
            if total > MAX_BYTES // 4:
                raise WeightsError(f"holds more than {MAX_BYTES // 2**20} MiB of float32 numbers")
            if not np.isfinite(array).all():
                raise WeightsError(f"tensor {shown!r} holds NaN or infinite values, or too large ones for float32")
            arrays[name] = array
    notes = [f"{counters} counters ({_COUNTER}) are ignored"] if counters else []
    if others:
        more = f" and {len(others) - 6} more" if len(others) > 6 else ""
        notes.append(f"ignored, as no weights: {', '.join(others[:6])}{more}")
    if not arrays:
        raise WeightsError("holds no tensor of real numbers")
    return arrays, notes


def _array(shown: str, value: Any, contents: Contents) -> F32 | None:
    try:
        return contents.array(value)
    except WeightsError as error:
        raise WeightsError(f"tensor {shown!r} {error}") from None
    except Exception:  # forms of tensors that torch itself cannot turn into numbers
        raise WeightsError(f"tensor {shown!r} cannot be read; save it as a dense float32 tensor") from None
