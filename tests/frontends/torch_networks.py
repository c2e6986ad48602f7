"""Networks of the kinds that people bring, small: shuffles, joins, gates, decoders, sequences. No test is here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layers = [
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    ]
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """ResNet-50's block."""

    def __init__(self, inside: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.a, self.b = conv_bn(inside, width, 1), conv_bn(width, width, 3, stride)
        self.c = conv_bn(width, 4 * width, 1)
        self.downsample = conv_bn(inside, 4 * width, 1, stride) if stride > 1 or inside != 4 * width else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.relu(self.b(self.relu(self.a(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)  # type: ignore[no-any-return]


class Resnet50(nn.Module):
    """Bottlenecks behind a 7x7 convolution and an overlapping max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.layers = nn.Sequential(Bottleneck(8, 4), Bottleneck(16, 4), Bottleneck(16, 8, 2), Bottleneck(32, 8))
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.layers(self.stem(x))), 1))  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Squeeze and excitation: channels times numbers of their own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.adaptive_avg_pool2d(x, 1)
        return x * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(y))))


class Inverted(nn.Module):
    """MobileNet v2's and v3's block."""

    def __init__(self, inside: int, outside: int, stride: int, act: type[nn.Module], gated: bool) -> None:
        super().__init__()
        wide = 3 * inside
        layers: list[nn.Module] = [conv_bn(inside, wide, 1), act(), conv_bn(wide, wide, 3, stride, wide), act()]
        layers += [Gate(wide)] if gated else []
        self.layers, self.same = nn.Sequential(*layers, conv_bn(wide, outside, 1)), stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.same else y  # type: ignore[no-any-return]


def mobilenet(act: type[nn.Module], gated: bool) -> nn.Sequential:
    blocks = [Inverted(8, 8, 1, act, gated), Inverted(8, 12, 2, act, gated), Inverted(12, 12, 1, act, gated)]
    head = [conv_bn(12, 24, 1), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 10)]
    return nn.Sequential(conv_bn(3, 8, 3, 2), act(), *blocks, *head)


class Shuffle(nn.Module):
    """ShuffleNet v2's block: half of the channels pass, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half, 1), nn.ReLU(), conv_bn(half, half, 3, 1, half), conv_bn(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        y = torch.cat((left, functional.relu(self.branch(right))), dim=1)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return y.view(batch, channels, height, width)


class DenseBlock(nn.Module):
    """Every layer reads all before it."""

    def __init__(self, channels: int, growth: int, count: int) -> None:
        super().__init__()
        layers = (
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, growth, 3, padding=1))
            for n in range(channels, channels + count * growth, growth)
        )
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Fire(nn.Module):
    """SqueezeNet's module."""

    def __init__(self, inside: int, squeezed: int, outside: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inside, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, outside, 1), nn.Conv2d(squeezed, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)


class Inception(nn.Module):
    """Branches of several kernels, rectangular ones as in v3, and a pool."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.a, self.b = conv_bn(inside, 4, 1), nn.Sequential(conv_bn(inside, 4, 1), nn.ReLU(), conv_bn(4, 6, 3))
        self.c = nn.Sequential(nn.Conv2d(inside, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, (7, 1), padding=(3, 0)))
        self.d = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inside, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(x, 3, stride=1, padding=1)
        return torch.relu(torch.cat([self.a(x), self.b(x), self.c(x), self.d(x), self.a(pooled)], 1))


class Unet(nn.Module):
    """An encoder, a decoder, and what one hands to the other; an output for each pixel."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn(3, 8, 3), conv_bn(8, 16, 3)
        self.up = (
            nn.ConvTranspose2d(16, 8, 2, 2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 1))
        )
        self.last, self.head = conv_bn(16, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.down1(x))
        second = torch.relu(self.down2(functional.avg_pool2d(first, 2)))
        return self.head(torch.relu(self.last(torch.cat([self.up(second), first], 1))))  # type: ignore[no-any-return]


class SuperResolution(nn.Module):
    """Pixels of twice the size by a shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        base = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return base + functional.pixel_shuffle(self.second(functional.gelu(self.first(x))), 2)


class Mixer(nn.Module):
    """Linear layers over places and over channels, as of an MLP-Mixer without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 8, 8)
        self.places, self.channels, self.head = nn.Linear(16, 16), nn.Linear(6, 6), nn.Linear(6, 10)
        self.scale = nn.Parameter(torch.full((6,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + functional.silu(self.places(x.transpose(1, 2))).transpose(1, 2)
        x = x + self.scale * functional.silu(self.channels(x))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


class TwoHeads(nn.Module):
    """Two outputs of one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU())
        self.kind, self.place = nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(x).mean((2, 3))
        return self.kind(x), torch.tanh(self.place(x))


class Sequence1d(nn.Module):
    """A keyword spotter: convolutions along time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(5, 8, 9, 2, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=8), nn.BatchNorm1d(8), nn.PReLU(8),
            nn.AvgPool1d(2), nn.ConvTranspose1d(8, 6, 2, 2), nn.ELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(6, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.bias = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return functional.linear(x, self.first.weight, self.bias)


def _sequential(*layers: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": Resnet50,
    "mobilenet v2": lambda: mobilenet(nn.ReLU6, gated=False),
    "mobilenet v3": lambda: mobilenet(nn.Hardswish, gated=True),
    "shufflenet": lambda: _sequential(Shuffle(8), Shuffle(8), channels=8),
    "densenet": lambda: _sequential(DenseBlock(8, 4, 3), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2), channels=10),
    "squeezenet": lambda: _sequential(Fire(8, 4, 6), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(12, 4, 8), channels=16),
    "inception": lambda: _sequential(Inception(8), Inception(22), channels=22),
    "u-net, transposed": lambda: Unet(transposed=True),
    "u-net, upsampled": lambda: Unet(transposed=False),
    "super-resolution": SuperResolution,
    "mixer": Mixer,
    "two heads": TwoHeads,
}
"""On (3, 32, 32)."""
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "sequence": (Sequence1d, (5, 40)),
    "perceptron": (lambda: nn.Sequential(nn.Linear(30, 16), nn.Tanh(), nn.Linear(16, 2), nn.Sigmoid()), (30,)),
    "tied": (Tied, (6,)),
}
