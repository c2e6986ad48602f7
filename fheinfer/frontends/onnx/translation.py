"""The graph in the making from an ONNX file: what is translated is a node of ONNX, which names what becomes of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import onnx

from fheinfer.data.files import printable
from fheinfer.frontends import translation
from fheinfer.frontends.translation import Array, Origin, Value, unique
from fheinfer.model.ops import Op

Operand = Value | Array


@dataclass
class Translation(translation.Translation):
    """Nodes and tensors of ours, in the order of the file.

    opset  version of ONNX's operations that the file uses
    batch  items that the file's own batch has; values here have one
    node   the ONNX node that is being translated
    """

    opset: int = 0
    batch: int = 1
    node: onnx.NodeProto = field(default_factory=onnx.NodeProto)
    _digests: dict[bytes, str] = field(default_factory=dict)

    def at(self, node: onnx.NodeProto) -> None:
        """Goes on to translate another node."""
        self.node = node
        self.current = Origin(label(node), printable(node.name))

    def tensor(self, name: str, array: Array) -> str:
        """The name of a tensor of the model with these numbers; equal ones are kept once, under the first name.

        Raises:
            WeightsError: numbers that are not real or not finite, or too many.
        """
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiu":
            return super().tensor(name, array)  # which refuses what is no number
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(array, np.float32)
        hashed = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
        hashed.update(numbers.data)
        digest = hashed.digest()
        if digest not in self._digests:
            self._digests[digest] = super().tensor(name, numbers)
        return self._digests[digest]

    def place(self, role: str) -> str:
        """A name for a tensor of the node."""
        return f"{clean(self.node.name or ''.join(self.node.output[:1]) or self.node.op_type)}.{role}"

    def _name(self, op: Op) -> str:
        return unique(clean(self.node.name or f"{self.node.op_type}_{''.join(self.node.output[:1])}"), self.shapes)


def label(node: onnx.NodeProto) -> str:
    """An ONNX node in a message: its operation and its name, or that of its first output."""
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    name = node.name or "".join(node.output[:1])
    return printable(f"{domain}{node.op_type} {name!r}" if name else f"{domain}{node.op_type or 'the input'}")


def clean(name: str) -> str:
    """A name for a node or tensor of ours, which holds no slash and begins with no underscores."""
    return printable(name).replace("/", ".").lstrip("._") or "node"
