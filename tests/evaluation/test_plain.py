from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fheinfer.errors import InputError, UsageError
from fheinfer.evaluation.plain import plain_layers, plain_outputs
from fheinfer.frontends import zoo
from fheinfer.model.model import Model

GRAPH = zoo.network("resnet8-tiny")
IMAGE = np.random.default_rng(0).normal(size=(3, 8, 8))


@pytest.fixture
def weights() -> Model:
    random = np.random.default_rng(1)
    arrays = {name: random.uniform(0.1, 0.6, shape).astype(np.float32) for name, shape in shapes(GRAPH).items()}
    return Model(GRAPH, arrays, (0, 0, 0), (1, 1, 1))


def test_every_node_is_reported_in_float64(weights: Model) -> None:
    layers = plain_layers(weights, IMAGE)
    assert {name: value.shape for name, value in layers.items()} == GRAPH.shapes()
    assert all(value.dtype == np.float64 for value in layers.values())
    assert np.array_equal(layers["input"], IMAGE)
    assert np.array_equal(layers["fc"], plain_outputs(weights, IMAGE))


def test_nodes_mean_what_numpy_says(weights: Model) -> None:
    layers, arrays = plain_layers(weights, IMAGE), {k: v.astype(np.float64) for k, v in weights.tensors.items()}
    window = IMAGE[:, 2:5, 4:7]
    assert layers["conv1"][1, 3, 5] == pytest.approx((window * arrays["conv1.weight"][1]).sum())
    scale = arrays["bn1.weight"] / np.sqrt(arrays["bn1.running_var"] + 1e-5)
    shifted = (layers["conv1"] - arrays["bn1.running_mean"][:, None, None]) * scale[:, None, None]
    assert layers["bn1"] == pytest.approx(shifted + arrays["bn1.bias"][:, None, None])
    assert layers["relu1"] == pytest.approx(np.maximum(layers["bn1"], 0))
    assert layers["avgpool"] == pytest.approx(layers["layer3.0.relu2"].mean(axis=(1, 2)))
    assert layers["fc"] == pytest.approx(arrays["fc.weight"] @ layers["avgpool"] + arrays["fc.bias"])


def test_a_image_of_another_shape_is_refused(weights: Model) -> None:
    with pytest.raises(InputError, match=r"\(3, 8, 8\)"):
        plain_outputs(weights, IMAGE[:, :7])


def test_without_torch_it_says_what_to_install(weights: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fheinfer.train.module", raising=False)
    with pytest.raises(UsageError, match="pip install torch"):
        plain_outputs(weights, IMAGE)


def test_torch_is_imported_only_when_it_is_used() -> None:
    code = ("import sys, fheinfer.evaluation.plain, fheinfer.model.model, fheinfer.data.images;"
            "import fheinfer.evaluation.metrics;sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
