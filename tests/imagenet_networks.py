"""Networks of ImageNet's shape, (3, 224, 224) or (3, 299, 299) to 1,000 classes, as plain torch modules.

He et al., arXiv 1512.03385; Simonyan and Zisserman, arXiv 1409.1556; Szegedy et al., arXiv 1409.4842 and 1512.00567.
Branches that only training uses are left out. No test is here; tests import from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ConvBn(nn.Sequential):
    """A convolution without bias, batch norm, and a ReLU unless `last`."""

    def __init__(self, inside: int, outside: int, kernel: Any, *, last: bool = False, **options: Any) -> None:
        parts = [nn.Conv2d(inside, outside, kernel, bias=False, **options), nn.BatchNorm2d(outside)]
        super().__init__(*parts, *([] if last else [nn.ReLU(inplace=True)]))


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 of four times the width, beside a shortcut."""

    def __init__(self, inside: int, width: int, stride: int, deep: bool) -> None:
        super().__init__()
        self.outside = width * (4 if deep else 1)
        if deep:
            first = [ConvBn(inside, width, 1), ConvBn(width, width, 3, stride=stride, padding=1)]
            self.body = nn.Sequential(*first, ConvBn(width, self.outside, 1, last=True))
        else:
            first = [ConvBn(inside, width, 3, stride=stride, padding=1)]
            self.body = nn.Sequential(*first, ConvBn(width, width, 3, padding=1, last=True))
        alike = stride == 1 and inside == self.outside
        self.shortcut = nn.Identity() if alike else ConvBn(inside, self.outside, 1, stride=stride, last=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Resnet(nn.Module):
    """ResNet-18 is (2, 2, 2, 2) blocks, ResNet-50 (3, 4, 6, 3) deep ones."""

    def __init__(self, counts: Sequence[int], deep: bool, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBn(3, 64, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1))
        blocks, channels = list[nn.Module](), 64
        for stage, count in enumerate(counts):
            for i in range(count):
                blocks.append(Block(channels, 64 << stage, 2 if stage and not i else 1, deep))
                channels = (64 << stage) * (4 if deep else 1)
        self.blocks, self.pool, self.fc = nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))  # type: ignore[no-any-return]


class Vgg16(nn.Module):
    """Thirteen 3x3 convolutions and three linear layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers, channels = list[nn.Module](), 3
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features, self.pool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7)
        dense: list[nn.Module] = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout()]
        dense += [nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes)]
        self.classifier = nn.Sequential(*dense)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Several branches of one value, side by side in the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception(inside: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> Branches:
    """The module of GoogLeNet, with batch norm: 1x1, 3x3 and (as usual for 5x5) 3x3 convolutions, and a max pool."""
    return Branches(
        ConvBn(inside, a, 1),
        nn.Sequential(ConvBn(inside, b[0], 1), ConvBn(b[0], b[1], 3, padding=1)),
        nn.Sequential(ConvBn(inside, c[0], 1), ConvBn(c[0], c[1], 3, padding=1)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvBn(inside, d, 1)),
    )


class GoogLeNet(nn.Module):
    """Inception v1 with batch norm; its pools round their size up."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        pool = (3, 2, 0, 1, False, True)
        self.features = nn.Sequential(
            ConvBn(3, 64, 7, stride=2, padding=3),
            nn.MaxPool2d(*pool),
            ConvBn(64, 64, 1),
            ConvBn(64, 192, 3, padding=1),
            nn.MaxPool2d(*pool),
            inception(192, 64, (96, 128), (16, 32), 32),
            inception(256, 128, (128, 192), (32, 96), 64),
            nn.MaxPool2d(*pool),
            inception(480, 192, (96, 208), (16, 48), 64),
            inception(512, 160, (112, 224), (24, 64), 64),
            inception(512, 128, (128, 256), (24, 64), 64),
            inception(512, 112, (144, 288), (32, 64), 64),
            inception(528, 256, (160, 320), (32, 128), 128),
            nn.MaxPool2d(2, 2, ceil_mode=True),
            inception(832, 256, (160, 320), (32, 128), 128),
            inception(832, 384, (192, 384), (48, 128), 128),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1024, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))  # type: ignore[no-any-return]


