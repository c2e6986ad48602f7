"""The same network under other names: what wrappers and training scripts make of the names of its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from fheinfer.data.files import printable
from fheinfer.errors import WeightsError
from fheinfer.frontends.tensor_files import F32

Shapes = Mapping[str, tuple[int, ...]]

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that DataParallel, torch.compile and the like put in, in front or in the middle."""

SHORTCUTS = ("downsample", "shortcut", "skip", "skip_connection")
LAST_LAYERS = ("fc", "linear", "classifier", "head", "logits", "output", "last_linear", "dense")


def matched(
    arrays: Mapping[str, F32], expected: Shapes, option_a: bool | None, prefix: str | None, eps: float
) -> tuple[dict[str, F32], list[str]]:
    """(arrays under the names of `expected`, in its order, notes); see `checkpoints.match`.

    Raises:
        WeightsError: naming the tensor that is missing, unknown or of another shape.
    """
    if prefix is not None:
        chosen = {name: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}
        if not chosen:
            raise WeightsError(f"no tensor's name begins with {printable(prefix, 60)!r} and a dot")
        left = len(arrays) - len(chosen)
        found, notes = _recognised(chosen, expected)
        notes = [
            *([f"only names that begin with '{prefix}.' are taken, {left} others ignored"] if left else []),
            *notes,
        ]
    else:
        found, notes = _one_network(arrays, expected)
    if shortcuts := _missing_shortcuts(found, expected):
        if option_a is False:
            raise WeightsError(
                f"tensor {shortcuts[0]!r} is missing, as are all of the shortcuts: allow option A "
                "shortcuts, which have no weights, or bring the file with them"
            )
        found |= option_a_shortcuts({name: expected[name] for name in shortcuts}, eps)
        notes.append(
            "the file has no weights for shortcuts; they are taken for option A ones: every other pixel, "
            "between zero channels"
        )
    elif option_a and _shortcuts(expected):
        raise WeightsError("these are to be option A shortcuts, which have no weights, but the file has some")
    return _fitted(found, expected, notes), notes


def last_layers(names: Mapping[str, F32], last_layer: str) -> list[str]:
    """Names of weights that may be the last layer's: of `last_layer`, or else of one of the usual names.

    Of several numbered ones, as in classifier.0 and classifier.3, it is the last.
    """
    flat = [
        name
        for name, array in names.items()
        if name.endswith(".weight") and array.ndim >= 2 and set(array.shape[2:]) <= {1}
    ]
    exact = [name for name in flat if f".{name}".endswith(f".{last_layer}.weight")]
    if exact:
        return exact
    usual = re.compile(rf"^(?P<base>(.*\.)?({'|'.join(LAST_LAYERS)}))(?P<numbers>(\.\d+)*)\.weight$")
    by_base: dict[str, list[tuple[list[int], str]]] = {}
    for name in flat:
        if found := usual.match(name):
            numbers = [int(n) for n in re.findall(r"\d{1,9}", found["numbers"])]
            by_base.setdefault(found["base"], []).append((numbers, name))
    return [max(group)[1] for group in by_base.values()]


def option_a_shortcuts(shapes: Shapes, eps: float) -> dict[str, F32]:
    """x[:, :, ::2, ::2] between zero channels, as 1x1 convolutions and batch norms that do nothing.

    Raises:
        WeightsError: of shapes that no such shortcut has.
    """
    values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - eps}
    result: dict[str, F32] = {}
    for name, shape in shapes.items():
        role = name.rpartition(".")[2]
        if len(shape) == 4 and shape[2:] == (1, 1) and shape[0] >= shape[1]:
            out, channels = shape[:2]
            matrix = np.zeros(shape, np.float32)
            first = (out - channels) // 2  # as many zero channels before as after
            matrix[first + np.arange(channels), np.arange(channels)] = 1
            result[name] = matrix
        elif len(shape) == 1 and role in values:
            result[name] = np.full(shape, values[role], np.float32)
        else:
            raise WeightsError(f"tensor {name!r} is missing, and as {shape} it cannot be an option A shortcut's")
    return result


def _one_network(arrays: Mapping[str, F32], expected: Shapes) -> tuple[dict[str, F32], list[str]]:
    """`arrays` under the names of `expected`; of several networks in one file the only one that has all of them."""
    found, notes = _recognised(arrays, expected)
    if _complete(found, expected):
        return found, notes
    groups: dict[str, dict[str, F32]] = {}
    for name, array in arrays.items():
        groups.setdefault(name.partition(".")[0], {})[name] = array
    fits = []
    for first, group in groups.items() if len(groups) > 1 else ():
        part, part_notes = _recognised(group, expected)
        if _complete(part, expected):
            left = f"only names that begin with '{first}.' are taken, {len(arrays) - len(group)} others ignored"
            fits.append((first, part, [left, *part_notes]))
    if len(fits) > 1:
        names = ", ".join(f"'{first}.'" for first, _, _ in fits)
        raise WeightsError(f"holds several networks, under {names}; say which prefix to take")
    return fits[0][1:] if fits else (found, notes)


def _complete(found: Mapping[str, F32], expected: Shapes) -> bool:
    missing = [name for name in expected if name not in found]
    return not missing or missing == _missing_shortcuts(found, expected)


