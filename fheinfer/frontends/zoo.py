"""The zoo: ordinary functions that make graphs, with the usual PyTorch names of tensors, and their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fheinfer.errors import UnknownNetworkError, UsageError
from fheinfer.frontends.replacing import MARK, replace_activations
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from fheinfer.model.ops import Add, GlobalAvgPool, MaxPool, MeanPool, Relu


def resnet(
    name: str,
    blocks: tuple[int, ...],
    widths: tuple[int, ...],
    size: int = 32,
    classes: int = 10,
    activation: str = "relu",
) -> Graph:
    """A CIFAR residual network (He et al. 2015, section 4.2) with 1x1-convolution shortcuts.

    Args:
        blocks: residual blocks in each stage; every stage but the first halves the image.
        widths: channels of each stage.
        size: height and width of the (3, size, size) input.
        classes: length of the output.
        activation: kind of every activation, one of `model.ops.ACTIVATIONS`.

    An "option A" network (subsample and zero-pad) is the same graph: its shortcut is a 1x1 convolution
    with a constant matrix, which importing a checkpoint writes.
    """
    g = GraphBuilder(name, (3, size, size))
    x = g.conv_bn("input", "conv1", "bn1", widths[0], 3)
    x = g.activation(activation, x, f"{activation}1")
    channels = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if stride != 1 or channels != width:
                shortcut = g.conv_bn(x, f"{prefix}.downsample.0", f"{prefix}.downsample.1", width, 1, stride)
            y = g.conv_bn(x, f"{prefix}.conv1", f"{prefix}.bn1", width, 3, stride)
            y = g.activation(activation, y, f"{prefix}.{activation}1")
            y = g.conv_bn(y, f"{prefix}.conv2", f"{prefix}.bn2", width, 3)
            y = g.add(f"{prefix}.add", Add(), y, shortcut)
            x = g.activation(activation, y, f"{prefix}.{activation}2")
            channels = width
    return _classified(g, x, classes)


def turbo(name: str, blocks: tuple[int, ...], widths: tuple[int, ...], size: int = 32, classes: int = 10) -> Graph:
    """A residual network of few levels: one convolution and one quadratic per block, after a 5x5 convolution.

    A block is herpn(bn(conv(x)) + shortcut(x)). Encrypted that is one convolution, since the shortcut, be it 1x1 or
    nothing at all, is part of its centre weight. So a block takes two levels, and the network 2 (blocks + 1) + 1.
    Arguments are those of `resnet`.
    """
    g = GraphBuilder(name, (3, size, size))
    x = g.activation("herpn", g.conv_bn("input", "conv1", "bn1", widths[0], 5), "herpn1")
    channels = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if stride != 1 or channels != width:
                shortcut = g.conv_bn(x, f"{prefix}.downsample.0", f"{prefix}.downsample.1", width, 1, stride)
            y = g.conv_bn(x, f"{prefix}.conv", f"{prefix}.bn", width, 3, stride)
            x = g.activation("herpn", g.add(f"{prefix}.add", Add(), y, shortcut), f"{prefix}.herpn")
            channels = width
    return _classified(g, x, classes)


def vgg(
    name: str, plan: tuple[tuple[int, ...], ...], pool: str = "max_pool", size: int = 32, classes: int = 10
) -> Graph:
    """A VGG network with batch norm for small images (Simonyan and Zisserman 2014), its linear layers made one.

    Args:
        plan: widths of the 3x3 convolutions of each stage; after every stage `pool` halves the image.
        pool: "max_pool" or "mean_pool", of 2x2.
        size, classes: as of `resnet`.
    """
    pools: dict[str, type[MaxPool] | type[MeanPool]] = {"max_pool": MaxPool, "mean_pool": MeanPool}
    g, x = GraphBuilder(name, (3, size, size)), "input"
    for stage, widths in enumerate(plan, start=1):
        for i, width in enumerate(widths, start=1):
            prefix = f"stage{stage}.{i}"
            x = g.activation("relu", g.conv_bn(x, f"{prefix}.conv", f"{prefix}.bn", width, 3), f"{prefix}.relu")
        x = g.add(f"stage{stage}.pool", pools[pool](2), x)
    return _classified(g, x, classes)


def perceptron(name: str, sizes: tuple[int, ...]) -> Graph:
    """Linear layers with a ReLU between each two; `sizes` are those of the input, all layers and the output."""
    g, x = GraphBuilder(name, sizes[:1]), "input"
    for i, size in enumerate(sizes[1:], start=1):
        x = g.linear(f"fc{i}", x, size)
        if i + 1 < len(sizes):
            x = g.add(f"relu{i}", Relu(), x)
    return g.build()


def _classified(g: GraphBuilder, x: str, classes: int) -> Graph:
    g.linear("fc", g.add("avgpool", GlobalAvgPool(), x), classes)
    return g.build()


_VGG = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}

_RESNET20 = ((3, 3, 3), (16, 32, 64))
_TINY = ((1, 1, 1), (4, 8, 16), 8)

_NETWORKS: dict[str, Callable[..., Graph]] = {
    "resnet20": partial(resnet, "resnet20", *_RESNET20),
    "resnet20-silu": partial(resnet, "resnet20-silu", *_RESNET20, activation="silu"),
    "resnet20-gelu": partial(resnet, "resnet20-gelu", *_RESNET20, activation="gelu"),
    # Quadratics only: 40 levels (19 convolutions, 19 squares, pool and linear layer), or 21 and one square per block.
    # The second is wider: 16, 64 and 128 channels fill 16,384 slots in its first two stages and half of them in the
    # third.
    "resnet20-herpn": partial(resnet, "resnet20-herpn", *_RESNET20, activation="herpn"),
    "resnet20-turbo": partial(turbo, "resnet20-turbo", (3, 3, 3), (16, 64, 128)),
    **{f"resnet{6 * n + 2}": partial(resnet, f"resnet{6 * n + 2}", (n,) * 3, (16, 32, 64)) for n in (5, 7, 9, 18)},
    **{
        f"vgg{layers}{suffix}": partial(vgg, f"vgg{layers}{suffix}", plan, pool)
        for layers, plan in _VGG.items()
        for suffix, pool in (("", "max_pool"), ("-mean", "mean_pool"))
    },
    # The shape of resnet20, small: one block per stage on 8x8 images. Tests and `make test` run it encrypted.
    "resnet8-tiny": partial(resnet, "resnet8-tiny", *_TINY),
    "resnet8-tiny-silu": partial(resnet, "resnet8-tiny-silu", *_TINY, activation="silu"),
    "vgg3-tiny": partial(vgg, "vgg3-tiny", ((4,), (8,)), size=8),
    "vgg3-tiny-mean": partial(vgg, "vgg3-tiny-mean", ((4,), (8,)), "mean_pool", size=8),
    "resnet8-tiny-herpn": partial(resnet, "resnet8-tiny-herpn", *_TINY, activation="herpn"),
    "resnet8-tiny-turbo": partial(turbo, "resnet8-tiny-turbo", *_TINY),
    # A point of a square in, the colour of a 4x4 checkerboard there out. (Two quadratics, of degree 4 together, cannot:
    # three changes of colour each way need degree 6.)
    "checkerboard": partial(perceptron, "checkerboard", (2, 100, 100, 2)),
}


def names() -> tuple[str, ...]:
    """Names `network` knows."""
    return tuple(_NETWORKS)


def network(name: str, classes: int | None = None) -> Graph:
    """The graph of that name; NETWORK+PAF is NETWORK with every ReLU a PAF, as in "resnet20+f1g2".

    NETWORK+quadratic has quadratics in their place (`frontends.replacing`).

    Args:
        classes: length of the output, where it is not that of the data set the network is for.

    Raises:
        UnknownNetworkError: with the names there are.
        UsageError: no such PAF, or a network whose output is fixed.
    """
    base, mark, to = name.partition(MARK)
    if base not in _NETWORKS:
        raise UnknownNetworkError(f"no network called {name!r}; there are: {', '.join(_NETWORKS)}")
    make = _NETWORKS[base]
    if classes is not None and make is _NETWORKS["checkerboard"]:
        raise UsageError(f"{base} has two outputs, not {classes}")
    graph = make() if classes is None else make(classes=classes)
    return replace_activations(graph, to) if mark else graph


def placeholder(graph: Graph) -> Model:
    """A model of that graph with tensors of ones: rotations, levels and costs do not depend on them."""
    tensors = {name: np.ones(shape, np.float32) for name, shape in graph.tensor_shapes().items()}
    half = (0.5,) * graph.input_shape[0]
    return Model(graph, tensors, half, half, ranges={node.name: 1.0 for node in graph.activations})
