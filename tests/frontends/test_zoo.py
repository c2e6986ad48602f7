from __future__ import annotations

import pytest

from fheinfer.errors import UnknownNetworkError
from fheinfer.frontends import zoo
from fheinfer.graph.verify import verify


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_is_legal(name: str) -> None:
    assert verify(zoo.network(name)).name == name


def test_resnet20_is_resnet20() -> None:
    """He et al. 2015, section 4.2: 19 convolutions and a linear layer on the main path, here with 1x1 shortcuts."""
    graph = zoo.network("resnet20")
    convolutions = [n for n in graph if n.op == "conv2d"]
    assert sum(n.attrs["kernel"] == 3 for n in convolutions) == 19
    assert [n.name for n in convolutions if n.attrs["kernel"] == 1] == [
        "layer2.0.downsample.0",
        "layer3.0.downsample.0",
    ]
    assert sum(n.op == "relu" for n in graph) == 19
    shapes = graph.shapes()
    assert (shapes["layer1.2.relu2"], shapes["layer2.2.relu2"]) == ((16, 32, 32), (32, 16, 16))
    assert (shapes["layer3.2.relu2"], shapes["fc"]) == ((64, 8, 8), (10,))


def test_unknown_networks_are_typed() -> None:
    with pytest.raises(UnknownNetworkError, match="there are: resnet20, resnet8-tiny"):
        zoo.network("resnet21")
