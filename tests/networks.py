"""Networks as users write them: plain torch modules and what belongs to them. No test is here; tests import from it.

Each function returns a `Network`. Small ones are trained here, in seconds on one core; those of other projects are read
from the folder of public data (the fixture `public_data`); the rest have random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fheinfer.data.synthetic import KINDS, striped

MNIST = (0.1307,), (0.3081,)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
RAW = (0.0, 0.0, 0.0), (1 / 255,) * 3
"""Of networks that take pixels of 0 to 255."""
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Network:
    """A module in evaluation mode and what `fheinfer.from_torch` has to be told.

    example    (1, *shape), zeros
    mean, std  per channel of an image on the scale 0 to 1, per feature of a vector
    inputs     (N, *shape), normalised: what the module takes; test data where there are labels, else random
    labels     (N,), or None
    train      (M, *shape), normalised: data to calibrate with
    """

    name: str
    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    inputs: Tensor
    train: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.inputs.shape[1:])

    @torch.inference_mode()
    def accuracy(self) -> float:
        """The part of `inputs` that the module gets right, 0..1."""
        if self.labels is None:
            raise ValueError(f"{self.name} has no labels")
        found = torch.cat([self.module(part) for part in torch.split(self.inputs, 250)])
        return float((found.argmax(1) == self.labels).float().mean())


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class MnistMlp(nn.Module):
    """784-128-128-10 with squares, batch norms before them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(784, 128), nn.BatchNorm1d(128)
        self.fc2, self.bn2 = nn.Linear(128, 128), nn.BatchNorm1d(128)
        self.fc3 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)
        x = self.bn1(self.fc1(x))
        x = x * x
        x = self.bn2(self.fc2(x))
        x = x * x
        return self.fc3(x)  # type: ignore[no-any-return]


class Lola(nn.Module):
    """Conv 1-5 2x2 stride 2, square, 980-100, square, 100-10 (Brutzkus et al., arXiv 1812.10659)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1 = nn.Conv2d(1, 5, 2, stride=2), nn.BatchNorm2d(5)
        self.fc1, self.bn2 = nn.Linear(980, 100), nn.BatchNorm1d(100)
        self.fc2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv(x)) ** 2
        x = self.bn2(self.fc1(x.flatten(1))) ** 2
        return self.fc2(x)  # type: ignore[no-any-return]


class LenetSquares(nn.Module):
    """Conv 1-32 5x5 stride 2, conv 32-64 5x5 stride 2, 3136-512-10, with squares."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 5, stride=2, padding=2),
            nn.BatchNorm2d(32),
            Square(),
            nn.Conv2d(32, 64, 5, stride=2, padding=2),
            nn.BatchNorm2d(64),
            Square(),
        )
        self.classifier = nn.Sequential(nn.Linear(3136, 512), nn.BatchNorm1d(512), Square(), nn.Linear(512, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))  # type: ignore[no-any-return]


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with a ReLU between each two."""
    layers: list[nn.Module] = []
    for left, right in pairwise(sizes):
        layers += [nn.Linear(left, right), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class HeirLenet(nn.Module):
    """LeNet-5 of HEIR's examples, with average pools; most layers have two names, as there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.linear1, self.linear2 = nn.Linear(400, 120), nn.Linear(120, 84)
        self.feature_extractor = nn.Sequential(
            self.conv1, nn.ReLU(), nn.AvgPool2d(2), self.conv2, nn.ReLU(), nn.AvgPool2d(2)
        )
        self.classifier = nn.Sequential(self.linear1, nn.ReLU(), self.linear2, nn.ReLU(), nn.Linear(84, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.feature_extractor(x)
        return self.classifier(x.view(x.shape[0], -1))  # type: ignore[no-any-return]


class SameConv(nn.Module):
    """A convolution with Keras' padding "same": with stride 2 on an even size it pads below and right only."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv2d(inside, outside, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        total = [max(0, (-(-n // self.stride) - 1) * self.stride + self.kernel - n) for n in x.shape[2:]]
        sides = [side for n in reversed(total) for side in (n // 2, n - n // 2)]
        return self.conv(functional.pad(x, sides))  # type: ignore[no-any-return]


class MlperfBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = SameConv(inside, outside, 3, stride), nn.BatchNorm2d(outside, eps=1e-3)
        self.conv2, self.bn2 = SameConv(outside, outside, 3), nn.BatchNorm2d(outside, eps=1e-3)
        self.shortcut = SameConv(inside, outside, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class MlperfResnet8(nn.Module):
    """MLPerf Tiny's ResNet8, on pixels of 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = SameConv(3, 16, 3), nn.BatchNorm2d(16, eps=1e-3)
        self.blocks = nn.Sequential(MlperfBlock(16, 16), MlperfBlock(16, 32, 2), MlperfBlock(32, 64, 2))
        self.dense = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.bn(self.conv(x))))
        return self.dense(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return torch.relu(out)


class Resnet18(nn.Module):
    """ResNet-18 for small images: 64 to 512 channels, a 3x3 convolution of stride 1 first."""

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(4):
            for stride in (2 if stage else 1, 1):
                blocks.append(Residual(channels, width << stage, stride))
                channels = width << stage
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(torch.relu(self.bn1(self.conv1(x))))
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.linear(x.view(x.size(0), -1))  # type: ignore[no-any-return]


class CifarResnet(nn.Module):
    """A ResNet of three stages for CIFAR-10, as ResNet20 and ACE's ResNet32 are."""

    def __init__(self, blocks: int = 5, width: int = 16) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        layers: list[nn.Module] = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                layers.append(Residual(channels, width << stage, 2 if stage and not block else 1))
                channels = width << stage
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))  # type: ignore[no-any-return]


