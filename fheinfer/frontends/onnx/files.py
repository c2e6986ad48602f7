"""An ONNX file as a protobuf message: bounded before it is read, whole, and legal by ONNX's own checker.

External data is read from files inside the folder of the ONNX file and from nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx.inliner import inline_local_functions

from fheinfer.data.files import one_line, open_given, printable, read_given
from fheinfer.errors import GraphError, InputError, WeightsError
from fheinfer.frontends.translation import MAX_TENSOR_VALUES

MAX_BYTES = 1 << 30
"""Of an ONNX file and its external data together."""
MAX_NODES = 1 << 17
OLDEST_OPSET = 6
"""Operations of version 6 to 8 are as those of 9, which is the oldest version that is promised."""

_ADVICE = "export the model again"
_UNSORTED = re.compile(r"topologically sorted, however input '([^']*)' of node:\s*name: *(\S*) +OpType: *(\S+)")
_BITS = {"FLOAT": 32, "DOUBLE": 64, "INT64": 64, "UINT64": 64, "FLOAT16": 16, "BFLOAT16": 16, "INT8": 8, "UINT8": 8}


def read_model(source: Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """The model of a file or its bytes, with all tensors in it, and functions of its own replaced by their nodes.

    Raises:
        InputError: neither a path nor bytes nor a model.
        WeightsError: missing, too large, truncated, no ONNX file, or its external data is missing or out of bounds.
        GraphError: a graph that ONNX itself does not allow: cycles, values that nothing computes, unknown operations.
    """
    folder, data = None, source
    if isinstance(source, Path):
        folder = source.parent
        data = read_given(source, MAX_BYTES, WeightsError, "an ONNX file")
    if isinstance(data, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(data)
    elif isinstance(data, bytes | bytearray | memoryview):
        model = _parse(bytes(data))
    else:
        raise InputError(f"{type(data).__name__} is no ONNX model; give a path, its bytes, or a model that onnx read")
    if not model.HasField("graph") or not model.graph.node:
        raise WeightsError(f"no ONNX model, or one without operations; {_ADVICE}")
    if len(model.graph.node) > MAX_NODES:
        raise GraphError(f"{len(model.graph.node)} operations, more than {MAX_NODES}")
    _load_external(model, folder)
    return _checked(model)


def _parse(data: bytes) -> onnx.ModelProto:
    if len(data) > MAX_BYTES:
        raise WeightsError(f"{len(data):,} bytes, more than the {MAX_BYTES:,} that an ONNX file may have")
    if data.startswith(b"version https://git-lfs"):
        raise WeightsError("a pointer of Git LFS, not the file itself; run `git lfs pull`")
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except Exception:  # protobuf raises its own kind
        raise WeightsError(f"truncated, damaged or no ONNX file; get it again or {_ADVICE}") from None
    return model


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model)
        if model.functions:
            model = inline_local_functions(model)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"no legal ONNX model ({_reason(error)}); {_ADVICE}") from None
    except Exception as error:  # the checker also raises what protobuf and C++ do
        raise GraphError(f"ONNX's checker does not take the model ({_reason(error)}); {_ADVICE}") from None
    return model


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's operations that a model uses.

    Raises:
        GraphError: one older than is supported, or newer than the installed onnx package knows.
    """
    version = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if not OLDEST_OPSET <= version <= onnx.defs.onnx_opset_version():
        raise GraphError(
            f"operations of opset {version}; export with one of 9 to {onnx.defs.onnx_opset_version()}, "
            "or install a newer onnx"
        )
    return int(version)


def _reason(error: BaseException) -> str:
    """The line of the checker's message that says what is wrong."""
    cycle = _UNSORTED.search(str(error))
    if cycle:
        operation = printable(" ".join(filter(None, (cycle[3], cycle[2] and repr(cycle[2])))), 80)
        source = printable(cycle[1], 80)
        return f"operation {operation} reads {source!r}, which comes later or nowhere: a cycle, or out of order"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chosen = next((line for line in lines if not line.startswith("==>")), "")
    return one_line(chosen or type(error).__name__, 200)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a graph, those in attributes and in graphs within included."""
    graphs = [graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                graphs += [attribute.g, *attribute.graphs]


def _load_external(model: onnx.ModelProto, folder: Path | None) -> None:
    """Reads external data into the model, and checks that no tensor promises more than it has."""
    total = 0
    for tensor in _tensors(model.graph):
        if any(size < 0 for size in tensor.dims):
            raise WeightsError(f"tensor {printable(tensor.name)!r} has the shape {tuple(tensor.dims)}; {_ADVICE}")
        if math.prod(tensor.dims) > MAX_TENSOR_VALUES:
            raise WeightsError(
                f"tensor {printable(tensor.name)!r} of {tuple(tensor.dims)} has more numbers than a model may hold"
            )
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = _external(tensor, folder, MAX_BYTES - total)
            total += len(data)
            tensor.raw_data = data
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
        if tensor.HasField("raw_data"):
            _check_length(tensor)


def _check_length(tensor: onnx.TensorProto) -> None:
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    except ValueError:
        kind = ""
    bits = _BITS.get(kind)
    if bits and math.prod(tensor.dims) * bits // 8 != len(tensor.raw_data):
        raise WeightsError(
            f"tensor {printable(tensor.name)!r} of {tuple(tensor.dims)} holds {len(tensor.raw_data):,} bytes "
            f"instead of {math.prod(tensor.dims) * bits // 8:,}; get the file again"
        )


def _external(tensor: onnx.TensorProto, folder: Path | None, limit: int) -> bytes:
    entries: dict[str, Any] = {entry.key: entry.value for entry in tensor.external_data}
    name, location = printable(tensor.name), str(entries.get("location", ""))
    if folder is None:
        raise WeightsError(f"tensor {name!r} is in the file {printable(location)!r}; give the path of the ONNX file")
    path = folder / location
    if not location or not _inside(path, folder):
        raise WeightsError(
            f"tensor {name!r} points to {printable(location)!r}, outside the folder of the ONNX file; {_ADVICE}"
        )
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    except ValueError:
        offset, length = -1, -1
    try:
        with open_given(path, MAX_BYTES, WeightsError, "external data") as file:
            size = file.seek(0, 2)
            length = size - offset if "length" not in entries else length
            if not 0 <= offset <= offset + length <= size or length > limit:
                raise WeightsError(
                    f"tensor {name!r} is at bytes {offset} to {offset + length} of {printable(location)!r}, which has "
                    f"{size:,}; get both files again"
                )
            file.seek(offset)
            return file.read(length)
    except InputError as error:
        if str(error).startswith("tensor"):
            raise
        raise WeightsError(f"tensor {name!r} is in a file of its own: {error}; put it beside the ONNX file") from None


def _inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False