def _chain(*parts: tuple[int, int, Any, Any]) -> nn.Sequential:
    """Convolutions of stride 1 as (inside, outside, kernel, padding)."""
    return nn.Sequential(*(ConvBn(i, o, kernel, padding=padding) for i, o, kernel, padding in parts))


def _block_a(inside: int, pooled: int) -> Branches:
    return Branches(
        ConvBn(inside, 64, 1),
        _chain((inside, 48, 1, 0), (48, 64, 5, 2)),
        _chain((inside, 64, 1, 0), (64, 96, 3, 1), (96, 96, 3, 1)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvBn(inside, pooled, 1)),
    )


def _block_c(inside: int, width: int) -> Branches:
    across, down = ((1, 7), (0, 3)), ((7, 1), (3, 0))
    twice = [(width, width, *down), (width, width, *across), (width, width, *down), (width, 192, *across)]
    return Branches(
        ConvBn(inside, 192, 1),
        _chain((inside, width, 1, 0), (width, width, *across), (width, 192, *down)),
        _chain((inside, width, 1, 0), *twice),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvBn(inside, 192, 1)),
    )


def _block_e(inside: int) -> Branches:
    def fork() -> Branches:
        return Branches(ConvBn(384, 384, (1, 3), padding=(0, 1)), ConvBn(384, 384, (3, 1), padding=(1, 0)))

    return Branches(
        ConvBn(inside, 320, 1),
        nn.Sequential(ConvBn(inside, 384, 1), fork()),
        nn.Sequential(ConvBn(inside, 448, 1), ConvBn(448, 384, 3, padding=1), fork()),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvBn(inside, 192, 1)),
    )


class InceptionV3(nn.Module):
    """For images of 299x299."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        shrunk_b = nn.Sequential(ConvBn(288, 64, 1), ConvBn(64, 96, 3, padding=1), ConvBn(96, 96, 3, stride=2))
        seven = _chain((768, 192, 1, 0), (192, 192, (1, 7), (0, 3)), (192, 192, (7, 1), (3, 0)))
        self.features = nn.Sequential(
            *(ConvBn(3, 32, 3, stride=2), ConvBn(32, 32, 3), ConvBn(32, 64, 3, padding=1), nn.MaxPool2d(3, 2)),
            *(ConvBn(64, 80, 1), ConvBn(80, 192, 3), nn.MaxPool2d(3, 2)),
            *(_block_a(192, 32), _block_a(256, 64), _block_a(288, 64)),
            Branches(ConvBn(288, 384, 3, stride=2), shrunk_b, nn.MaxPool2d(3, 2)),
            *(_block_c(768, 128), _block_c(768, 160), _block_c(768, 160), _block_c(768, 192)),
            Branches(
                nn.Sequential(ConvBn(768, 192, 1), ConvBn(192, 320, 3, stride=2)),
                nn.Sequential(*seven, ConvBn(192, 192, 3, stride=2)),
                nn.MaxPool2d(3, 2),
            ),
            *(_block_e(1280), _block_e(2048), nn.AdaptiveAvgPool2d(1)),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(2048, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: Resnet((2, 2, 2, 2), deep=False),
    "resnet50": lambda: Resnet((3, 4, 6, 3), deep=True),
    "vgg16": Vgg16,
    "googlenet": GoogLeNet,
    "inception_v3": InceptionV3,
}
SIZES = {"inception_v3": 299}
"""Height and width of an input; 224 for the others."""


def made(name: str) -> nn.Module:
    """One of `NETWORKS` with random weights, its batch norms fitted to random images."""
    torch.manual_seed(4)
    module, size = NETWORKS[name](), SIZES.get(name, 224)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # an average over all batches
    module.train()
    with torch.inference_mode():
        module(torch.randn(2, 3, size, size))
    return module.eval()