class Vgg11(nn.Module):
    """VGG11 with batch norm and average pools for CIFAR-10, its linear layers made one."""

    def __init__(
        self, classes: int = 10, pool: type[nn.AvgPool2d] | type[nn.MaxPool2d] = nn.AvgPool2d, width: int = 64
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for times in (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0):
            if not times:
                layers.append(pool(2))
                continue
            layers += [nn.Conv2d(channels, times * width, 3, padding=1), nn.BatchNorm2d(times * width)]
            layers.append(nn.ReLU(inplace=True))
            channels = times * width
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


class MobileNet(nn.Module):
    """Depthwise-separable convolutions as of MobileNet v1, for images of 32x32."""

    PLAN = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1))
    """(Channels, in those of the first layer; stride) of each pair of convolutions."""

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for times, stride in self.PLAN:
            layers += [
                nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, times * width, 1, bias=False),
                nn.BatchNorm2d(times * width),
                nn.ReLU(),
            ]
            channels = times * width
        self.features, self.pool, self.fc = (
            nn.Sequential(*layers),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(channels, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


# Trained here ------------------------------------------------------------------------------------------------------


def fit(
    module: nn.Module, x: Tensor, labels: Tensor, *, epochs: int, rate: float, batch: int = 64, decay: float = 1e-4
) -> nn.Module:
    """Trains with AdamW and a learning rate that falls to 0, on one thread; the same weights every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)
    module.train()
    steps, done = epochs * -(-len(x) // batch), 0
    for _ in range(epochs):
        for pick in torch.split(torch.randperm(len(x), generator=random), batch):
            if len(pick) < 2:
                continue
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - done / steps)
            loss = functional.cross_entropy(module(x[pick]), labels[pick])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 2.0)
            optimizer.step()
            done += 1
    torch.set_num_threads(threads)
    return module.eval()


def _digits(public_data: Path, border: int = 0) -> tuple[Tensor, Tensor]:
    """5,000 digits, (5000, 1, 28 + 2 border, 28 + 2 border), normalised before a border of zeros, and their labels."""
    with np.load(public_data / "models" / "mnist_5000.npz") as file:
        pixels, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"].astype(np.int64))
    x = (pixels.float()[:, None] / 255 - MNIST[0][0]) / MNIST[1][0]
    return functional.pad(x, (border,) * 4), labels


@lru_cache
def _on_digits(public_data: Path, name: str, epochs: int, rate: float) -> Network:
    modules: dict[str, Callable[[], nn.Module]] = {"mlp": MnistMlp, "lola": Lola, "lenet": LenetSquares}
    x, labels = _digits(public_data)
    torch.manual_seed(1)
    module = fit(modules[name](), x[:4_000], labels[:4_000], epochs=epochs, rate=rate)
    return Network(f"{name}-squares", module, *MNIST, x[4_000:], x[:4_000], labels[4_000:], DIGITS)


def mnist_mlp(public_data: Path) -> Network:
    """784-128-128-10 with squares, trained on 4,000 digits; 1,000 others to test with."""
    return _on_digits(public_data, "mlp", 8, 2e-3)


def lola(public_data: Path) -> Network:
    """LoLA, on the same digits."""
    return _on_digits(public_data, "lola", 8, 2e-3)


def lenet_squares(public_data: Path) -> Network:
    """LeNet with squares, on the same digits."""
    return _on_digits(public_data, "lenet", 3, 1e-3)


def checkerboard_points() -> tuple[Tensor, Tensor]:
    """(10,000, 2) in [-1, 1]^2, and their colours: moved to [0, 1]^2, the parity of round(3 x) + round(3 y)."""
    random = np.random.default_rng(42)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 100), np.linspace(0, 1, 100)), -1).reshape(-1, 2)
    moved = random.permutation(grid + random.normal(0, 0.01, grid.shape))
    colours = np.rint(3 * moved).astype(int).sum(1) % 2
    return torch.from_numpy(moved).float() * 2 - 1, torch.from_numpy(colours)


@lru_cache
def checkerboard(neurons: int = 100) -> Network:
    """2-n-n-2 with ReLUs on points of a checkerboard; 500 to test with."""
    x, colours = checkerboard_points()
    torch.manual_seed(1)
    module = fit(perceptron((2, neurons, neurons, 2)), x[:9_500], colours[:9_500], epochs=20, rate=5e-3, batch=95)
    half = (0.5, 0.5)
    return Network(f"checkerboard-{neurons}", module, half, half, x[9_500:], x[:9_500], colours[9_500:])


@lru_cache
def stripes() -> Network:
    """Two convolutions with ReLUs and a linear layer on (3, 8, 8) images of stripes; 200 to test with."""
    random = np.random.default_rng(7)
    labels = random.integers(0, 10, 1_200)
    images = striped(labels.astype(np.uint8), random).reshape(-1, 8, 4, 8, 4, 3).mean((2, 4))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 * 4 - 2
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )
    kinds = torch.from_numpy(labels)
    fit(module, x[:1_000], kinds[:1_000], epochs=6, rate=5e-3)
    return Network("stripes", module, (0.5,) * 3, (0.25,) * 3, x[1_000:], x[:1_000], kinds[1_000:], KINDS)


@lru_cache
def breast_cancer() -> Network:
    """30-64-64-2 with ReLUs on scikit-learn's breast cancer data; the last 114 rows to test with."""
    found: Any = import_module("sklearn.datasets").load_breast_cancer()  # not every environment has it
    order = np.random.default_rng(0).permutation(len(found.data))
    rows, labels = found.data[order], torch.from_numpy(found.target[order].astype(np.int64))
    mean, std = rows[:-114].mean(0), rows[:-114].std(0)
    x = torch.from_numpy((rows - mean) / std).float()
    torch.manual_seed(1)
    module = fit(perceptron((30, 64, 64, 2)), x[:-114], labels[:-114], epochs=20, rate=3e-3, batch=32)
    names = tuple(map(str, found.target_names))
    return Network("breast-cancer", module, tuple(mean), tuple(std), x[-114:], x[:-114], labels[-114:], names)


# Of other projects -------------------------------------------------------------------------------------------------


@lru_cache
def heir_lenet(public_data: Path) -> Network:
    """HEIR's LeNet-5 and 5,000 digits."""
    module = HeirLenet()
    module.load_state_dict(torch.load(public_data / "models" / "heir_lenet_state.pt", weights_only=True))
    x, labels = _digits(public_data, border=2)
    return Network("heir-lenet", module.eval(), *MNIST, x, x[:1_000], labels, DIGITS)


@lru_cache
def mlperf_resnet8(public_data: Path, count: int = 1_000) -> Network:
    """MLPerf Tiny's ResNet8, `count` test images of CIFAR-10 and 1,000 to calibrate with."""
    from fheinfer.data import datasets
    from fheinfer.data.images import CLASSES

    module = MlperfResnet8()
    first, second, third = (block for block in module.blocks if isinstance(block, MlperfBlock))
    with np.load(public_data / "models" / "mlperf_tiny_resnet8.npz") as file:
        arrays = {name: torch.from_numpy(file[name]).float() for name in file.files}
    convs: list[nn.Module] = [module.conv, first.conv1, first.conv2]
    convs += [second.conv1, second.conv2, second.shortcut, third.conv1, third.conv2, third.shortcut]
    norms: list[nn.Module] = [module.bn, first.bn1, first.bn2, second.bn1, second.bn2, third.bn1, third.bn2]
    for layers, kind in ((convs, "conv2d"), (norms, "batch_normalization")):
        for index, layer in enumerate(layers):
            _fill(layer, arrays, f"{kind}_{index}" if index else kind)
    module.dense.load_state_dict({"weight": arrays["dense.kernel"].T, "bias": arrays["dense.bias"]})
    images = datasets.load(public_data / "cifar10", "test").first(count)
    labels = torch.from_numpy(images.labels.astype(np.int64))
    x, train = (
        torch.from_numpy(part.inputs.copy()).float().permute(0, 3, 1, 2).contiguous()
        for part in (images, datasets.load(public_data / "cifar10", "train").first(1_000))
    )
    return Network("mlperf-resnet8", module.eval(), *RAW, x, train, labels, CLASSES)


def _fill(layer: nn.Module, arrays: dict[str, Tensor], name: str) -> None:
    if isinstance(layer, SameConv):
        state = {"conv.weight": arrays[f"{name}.kernel"].permute(3, 2, 0, 1), "conv.bias": arrays[f"{name}.bias"]}
        layer.load_state_dict(state)
        return
    roles = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    state = {own: arrays[f"{name}.{theirs}"] for own, theirs in roles.items()}
    layer.load_state_dict(state, strict=False)  # Keras counts no batches


# With random weights -----------------------------------------------------------------------------------------------


def with_random_weights(name: str, module: nn.Module, shape: tuple[int, ...] = (3, 32, 32)) -> Network:
    """Statistics of batch norms are those of random images, so that values stay of the size that training gives."""
    torch.manual_seed(3)
    channels = shape[0]
    x = torch.rand(24, *shape).sub(0.5).div(0.25)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # an average over all batches
    module.train()
    with torch.inference_mode():
        module(x[:16])
    return Network(name, module.eval(), (0.5,) * channels, (0.25,) * channels, x[16:], x[:16])


@lru_cache
def resnet18(size: int = 32, classes: int = 10) -> Network:
    """ResNet-18 with random weights on (3, size, size)."""
    torch.manual_seed(2)
    return with_random_weights(f"resnet18-{size}", Resnet18(classes), (3, size, size))


@lru_cache
def vgg11(classes: int = 10) -> Network:
    """VGG11 with random weights."""
    torch.manual_seed(2)
    return with_random_weights("vgg11", Vgg11(classes))


@lru_cache
def mobilenet(classes: int = 10) -> Network:
    """A depthwise-separable network with random weights."""
    torch.manual_seed(2)
    return with_random_weights("mobilenet", MobileNet(classes))
