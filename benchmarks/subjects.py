"""The networks that are measured, and what each may take on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fheinfer as fi
from fheinfer.data import datasets
from fheinfer.data.images import CLASSES
from fheinfer.evaluation.graph import evaluate_graph
from fheinfer.evaluation.inputs import to_input
from fheinfer.model.model import Model
from tests import networks

F64 = NDArray[np.float64]
CALIBRATED_ON = 1_000
"""Training examples, as `Model.calibrate` takes by default; networks of random weights have fewer."""


@dataclass(frozen=True)
class Subject:
    """A calibrated model, and inputs with what PyTorch, or ONNX's graph, makes of them.

    inputs     (N, *shape), normalised
    reference  (n, *shape) -> (n, classes), in float64
    """

    model: Model
    inputs: F64
    reference: Callable[[F64], F64]


@dataclass(frozen=True)
class Case:
    """A network, by the name it has on the command line.

    make     of the folder of public data
    seconds  of one evaluation, at most
    memory   of the server, bytes, at most
    options  of `fheinfer.compile`, where its defaults are not meant
    """

    title: str
    make: Callable[[Path], Subject]
    seconds: float
    memory: float
    options: dict[str, Any]


def of_network(network: networks.Network) -> Subject:
    """A torch module, imported and calibrated on its training data."""
    model = fi.from_torch(
        network.module, network.example, mean=network.mean, std=network.std, classes=network.classes or None
    )
    module = network.module.double()

    @torch.inference_mode()
    def reference(x: F64) -> F64:
        return np.asarray(module(torch.from_numpy(x)).numpy())

    return Subject(model.calibrate(network.train[:CALIBRATED_ON]), network.inputs.double().numpy(), reference)


def of_model(model: Model, public_data: Path) -> Subject:
    """A model of CIFAR-10's images that has no module: what it computes is what its graph says."""
    test = datasets.load(public_data / "cifar10", "test").first(100)
    if not all(node.name in model.ranges for node in model.graph.activations):
        train = datasets.load(public_data / "cifar10", "train").first(CALIBRATED_ON)
        model = model.calibrate(to_input(torch.from_numpy(train.inputs.copy()), model.mean, model.std))

    def reference(x: F64) -> F64:
        output = model.graph.output.name
        return np.stack([evaluate_graph(model.graph, model.tensors, one)[output] for one in x])

    inputs = to_input(torch.from_numpy(test.inputs.copy()), model.mean, model.std)
    return Subject(model, inputs.double().numpy(), reference)


def ace_resnet32(public_data: Path) -> Subject:
    """ACE's ResNet32 as its ONNX file has it."""
    path = public_data / "models" / "ace_resnet32_cifar10.onnx"
    mean, std = networks.CIFAR
    return of_model(fi.from_onnx(path, mean=mean, std=std, classes=CLASSES), public_data)


def breast_cancer(_: Path) -> Subject:
    """The network of the example, trained by it."""
    example = import_module("examples.breast_cancer")  # written to be read, not to be checked by mypy
    data = example.load()
    net = example.train(data.x[: example.TRAINED], data.labels[: example.TRAINED])
    rest = data.x[example.TRAINED :]
    network = networks.Network("breast-cancer", net, data.mean, data.std, rest, data.x[: example.TRAINED])
    return of_network(network)


def _torch(make: Callable[..., networks.Network], *, data: bool = False, **options: int) -> Callable[[Path], Subject]:
    return lambda public_data: of_network(make(*([public_data] if data else []), **options))


def _case(
    title: str, make: Callable[[Path], Subject], seconds: float, gigabytes: float, **options: float | str
) -> Case:
    return Case(title, make, seconds, gigabytes * 1e9, options)


CASES = {
    "mlp": _case("MLP 784-128-128-10, squares", _torch(networks.mnist_mlp, data=True), 0.15, 0.5),
    "lola": _case("LoLA", _torch(networks.lola, data=True), 0.12, 0.5),
    "lenet": _case("LeNet, squares", _torch(networks.lenet_squares, data=True), 0.8, 1.5),
    # Two outputs of steps as steep as a checkerboard's: with the default of degree 59 two points of 100 change class.
    "checkerboard": _case("checkerboard 2-100-100-2, ReLUs", _torch(networks.checkerboard), 0.8, 1.0, bits=7),
    "heir-lenet": _case("HEIR's LeNet-5, ReLUs", _torch(networks.heir_lenet, data=True), 15, 5),
    "resnet8": _case("MLPerf Tiny's ResNet8", _torch(networks.mlperf_resnet8, data=True), 15, 5),
    "ace-resnet32": _case("ACE's ResNet32, from ONNX", ace_resnet32, 60, 5.5),
    "vgg11": _case("VGG11, 32x32", _torch(networks.vgg11), 120, 8),
    "resnet18": _case("ResNet-18, 32x32", _torch(networks.resnet18), 240, 12),
    "resnet18-64": _case("ResNet-18, 64x64, 200 classes", _torch(networks.resnet18, size=64, classes=200), 600, 16),
    "mobilenet": _case("MobileNet's kind, 32x32", _torch(networks.mobilenet), 120, 8),
    "breast-cancer": _case("30-64-64-2, squares", breast_cancer, 0.1, 0.5),
}