def _recognised(arrays: Mapping[str, F32], expected: Shapes) -> tuple[dict[str, F32], list[str]]:
    """`arrays` with prefixes off and spellings recognised, whether or not they are all that is expected."""
    notes: list[str] = []
    known = {part for name in expected for part in name.split(".")}
    found, prefix = dict(arrays), ""
    while (first := _common_first(found)) and first not in {name.partition(".")[0] for name in expected}:
        found = {name.partition(".")[2]: array for name, array in found.items()}
        prefix += f"{first}."
    if prefix:
        notes.append(f"names start with '{printable(prefix)}'; ignored")
    wrappers = WRAPPERS - known
    found = _renamed(
        found,
        lambda name: ".".join(part for part in name.split(".") if part not in wrappers),
        notes,
        "parts of names that wrappers put in are ignored: {}",
    )
    for other in SHORTCUTS:
        for ours in (name for name in SHORTCUTS if name in known and other not in known):
            found = _renamed(found, _replacing(other, ours, expected), notes, f"{other!r} is read as {ours!r}: {{}}")
    return _renamed(found, _last_layer(found, expected), notes, "the last layer is recognised by its name: {}"), notes


def _common_first(names: Collection[str]) -> str:
    """The first part that all names have, or "": the names of one layer alone keep theirs."""
    depths = {name.count(".") for name in names}
    firsts = {name.partition(".")[0] for name in names}
    return firsts.pop() if len(firsts) == 1 and 0 not in depths and depths != {1} else ""


def _replacing(other: str, ours: str, expected: Shapes) -> Callable[[str], str]:
    def change(name: str) -> str:
        changed = ".".join(ours if part == other else part for part in name.split("."))
        return changed if changed in expected else name

    return change


def _last_layer(found: Mapping[str, F32], expected: Shapes) -> Callable[[str], str]:
    """Renames the last layer, if exactly one is missing and exactly one that could be it is not expected."""
    missing = [
        name[: -len(".weight")]
        for name in expected
        if name.endswith(".weight") and name not in found and len(expected[name]) == 2
    ]
    others = {name: array for name, array in found.items() if name not in expected}
    have = [name[: -len(".weight")] for name in last_layers(others, "")]
    if len(missing) != 1 or len(have) != 1 or missing[0].partition(".")[0] not in LAST_LAYERS:
        return lambda name: name
    names = {f"{have[0]}.{role}": f"{missing[0]}.{role}" for role in ("weight", "bias")}
    return lambda name: names.get(name, name)


def _renamed(arrays: dict[str, F32], change: Callable[[str], str], notes: list[str], note: str) -> dict[str, F32]:
    """`arrays` under changed names; the note shows the first one that changed.

    Raises:
        WeightsError: two names become one.
    """
    result: dict[str, F32] = {}
    example = ""
    for name, array in arrays.items():
        new = change(name)
        if new in result:
            raise WeightsError(f"two tensors are called {printable(new, 60)!r} once names are read as usual")
        result[new] = array
        example = example or (f"{printable(name, 60)} is {printable(new, 60)}" if new != name else "")
    if example:
        notes.append(note.format(example))
    return result


def _shortcuts(expected: Shapes) -> list[str]:
    return [name for name in expected if set(name.split(".")) & set(SHORTCUTS)]


def _missing_shortcuts(found: Mapping[str, F32], expected: Shapes) -> list[str]:
    """Names of all shortcuts, if none of them is there and nothing else is missing; otherwise none."""
    shortcuts, missing = _shortcuts(expected), [name for name in expected if name not in found]
    return missing if missing == shortcuts else []


def _fitted(found: Mapping[str, F32], expected: Shapes, notes: list[str]) -> dict[str, F32]:
    """Exactly the tensors that are expected, of their shapes."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing:
        more = f" (one of {len(missing)} missing)" if len(missing) > 1 else ""
        unknown = f"; unknown is {printable(extra[0], 60)!r}" if extra else ""
        raise WeightsError(f"tensor {missing[0]!r} is missing{more}{unknown}; is the file of this network?")
    result: dict[str, F32] = {}
    for name, shape in expected.items():
        array = found[name]
        if array.shape != tuple(shape):
            if _trimmed(array.shape) != _trimmed(shape):
                raise WeightsError(f"tensor {name!r} has shape {array.shape}, expected {tuple(shape)}")
            notes.append(f"{name} has shape {array.shape} and is read as {tuple(shape)}")
        result[name] = np.ascontiguousarray(array.reshape(shape), np.float32)
    twice = _repeated({name: found[name] for name in extra}, result)
    unknown_names = [name for name in extra if name not in set(twice)]
    if unknown_names:
        more = f" (one of {len(unknown_names)})" if len(unknown_names) > 1 else ""
        raise WeightsError(f"tensor {printable(unknown_names[0], 60)!r} is unknown{more}: not a weight of this network")
    if twice:
        notes.append(
            f"ignored, as they are there under other names: {', '.join(printable(n, 60) for n in twice[:6])}"
            + (f" and {len(twice) - 6} more" if len(twice) > 6 else "")
        )
    return result


def _repeated(extra: Mapping[str, F32], known: Mapping[str, F32]) -> list[str]:
    """Names in `extra` of layers that `known` has under another name.

    Tensors of one value throughout, as many are before training, say that only beside another tensor of their layer.
    """
    same = [
        name
        for name, array in extra.items()
        if any(array.shape == other.shape and np.array_equal(array, other) for other in known.values())
    ]
    layers = {name.rpartition(".")[0] for name in same if np.ptp(extra[name]) > 0}
    return [name for name in same if name.rpartition(".")[0] in layers]


def _trimmed(shape: Iterable[int]) -> tuple[int, ...]:
    """Without ones at the end: a linear layer may be written as a 1x1 convolution."""
    lengths = list(shape)
    while lengths and lengths[-1] == 1:
        lengths.pop()
    return tuple(lengths)
