from __future__ import annotations

import math

import pytest

from fheinfer.errors import UnknownNetworkError
from fheinfer.frontends import zoo
from fheinfer.model.ops import Conv2d, GlobalAvgPool, HerPN, Linear, MaxPool, MeanPool, Relu
from fheinfer.model.verify import verify


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_is_legal(name: str) -> None:
    assert verify(zoo.network(name)).name == name


def test_resnet20_is_resnet20() -> None:
    """He et al. 2015, section 4.2: 19 convolutions and a linear layer on the main path, here with 1x1 shortcuts."""
    graph = zoo.network("resnet20")
    convolutions = [(n.name, n.op.kernel) for n in graph if isinstance(n.op, Conv2d)]
    assert sum(kernel == (3, 3) for _, kernel in convolutions) == 19
    assert [name for name, kernel in convolutions if kernel == (1, 1)] == [
        "layer2.0.downsample.0",
        "layer3.0.downsample.0",
    ]
    assert sum(isinstance(n.op, Relu) for n in graph) == 19
    shapes = graph.shapes
    assert (shapes["layer1.2.relu2"], shapes["layer2.2.relu2"]) == ((16, 32, 32), (32, 16, 16))
    assert (shapes["layer3.2.relu2"], shapes["fc"]) == ((64, 8, 8), (10,))


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110])
def test_deeper_resnets_have_the_layers_of_their_name(layers: int) -> None:
    graph = zoo.network(f"resnet{layers}")
    assert sum(isinstance(n.op, Conv2d) and n.op.kernel == (3, 3) for n in graph) + 1 == layers


@pytest.mark.parametrize(("layers", "pool"), [(11, MaxPool), (16, MaxPool), (11, MeanPool), (16, MeanPool)])
def test_vgg_halves_the_image_five_times(layers: int, pool: type[MaxPool | MeanPool]) -> None:
    graph = zoo.network(f"vgg{layers}" + ("-mean" if pool is MeanPool else ""))
    # 8 and 13 convolutions; the published networks count two more linear layers than this one has
    assert sum(isinstance(n.op, Conv2d) for n in graph) + 3 == layers
    shapes = graph.shapes
    assert [shapes[n.name] for n in graph if isinstance(n.op, pool)] == [
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
        (512, 1, 1),
    ]


@pytest.mark.parametrize(("name", "activations", "levels"), [("resnet20-herpn", 19, 40), ("resnet20-turbo", 10, 21)])
def test_a_quadratic_network_has_the_levels_it_says(name: str, activations: int, levels: int) -> None:
    """The longest way from input to output, with a level for each convolution, linear layer, pool and quadratic."""
    graph = zoo.network(name)
    assert sum(isinstance(n.op, HerPN) for n in graph) == len(graph.activations) == activations
    depth: dict[str, int] = {}
    for node in graph:
        pool = (GlobalAvgPool,) if name == "resnet20-herpn" else ()  # else part of the linear layer
        costs = isinstance(node.op, (Conv2d, HerPN, Linear, *pool))
        depth[node.name] = costs + max((depth[i] for i in node.inputs), default=0)
    assert depth[graph.output.name] == levels


def test_stages_of_the_turbo_network_fit_their_slots() -> None:
    shapes = zoo.network("resnet20-turbo").shapes
    slots = [math.prod(shapes[f"layer{stage}.2.herpn"]) for stage in (1, 2, 3)]
    assert slots == [16_384, 16_384, 8_192]


def test_unknown_networks_are_typed() -> None:
    with pytest.raises(UnknownNetworkError, match=r"there are: resnet20, .*resnet8-tiny"):
        zoo.network("resnet21")
