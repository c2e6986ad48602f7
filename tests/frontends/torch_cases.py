"""One-operation modules of PyTorch: those that import, and those that are refused by name. No test is here.

The names are those of public coverage lists of compilers for encrypted computation (HEIR's issue 2923 has about 50).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, ...]
IMAGE: Shape = (4, 8, 6)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any], *constants: Tensor) -> None:
        super().__init__()
        self.function = function
        for i, constant in enumerate(constants):
            self.register_buffer(f"constant{i}", constant)
        self.count = len(constants)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *(getattr(self, f"constant{i}") for i in range(self.count)))


@dataclass(frozen=True)
class Case:
    """A module, the shape of an input without the batch, and the kinds of our operations, or why it is refused.

    name  that of the operation in the table; a word in parentheses tells cases of one apart
    """

    name: str
    make: Callable[[], nn.Module]
    shape: Shape
    refused: str = ""


def case(name: str, module: Callable[[], nn.Module], shape: Shape = IMAGE, refused: str = "") -> Case:
    return Case(name, module, shape, refused)


def function(name: str, f: Callable[..., Any], shape: Shape = IMAGE, refused: str = "", constants: Any = ()) -> Case:
    return Case(name, lambda: Function(f, *(torch.randn(size) for size in constants)), shape, refused)


NOT_CONTINUOUS = "is not continuous"
NO_ACTIVATION = "is no activation that is supported"
BOTH = "multiplies two matrices that both depend on the input"

CASES = (
    # Arithmetic
    function("add (values)", lambda x: x + x.flip(1)),
    function("add (scalar)", lambda x: x + 1.5),
    function("add (tensor)", lambda x, c: x + c, constants=[IMAGE]),
    function("add (per channel)", lambda x, c: c + x, constants=[(4, 1, 1)]),
    function("add (larger)", lambda x, c: torch.add(x, c, alpha=2), (1, 1, 6), constants=[(4, 8, 6)]),
    function("sub (values)", lambda x: x - x.flip(1)),
    function("sub (scalar)", lambda x: 1 - x),
    function("sub (tensor)", lambda x, c: x - c, constants=[(8, 1)]),
    function("mul (values)", lambda x: x * x.flip(1)),
    function("mul (broadcast)", lambda x: x * x.mean((2, 3), keepdim=True)),
    function("mul (square)", lambda x: x * x),
    function("mul (scalar)", lambda x: 0.25 * x),
    function("mul (per channel)", lambda x, c: x * c, constants=[(1, 4, 1, 1)]),
    function("div (scalar)", lambda x: x / 7),
    function("div (tensor)", lambda x, c: x / c, constants=[IMAGE]),
    function("div (values)", lambda x: x / x.flip(1), refused="divides by a value that depends on the input"),
    function("neg", lambda x: -x),
    function("square", torch.square),
    function("pow (3)", lambda x: x**3),
    function("pow (0.5)", lambda x: x**0.5, refused="is a power of 0.5; use whole powers from 2 to 8"),
    function("mean", lambda x: x.mean(1)),
    function("mean (image)", lambda x: x.mean((2, 3))),
    function("mean (all)", lambda x: x.mean()),
    function("sum", lambda x: x.sum(-1, keepdim=True)),
    function("prod", lambda x: x.prod(1), refused="multiplies all entries of an axis"),
    function("cumsum", lambda x: x.cumsum(1), refused="sums up step by step"),
    # Matrices
    function("bmm", lambda x: torch.bmm(x, x.transpose(1, 2)), (5, 5), refused=BOTH),
    function("bmm (constant)", lambda x, c: torch.bmm(x, c), (3, 5), constants=[(1, 5, 4)]),
    function("mm", lambda x, c: torch.mm(x, c), (5,), constants=[(5, 4)]),
    function("mm (from the left)", lambda x, c: torch.mm(c, x.flatten(1).T), (5,), constants=[(4, 5)]),
    function("matmul", lambda x, c: x @ c, (3, 5), constants=[(5, 4)]),
    function("matmul (from the left)", lambda x, c: c @ x, (3, 5), constants=[(4, 3)]),
    function("matmul (vector)", lambda x, c: x @ c, (3, 5), constants=[(5,)]),
    function("addmm", lambda x, a, b: torch.addmm(a, x, b, beta=2, alpha=3), (5,), constants=[(4,), (5, 4)]),
    function("einsum", lambda x: torch.einsum("bij,bkj->bik", x, x), (5, 5), refused=BOTH),
    case("linear", lambda: nn.Linear(30, 7), (30,)),
    case("linear (last axis)", lambda: nn.Linear(6, 7)),
    case("linear (one row)", lambda: nn.Linear(6, 7, bias=False), (1, 6)),
    # Layers
    case("conv1d", lambda: nn.Conv1d(4, 6, 3, 2, 1, 1), (4, 9)),
    case("conv1d (groups)", lambda: nn.Conv1d(4, 4, 3, padding="same", dilation=2, groups=4), (4, 9)),
    case("conv2d", lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0))),
    case("conv2d (same)", lambda: nn.Conv2d(4, 6, (4, 2), padding="same", bias=False)),
    case("conv2d (depthwise)", lambda: nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4)),
    case("conv2d (reflect)", lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")),
    case("conv3d", lambda: nn.Conv3d(2, 3, 3), (2, 4, 5, 6), "is 3-dimensional; use convolutions of one or two"),
    case("conv_transpose1d", lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), (4, 9)),
    case("conv_transpose2d", lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2)),
    case("batch_norm1d", lambda: nn.BatchNorm1d(5), (5,)),
    case("batch_norm1d (sequence)", lambda: nn.BatchNorm1d(5), (5, 7)),
    case("batch_norm2d", lambda: nn.BatchNorm2d(4)),
    case("batch_norm2d (not affine)", lambda: nn.BatchNorm2d(4, affine=False)),
    case("batch_norm3d", lambda: nn.BatchNorm3d(2), (2, 3, 4, 5)),
    case(
        "batch_norm2d (batch statistics)",
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        refused="normalises by statistics of its input",
    ),
    case("layer_norm", lambda: nn.LayerNorm(6), refused="normalises by statistics of its input"),
    case("group_norm", lambda: nn.GroupNorm(2, 4), refused="normalises by statistics of its input"),
    case("instance_norm", lambda: nn.InstanceNorm2d(4), refused="normalises by statistics of its input"),
    case("embedding", lambda: Function(lambda x: functional.embedding(x.long(), torch.eye(9)[:, :3])), (5,), "rounds"),
    case("lstm", lambda: Function(nn.LSTM(6, 5, batch_first=True)), (4, 6), "is recurrent"),
    case("attention", lambda: Function(lambda x: functional.scaled_dot_product_attention(x, x, x)), (4, 6), BOTH),
    case("dropout", lambda: nn.Dropout(0.3)),
    case("identity", nn.Identity),
    # Pools
    case("avg_pool1d", lambda: nn.AvgPool1d(3, 2, 1), (4, 9)),
    case("avg_pool2d", lambda: nn.AvgPool2d(2)),
    case("avg_pool2d (ceil)", lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    case("avg_pool2d (not counted)", lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    case("avg_pool2d (divisor)", lambda: nn.AvgPool2d(3, 1, divisor_override=2)),
    case("avg_pool3d", lambda: nn.AvgPool3d(2), (2, 4, 4, 4), "is 3-dimensional"),
    case("max_pool1d", lambda: nn.MaxPool1d(3, 2, 1), (4, 9)),
    case("max_pool2d", lambda: nn.MaxPool2d(2)),
    case("max_pool2d (ceil)", lambda: nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True)),
    case("max_pool3d", lambda: nn.MaxPool3d(2), (2, 4, 4, 4), "is 3-dimensional"),
    case("adaptive_avg_pool1d", lambda: nn.AdaptiveAvgPool1d(3), (4, 10)),
    case("adaptive_avg_pool2d (1)", lambda: nn.AdaptiveAvgPool2d(1)),
    case("adaptive_avg_pool2d (even)", lambda: nn.AdaptiveAvgPool2d((4, None))),
    case("adaptive_avg_pool2d (uneven)", lambda: nn.AdaptiveAvgPool2d((3, 4))),
    case("adaptive_max_pool2d", lambda: nn.AdaptiveMaxPool2d((4, 2))),
    function("amax", lambda x: x.amax((2, 3)), (3, 2, 2)),
    # Activations
    *(
        case(name, module)
        for name, module in (
            ("relu", nn.ReLU),
            ("relu6", nn.ReLU6),
            ("hardtanh", nn.Hardtanh),
            ("leaky_relu", nn.LeakyReLU),
            ("prelu", nn.PReLU),
            ("prelu (per channel)", lambda: nn.PReLU(4)),
            ("elu", lambda: nn.ELU(0.7)),
            ("selu", nn.SELU),
            ("celu", lambda: nn.CELU(0.5)),
            ("gelu", nn.GELU),
            ("gelu (tanh)", lambda: nn.GELU("tanh")),
            ("silu", nn.SiLU),
            ("mish", nn.Mish),
            ("hardswish", lambda: nn.Hardswish(inplace=True)),
            ("hardsigmoid", nn.Hardsigmoid),
            ("sigmoid", nn.Sigmoid),
            ("tanh", nn.Tanh),
            ("softplus", lambda: nn.Softplus(2.0)),
        )
    ),
    function("abs", torch.abs),
    function("clamp", lambda x: x.clamp(-0.5, 0.75)),
    function("clamp (below)", lambda x: x.clamp(min=-0.5)),
    function("clamp (above)", lambda x: x.clamp(max=0.5)),
    function("softmax", lambda x: functional.softmax(x, 1), (10,)),
    function("log_softmax", lambda x: functional.log_softmax(x, -1), (10,)),
    function("softmax (inside)", lambda x: 2 * functional.softmax(x, 1), (10,), "is in the middle of the network"),
    function("softmax (per pixel)", lambda x: functional.softmax(x, 1), refused="is in the middle of the network"),
    function("exp", torch.exp, refused=NO_ACTIVATION),
    function("log", torch.log, refused=NO_ACTIVATION),
    function("sqrt", torch.sqrt, refused=NO_ACTIVATION),
    # Comparisons
    function("eq", lambda x: (x == 0).float(), refused=NOT_CONTINUOUS),
    function("gt", lambda x: (x > 0).float(), refused=NOT_CONTINUOUS),
    function("lt", lambda x: (x < 0).float(), refused=NOT_CONTINUOUS),
    function("where", lambda x, c: torch.where(c > 0, x, 0), refused=NOT_CONTINUOUS, constants=[IMAGE]),
    function("argmax", lambda x: x.argmax(1), refused=NOT_CONTINUOUS),
    function("maximum", lambda x: torch.maximum(x, x.flip(1)), refused="compares two values"),
    # Views
    function("cat", lambda x: torch.cat([x, 2 * x, x.flip(1)], 1)),
    function("cat (constant)", lambda x, c: torch.cat([x, c], 1), constants=[(1, 2, 8, 6)]),
    function("stack", lambda x: torch.stack([x, 2 * x], 2)),
    function("chunk", lambda x: torch.cat([*reversed(x.chunk(2, 1))], 1)),
    function("split", lambda x: torch.cat([*reversed(x.split([1, 2, 3], 3))], 3)),
    function("unbind", lambda x: x.unbind(1)[2]),
    function("slice", lambda x: x[:, 1:3, ::2, 1:]),
    function("select", lambda x: x[:, :, 3]),
    function("index", lambda x: x[:, [2, 0, 3, 1]]),
    function("index_select", lambda x, c: x.index_select(1, c.argsort()), constants=[(4,)]),
    function("narrow", lambda x: x.narrow(2, 1, 3)),
    function("squeeze", lambda x: x.squeeze(), (4, 1, 6)),
    function("unsqueeze", lambda x: x.unsqueeze(2)),
    function("flatten", lambda x: x.flatten(1)),
    function("view", lambda x: x.view(x.shape[0], 2, -1)),
    function("reshape (with the batch)", lambda x: x.reshape(2, -1, 8, 6)[0]),
    function("unflatten", lambda x: x.unflatten(1, (2, 2))),
    function("permute", lambda x: x.permute(0, 2, 3, 1)),
    function("transpose", lambda x: x.transpose(1, 2)),
    function("movedim", lambda x: x.movedim(1, -1)),
    function("expand", lambda x: x[:, :1].expand(-1, 5, -1, -1)),
    function("repeat", lambda x: x.repeat(1, 2, 1, 3)),
    function("flip", lambda x: x.flip(2, 3)),
    function("roll", lambda x: x.roll((1, -2), (1, 3))),
    function("pad", lambda x: functional.pad(x, (1, 2, 0, 3))),
    function("pad (number)", lambda x: functional.pad(x, (1, 2), value=0.5)),
    function("pad (crop)", lambda x: functional.pad(x, (-1, 2, 1, -2))),
    function("pad (reflect)", lambda x: functional.pad(x, (1, 2, 0, 3), mode="reflect")),
    function("pad (replicate)", lambda x: functional.pad(x, (1, 2), mode="replicate"), (4, 9)),
    case("upsample (nearest)", lambda: nn.Upsample(scale_factor=2)),
    case("upsample (nearest, 1-d)", lambda: nn.Upsample(scale_factor=3), (4, 5)),
    case("upsample (bilinear)", lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    case("upsample (corners)", lambda: nn.Upsample((11, 7), mode="bilinear", align_corners=True)),
    case("upsample (bicubic)", lambda: nn.Upsample((5, 7), mode="bicubic")),
    case("pixel_shuffle", lambda: nn.PixelShuffle(2)),
    case("pixel_unshuffle", lambda: nn.PixelUnshuffle(2)),
    case("channel_shuffle", lambda: nn.ChannelShuffle(2)),
)
