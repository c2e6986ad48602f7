"""The networks that other tests start from are what they claim to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import networks


@pytest.mark.parametrize(
    ("name", "least"),
    [("mnist_mlp", 0.93), ("lola", 0.92), ("lenet_squares", 0.94), ("heir_lenet", 0.98), ("mlperf_resnet8", 0.87)],
)
def test_networks_on_public_data_are_as_accurate_as_they_should_be(public_data: Path, name: str, least: float) -> None:
    network = getattr(networks, name)(public_data)
    assert network.accuracy() > least
    assert network.module(network.example).shape == (1, len(network.classes))


@pytest.mark.parametrize(("name", "least"), [("checkerboard", 0.95), ("breast_cancer", 0.95)])
def test_networks_that_need_no_data_are(name: str, least: float) -> None:
    if name == "breast_cancer":
        pytest.importorskip("sklearn")
    network = getattr(networks, name)()
    assert network.accuracy() > least


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet18", (3, 32, 32)), ("vgg11", (3, 32, 32)), ("mobilenet", (3, 32, 32))]
)
def test_random_weights_keep_values_of_a_usual_size(name: str, shape: tuple[int, ...]) -> None:
    network = getattr(networks, name)()
    assert network.example.shape == (1, *shape)
    assert 0.05 < float(network.module(network.inputs).detach().abs().max()) < 20
