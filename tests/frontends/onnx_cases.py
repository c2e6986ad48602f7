"""The ONNX project's own backend tests, all in its wheel: each is imported, and evaluated on the data it comes with.

A test has no batch and several inputs, our networks have both the other way round. So a case is tried in up to three
ways, and passes if one gives the expected outputs:

constants  the first input is the network's, with its first axis taken for the batch; the others are constants
whole      the same, with no axis taken for the batch
joined     all inputs are parts of one vector
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.backend.test.loader import load_model_tests

from fheinfer.errors import FheinferError
from fheinfer.frontends.comparing import evaluate, finish
from fheinfer.frontends.onnx.files import read_model
from fheinfer.frontends.onnx.importer import Translated, translate
from fheinfer.model.model import Model

Array = NDArray[Any]
KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")
WAYS = ("constants", "whole", "joined")


@dataclass(frozen=True)
class Case:
    """A model, with inputs and the outputs that are expected of them."""

    kind: str
    name: str
    model: onnx.ModelProto
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    rtol: float

    @property
    def operation(self) -> str:
        """That of its only node, or its own name."""
        nodes = self.model.graph.node
        return str(nodes[0].op_type) if len(nodes) == 1 else self.name


@dataclass(frozen=True)
class Outcome:
    """`way` is that in which a case passed, or "" with the reason why it is refused, or `wrong` with one."""

    way: str
    reason: str = ""
    wrong: bool = False


@cache
def cases(kind: str) -> tuple[Case, ...]:
    """All cases of a kind that have data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_model_tests(kind=kind)
    found = []
    for case in sorted(loaded, key=lambda case: case.name):
        model, sets = case.model, case.data_sets
        if case.model_dir is not None:
            model = onnx.load(str(Path(case.model_dir) / "model.onnx"))
            sets = list(_data_sets(Path(case.model_dir), model))
        if model is not None and sets:
            inputs, outputs = ([_array(x) for x in part] for part in sets[0])
            name = case.name.removeprefix("test_")
            found.append(Case(kind, name, model, tuple(inputs), tuple(outputs), case.rtol))
    return tuple(found)


def _array(data: Any) -> Any:
    """An array of what cases hold: some have tensors as messages."""
    if isinstance(data, onnx.TensorProto):
        return onnx.numpy_helper.to_array(data)
    return np.asarray(data) if isinstance(data, np.generic) else data


def _data_sets(folder: Path, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    data = folder / "test_data_set_0"
    try:
        yield _read(data, "input", model.graph.input), _read(data, "output", model.graph.output)
    except (TypeError, ValueError, onnx.checker.ValidationError):
        return


def _read(folder: Path, what: str, entries: Any) -> list[Any]:
    result: list[Any] = []
    for i, entry in enumerate(list(entries)[: len(list(folder.glob(f"{what}_*.pb")))]):
        if not entry.type.HasField("tensor_type"):
            result.append(None)
            continue
        tensor = onnx.TensorProto.FromString((folder / f"{what}_{i}.pb").read_bytes())
        result.append(onnx.numpy_helper.to_array(tensor))
    return result


def try_case(case: Case) -> Outcome:
    """Imports a case in each way until one passes; an error that is not ours passes through."""
    outcomes = []
    for way in WAYS:
        outcomes.append(_try(case, way))
        if outcomes[-1].way:
            return outcomes[-1]
    return next((outcome for outcome in outcomes if outcome.wrong), outcomes[0])


def _try(case: Case, way: str) -> Outcome:
    arrays = [x for x in case.inputs if isinstance(x, np.ndarray)]
    real = all(x.dtype == np.float32 for x in arrays)
    if way == "joined" and (len(arrays) < 2 or len(arrays) != len(case.inputs) or not real):
        return Outcome("")
    try:
        translated, x = prepare(case, way)
        Model(
            *(translated.graph, translated.tensors),
            mean=(0.0,) * translated.graph.input_shape[0],
            std=(1.0,) * translated.graph.input_shape[0],
            final=translated.final,
        )
    except FheinferError as error:
        return Outcome("", f"{type(error).__name__}: {error}")
    got = [finish(y, translated.final) for y in evaluate(translated.graph, translated.tensors, x)]
    return compare(case, way, got)


def prepare(case: Case, way: str) -> tuple[Translated, Array]:
    """The graph of a case, and its data as a batch of inputs."""
    proto, x = (_joined if way == "joined" else _with_constants)(case)
    translated = translate(read_model(proto), case.name, batch=False if way == "whole" else None)
    return translated, np.asarray(x if translated.batched else x[None], np.float64)


def compare(case: Case, way: str, got: list[Array]) -> Outcome:
    """Whether these are the expected outputs; ways other than "constants" may not be what a case means."""
    for y, want in zip(got, case.outputs, strict=False):
        expected = np.asarray(want, np.float64)
        if y.size != expected.size:
            return Outcome("", f"{y.shape} instead of {expected.shape}")
        rtol = 1e-2 if np.asarray(want).dtype.itemsize < 4 else case.rtol
        if not np.allclose(y.ravel(), expected.ravel(), rtol=rtol, atol=rtol / 100, equal_nan=True):
            return Outcome("", f"differs by {np.abs(y.ravel() - expected.ravel()).max():.3g}", wrong=way != "constants")
    return Outcome(way)


def _with_constants(case: Case) -> tuple[onnx.ModelProto, Array]:
    """The model with all inputs but the first as initialisers: inputs with a value are constants."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    known = {tensor.name for tensor in proto.graph.initializer}
    entries = [entry for entry in proto.graph.input if entry.name not in known]
    for entry, array in list(zip(entries, case.inputs, strict=False))[1:]:
        if isinstance(array, np.ndarray):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, entry.name))
    first = case.inputs[0] if case.inputs and isinstance(case.inputs[0], np.ndarray) else np.zeros(1)
    return proto, first


def _joined(case: Case) -> tuple[onnx.ModelProto, Array]:
    """The model behind a split of one vector into its inputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    known = {tensor.name for tensor in proto.graph.initializer}
    entries = [entry for entry in proto.graph.input if entry.name not in known]
    new, start = [], 0
    for entry, array in zip(entries, case.inputs, strict=True):
        for name, value in (("start", [start]), ("end", [start + array.size]), ("shape", array.shape or [1])):
            numbers = np.asarray(value, np.int64)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(numbers, f"{entry.name}.{name}"))
        new += [
            onnx.helper.make_node(
                "Slice", ["joined", f"{entry.name}.start", f"{entry.name}.end", "joined.axis"], [f"{entry.name}.flat"]
            ),
            onnx.helper.make_node("Reshape", [f"{entry.name}.flat", f"{entry.name}.shape"], [entry.name]),
        ]
        start += array.size
        proto.graph.input.remove(entry)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([1], np.int64), "joined.axis"))
    kind = entries[0].type.tensor_type.elem_type
    proto.graph.input.insert(0, onnx.helper.make_tensor_value_info("joined", kind, [1, start]))
    for node in reversed(new):
        proto.graph.node.insert(0, node)
    return proto, np.concatenate([np.ravel(array) for array in case.inputs])[None]
