"""The model: a graph with its tensors and everything else that belongs to the network, in one file.

A model file is a safetensors file. Its tensors are float32 under the names that the graph uses; its metadata is a JSON
object of `format`, `graph`, `mean`, `std`, `classes`, `ranges`, `provenance`, where there are any `final` and
`kept_bits`, and `checksum`, a hash over all of it (docs/reference/formats.md).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fheinfer.errors import CorruptArtifactError, GraphError, WeightsError
from fheinfer.model.describe import in_words
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Invalid, from_fields, to_fields
from fheinfer.model.verify import verify
from fheinfer.progress import ProgressCallback, silent
from fheinfer.storage import atomic_write, read_small
from fheinfer.tensor_file import read_metadata, tensor_bytes, tensor_metadata

F32 = npt.NDArray[np.float32]

MAX_BYTES = 1 << 30
"""Larger files are refused unread; ResNet20 is 1.1 MB, VGG19 575 MB."""
MAX_CLASSES = 1 << 16
MAX_KEPT, MAX_BITS = 100, 60
"""How many `Model.kept_bits` there may be, and the most bits."""
MAX_MODULE = 500
"""Characters of the name of the module that a node comes from."""

FORMAT = "fheinfer-model-1"
FINALS = ("", "softmax", "log_softmax", "sigmoid")
"""What may be done to outputs after decryption."""
_FIELDS = ("mean", "std", "classes", "ranges", "provenance")
_RARE = ("final", "kept_bits")


@dataclass(frozen=True, eq=False)
class Model:
    """A network that can be compiled.

    graph       operations and how they are connected
    tensors     name -> float32, read-only, in the shapes that the graph infers, all finite, variances not negative
    mean, std   the input is (pixel / 255 - mean) / std per channel, or (x - mean) / std per feature of a vector
    classes     a name for each output; numbers where none are given, and none where the outputs are no single vector
    ranges      activation -> largest |input| seen on calibration data; empty where it was never measured. Products and
                max pools may have one, too, and the input of the network under its own name
    provenance  where it comes from, in words
    final       what the client does to every output after decryption: "softmax", "log_softmax" (both over the classes),
                "sigmoid", or "" for nothing
    kept_bits   that outputs keep of the network's own, by what approximates its ReLUs (`approx.fidelity.REFERENCES`),
                as measured on calibration data with these ranges; empty where it was never measured

    Raises:
        GraphError: a graph that breaks a rule of `model.verify`.
        WeightsError: naming the tensor that is missing, unknown, misshapen or not finite.
    """

    graph: Graph
    tensors: Mapping[str, F32]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    ranges: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    final: str = ""
    kept_bits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        verify(self.graph)
        fixed = {
            "tensors": _checked_tensors(self.graph, self.tensors),
            "mean": _normalisation("mean", self.mean, self.graph),
            "std": _normalisation("std", self.std, self.graph, positive=True),
            "classes": _checked_classes(self.graph, self.classes),
            "ranges": _checked_ranges(self.graph, self.ranges),
            "provenance": MappingProxyType({str(k): str(v) for k, v in self.provenance.items()}),
            "kept_bits": _checked_bits(self.kept_bits),
        }
        if self.final not in FINALS:
            raise WeightsError(
                f"{self.final!r} is nothing that a client does to outputs; choose {', '.join(FINALS[1:])}"
            )
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """What it takes and gives, how inputs are normalised, and what was assumed when it was imported."""
        return in_words(self)

    @property
    def name(self) -> str:
        """That of the graph."""
        return self.graph.name

    @property
    def input_bound(self) -> float:
        """Largest |value| of a normalised input: as measured, else for pixels, or features, between 0 and 1 before."""
        if measured := self.ranges.get(self.graph.input.name):
            return measured
        return max(max(m, 1 - m) / s for m, s in zip(self.mean, self.std, strict=True))

    def calibrate(self, data: Any, *, limit: int | None = 1_000, progress: ProgressCallback = silent) -> Model:
        """The same model with ranges measured on `data`: `fheinfer.calibrate`, which says what data may be.

        Raises:
            UsageError: torch is not installed.
            DatasetError, RangeError: as there.
        """
        from fheinfer import calibrate  # of a layer below this one, which only the package itself may name

        return calibrate(self, data, limit=limit, progress=progress)

    def with_ranges(self, ranges: Mapping[str, float]) -> Model:
        """The same model with other ranges; what was measured with those it had is left out."""
        return replace(self, ranges=ranges, kept_bits={})

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hex) over the graph, the bytes of the tensors and the normalisation."""
        digest = hashlib.sha256(json.dumps([graph_to_json(self.graph), self.mean, self.std]).encode())
        for name in sorted(self.tensors):
            array = self.tensors[name]
            digest.update(json.dumps([name, array.shape]).encode())
            digest.update(array.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    def save(self, path: Path | str) -> None:
        """Writes a model file: a new one replaces `path` at once, or `path` stays as it was.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        atomic_write(Path(path), [self.to_bytes()])

    def to_bytes(self) -> bytes:
        """The model file; the same bytes for the same model."""
        fields = {name: getattr(self, name) for name in _FIELDS} | self._rare
        metadata = {"format": FORMAT, "checksum": self._checksum(), "graph": graph_to_json(self.graph), **fields}
        return tensor_bytes(self.tensors, metadata)

    def _checksum(self) -> str:
        rest = [self.identity, self.classes, sorted(self.ranges.items()), sorted(self.provenance.items())]
        rest += self._rare.values()
        return hashlib.sha256(json.dumps(rest).encode()).hexdigest()

    @property
    def _rare(self) -> dict[str, Any]:
        """Fields that files have only where they say something."""
        rare = {"final": self.final, "kept_bits": dict(sorted(self.kept_bits.items()))}
        return {name: value for name, value in rare.items() if value}


def load(path: Path | str) -> Model:
    """The model that `Model.save` wrote.

    Raises:
        WeightsError: missing, truncated, changed, of another format, or tensors that do not fit its graph.
        GraphError: a graph that breaks a rule of `model.verify`, or has an operation this version does not know.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: no model of fheinfer; make one of it with `fheinfer model import {path} -o FILE`")
    try:
        fields = {name: metadata[name] for name in _FIELDS} | {n: metadata[n] for n in _RARE if n in metadata}
        model = Model(graph_from_json(metadata["graph"]), tensors, **fields)
        checksum = metadata["checksum"]
    except (WeightsError, GraphError) as error:
        raise type(error)(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged metadata ({str(error)[:100]}); get the file again") from None
    if model._checksum() != checksum:
        raise WeightsError(f"{path}: changed since it was written; get the file again")
    return model


def is_model_file(path: Path) -> bool:
    """Whether a file begins like a model of ours; `load` says whether it is a whole one."""
    return str(read_metadata(path).get("format", "")) == FORMAT


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """The graph as a model file holds it: `name`, and `nodes` with `name`, `op`, `inputs` and the fields of `op`.

    A node has its `module` where it is known, and the graph its `outputs` where they are others than the last node.
    """
    nodes = [
        {"name": n.name, "op": n.op.kind, "inputs": list(n.inputs), **_listed(to_fields(n.op))}
        | ({"module": n.module} if n.module else {})
        for n in graph
    ]
    last = (graph.nodes[-1].name,) if graph.nodes else ()
    return {"name": graph.name, "nodes": nodes} | ({"outputs": list(graph.outputs)} if graph.outputs != last else {})


def graph_from_json(content: Any) -> Graph:
    """The graph that `graph_to_json` made.

    Raises:
        GraphError: not of that form; unknown operations and fields are named with their node.
    """
    if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
        raise GraphError("the graph is not a JSON object with a list of nodes")
    nodes: list[Node] = []
    for entry in content["nodes"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise GraphError("a node of the graph has no name")
        inputs = entry.get("inputs", [])
        if not isinstance(inputs, list) or not all(isinstance(name, str) for name in inputs):
            raise GraphError(f"node {entry['name']!r}: inputs are not a list of names")
        rest = {key: value for key, value in entry.items() if key not in ("name", "op", "inputs", "module")}
        try:
            op = from_fields(entry.get("op"), rest)
            nodes.append(Node(entry["name"], op, tuple(inputs), module=str(entry.get("module", ""))[:MAX_MODULE]))
        except Invalid as error:
            raise GraphError(f"node {entry['name']!r}: {error}") from None
    outputs = content.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
        raise GraphError("the outputs of the graph are not a list of names")
    return verify(Graph(str(content.get("name", "")), tuple(nodes), tuple(outputs)))


def _listed(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _read(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Tensors and metadata of a model file; nothing of it is believed yet."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse

    try:
        data = read_small(path, MAX_BYTES, "a model file")
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; check the path") from None
    except CorruptArtifactError as error:
        raise WeightsError(str(error)) from None
    try:
        return dict(parse(data)), tensor_metadata(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = str(error).strip().partition("\n")[0][:100]
        raise WeightsError(
            f"{path}: no model of fheinfer ({reason}); bring in a checkpoint with `fheinfer model import`"
        ) from None


def _checked_tensors(graph: Graph, tensors: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, F32]:
    expected = graph.tensor_shapes()
    for name in tensors:
        if name not in expected:
            raise WeightsError(f"unknown tensor {name!r}: not one of {graph.name}")
    checked: dict[str, F32] = {}
    for name, shape in expected.items():
        if name not in tensors:
            raise WeightsError(f"tensor {name!r} is missing")
        given = tensors[name]
        if given.shape != shape or given.dtype.kind != "f":
            raise WeightsError(f"tensor {name!r} is {given.dtype} {given.shape}, expected floats {shape}")
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite and is refused below
            array = np.array(given, dtype=np.float32, order="C")  # files and hashes know no other
        if not np.isfinite(array).all():
            raise WeightsError(f"tensor {name!r} holds NaN or infinite values")
        array.flags.writeable = False
        checked[name] = array
    for node in graph:
        if (var := node.op.tensors.get("var")) and checked[var].min() < 0:
            raise WeightsError(f"tensor {var!r} holds a negative variance")
    return MappingProxyType(checked)


def _checked_ranges(graph: Graph, ranges: Mapping[str, float]) -> Mapping[str, float]:
    known = {graph.input.name, *(node.name for node in graph.ranged)}
    if ranges and not {node.name for node in graph.activations} <= set(ranges) <= known:
        raise WeightsError("the ranges are not those of the network's activations")
    checked = {str(name): float(value) for name, value in ranges.items()}
    if not all(0 <= value < math.inf for value in checked.values()):
        raise WeightsError("a range is not a finite positive number")
    return MappingProxyType(checked)


def _checked_bits(bits: Mapping[str, float]) -> Mapping[str, float]:
    checked = {str(name): float(value) for name, value in bits.items()}
    if len(checked) > MAX_KEPT or not all(0 <= value <= MAX_BITS for value in checked.values()):
        raise WeightsError(f"kept_bits are no more than {MAX_KEPT} numbers from 0 to {MAX_BITS}")
    return MappingProxyType(checked)


def _checked_classes(graph: Graph, classes: Sequence[str]) -> tuple[str, ...]:
    shapes = [graph.shapes[name] for name in graph.outputs]
    outputs = shapes[0][0] if len(shapes) == 1 and len(shapes[0]) == 1 else 0
    if not outputs and classes:
        raise WeightsError(f"{len(classes)} class names for a network whose output is no single vector; give none")
    names = tuple(str(name)[:200] for name in classes) or tuple(map(str, range(min(outputs, MAX_CLASSES + 1))))
    if len(names) != outputs or outputs > MAX_CLASSES:
        raise WeightsError(f"{len(names)} class names for a network of {outputs} outputs")
    return names


def _normalisation(name: str, values: Sequence[float], graph: Graph, positive: bool = False) -> tuple[float, ...]:
    numbers, shape = tuple(float(value) for value in values), graph.input_shape
    if len(numbers) != shape[0] or not all(math.isfinite(n) and (n > 0 or not positive) for n in numbers):
        what = "colour channel" if len(shape) == 3 else "channel" if len(shape) > 1 else "feature"
        raise WeightsError(f"{name} must be {shape[0]} {'positive ' if positive else ''}numbers, one per {what}")
    return numbers
