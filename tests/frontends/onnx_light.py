"""The `light` networks of ONNX's own tests with random weights of usual sizes: most of theirs are one constant."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from fheinfer.frontends.onnx import from_onnx
from fheinfer.model.model import Model

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LIGHT = ("squeezenet", "shufflenet", "inception_v2", "densenet121", "resnet50", "vgg19")
"""Those without local response normalisation."""
F32 = NDArray[np.float32]


def light(name: str) -> Model:
    """One of them by its name, calibrated on two random images."""
    proto = onnx.load(FOLDER / f"light_{name}.onnx")
    rng = np.random.default_rng(6)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    roles = {tensor: (node, i) for node in proto.graph.node for i, tensor in enumerate(node.input)}
    made = {tensor: array.shape for tensor, array in shapes.items() if array.dtype == np.float32}
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape":
            made[node.output[0]] = tuple(shapes[node.input[0]].tolist())
    arrays = [
        onnx.numpy_helper.from_array(_random(*_reader(roles, tensor), shape, rng), tensor)
        for tensor, shape in made.items()
    ]
    nodes = [node for node in proto.graph.node if node.op_type != "ConstantOfShape"]
    arrays += [tensor for tensor in proto.graph.initializer if tensor.name not in made]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(arrays)
    proto.ir_version = max(proto.ir_version, 4)  # before, initialisers had to be inputs
    model = from_onnx(proto)
    return model.calibrate(images(2))


def images(count: int) -> F32:
    """Random ones, normalised."""
    return np.random.default_rng(7).normal(size=(count, 3, 224, 224)).astype(np.float32)


def _reader(roles: dict[str, tuple[onnx.NodeProto, int]], tensor: str) -> tuple[str, int]:
    """The operation that reads a tensor, if any, and as which of its inputs; reshapes on the way do not count."""
    if tensor not in roles:
        return "", 0
    node, number = roles[tensor]
    if node.op_type in ("Reshape", "Unsqueeze"):
        return _reader(roles, node.output[0])
    return node.op_type, number


def _random(operation: str, number: int, shape: tuple[int, ...], rng: np.random.Generator) -> F32:
    """Weights that keep the size of values, biases around 0, factors and variances around 1."""
    if operation in ("Conv", "Gemm", "MatMul") and number == 1:
        inputs = math.prod(shape[1:])
        return (rng.standard_normal(shape, np.float32) * math.sqrt(2 / inputs)).astype(np.float32)
    if (operation == "BatchNormalization" and number in (1, 4)) or operation == "Mul":
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    return rng.uniform(-0.1, 0.1, shape).astype(np.float32)
