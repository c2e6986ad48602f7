"""Networks that people know, narrow and with random weights, under the set that is chosen for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import fheinfer
from fheinfer.compiler.activations import polynomials_of
from fheinfer.evaluation.approximated import Approximated
from fheinfer.model.ops import Bootstrap
from tests import networks

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: networks.Resnet18(width=8), 1),
    "vgg11": (lambda: networks.Vgg11(width=8), 1),
    "mobilenet": (lambda: networks.MobileNet(width=8), 1),
    "mlperf-resnet8": (networks.MlperfResnet8, 1),
    "ace-resnet": (lambda: networks.CifarResnet(blocks=1, width=36), 2),
}
"""(The module, ciphertexts of the largest value that is bootstrapped.)"""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_on_slots_what_its_polynomials_compute_in_torch(name: str) -> None:
    make, ciphertexts = NETWORKS[name]
    torch.manual_seed(1)
    network = networks.with_random_weights(name, make())
    x = network.train[:1].double()
    model = fheinfer.from_torch(network.module, network.example, mean=network.mean, std=network.std, quiet=True)
    model = model.calibrate(network.train)
    plan = fheinfer.compile(model)
    widest = max(step.packing.ciphertexts for step in plan.steps if isinstance(step.op, Bootstrap))
    assert widest == ciphertexts
    found = fheinfer.run_slots(plan, x[0].numpy())
    (exact,) = Approximated(polynomials_of(model), torch.float64).outputs(x).values()
    np.testing.assert_allclose(found, exact[0], rtol=0, atol=1e-9 * float(exact.abs().max()))
    with torch.inference_mode():
        expected = network.module.double()(x)
    assert (exact - expected).abs().max() < 2**-3 * expected.abs().max()
