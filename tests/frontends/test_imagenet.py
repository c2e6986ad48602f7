"""Networks of ImageNet's size, with random weights, compile to plans and compute on slots what PyTorch computes.

Each takes minutes on two cores, and up to 8 GB: they run when asked for (`pytest -m slow -k vgg16`).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fheinfer
from fheinfer.compiler.activations import polynomials_of
from fheinfer.evaluation.approximated import Approximated
from fheinfer.frontends.comparing import evaluate
from fheinfer.model.model import Model
from fheinfer.runtime.slots import slots_outputs
from tests import imagenet_networks
from tests.frontends.onnx_light import LIGHT, images, light

pytestmark = pytest.mark.slow
SET = "n16-l12-s47-d2-b33"
ACTIVATION = "minimax:10"
"""As exact as it takes to stay in ranges that two random images gave."""
MOST = 0.15
"""Of the largest output: what such composites leave of networks of up to 13 max pools that were never trained."""


def check(model: Model, x: np.ndarray) -> None:
    """Compares the outputs before a softmax on one of the images that ranges were measured on: with the same
    polynomials in PyTorch, and with the network itself."""
    plan = fheinfer.compile(model, SET, activation=ACTIVATION)
    found = np.ravel(slots_outputs(plan, x)[model.graph.output.name])
    batch = torch.from_numpy(x[None])
    (clear,) = evaluate(model.graph, model.tensors, x[None], np.float32)
    program = polynomials_of(model, ACTIVATION)
    same = Approximated(program, torch.float64).outputs(batch.double())[model.graph.output.name][0].numpy().ravel()
    assert np.abs(found - same).max() < 1e-6 * np.abs(same).max()
    assert np.abs(found - clear.ravel()).max() < MOST * np.abs(clear).max()


@pytest.mark.parametrize("name", imagenet_networks.NETWORKS)
def test_networks_of_pytorch(name: str) -> None:
    size = imagenet_networks.SIZES.get(name, 224)
    x = np.random.default_rng(7).normal(size=(2, 3, size, size)).astype(np.float32)
    model = fheinfer.from_torch(imagenet_networks.made(name), torch.zeros(1, 3, size, size), name=name)
    check(model.calibrate(x), x[0])


@pytest.mark.parametrize("name", LIGHT)
def test_the_light_networks_of_onnx(name: str) -> None:
    check(light(name), images(2)[0])
