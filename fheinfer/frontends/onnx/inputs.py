"""The input of a file: its type, its shape for a batch of one, and which axis is the batch."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from fheinfer.data.files import printable
from fheinfer.errors import GraphError
from fheinfer.model.ops import Shape

_REAL = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}

_SAY_SHAPE = "give it as `--example-shape 1,3,32,32`, in Python as shape=(3, 32, 32) without the batch"


def input_shape(entry: onnx.ValueInfoProto, given: Sequence[int] | None, batch: bool | None) -> tuple[Shape, int, bool]:
    """The ONNX shape of the input for a batch of one, the file's own batch, and whether there is one."""
    name, kind = printable(entry.name), entry.type.tensor_type
    if kind.elem_type not in _REAL:
        raise GraphError(f"input {name!r} is not a tensor of real numbers; give the network what it computes of them")
    if not kind.HasField("shape") and given is None:
        raise GraphError(f"input {name!r} has no shape; {_SAY_SHAPE}")
    sizes = [int(d.dim_value) if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    batched = (len(sizes) > 1 if kind.HasField("shape") else True) if batch is None else batch
    if batched and kind.HasField("shape") and len(sizes) < 2:
        raise GraphError(f"input {name!r} has one axis, and no other beside a batch; give batch=False")
    own = sizes[0] if batched and sizes else 1
    inner = [int(size) for size in given] if given is not None else sizes[1:] if batched else sizes
    if not inner:
        raise GraphError(f"input {name!r} is a single number; give the network a vector")
    sizes_said = printable(", ".join(str(d.dim_param or d.dim_value or "?") for d in kind.shape.dim))
    if min(inner) < 1:
        raise GraphError(f"input {name!r} has the shape ({sizes_said}), of which sizes are left open; {_SAY_SHAPE}")
    fixed = sizes[1:] if batched else sizes
    if kind.HasField("shape") and (
        len(fixed) != len(inner) or any(a not in (0, b) for a, b in zip(fixed, inner, strict=True))
    ):
        raise GraphError(
            f"input {name!r} has the shape ({sizes_said}) in the file, of which one input cannot be {tuple(inner)}"
        )
    return ((1, *inner) if batched else tuple(inner)), max(own, 1), batched


def input_note(entry: onnx.ValueInfoProto, shape: Shape, batched: bool, batch: int) -> str:
    inner = shape[1:] if batched else shape
    what = {1: "numbers", 2: "channels x length", 3: "channels x height x width"}.get(len(inner), "axes")
    size = " x ".join(map(str, inner))
    own = f", whose batch of {batch} in the file becomes one" if batch > 1 else ""
    return f"input {printable(entry.name)!r} is {size} ({what}){own}"
