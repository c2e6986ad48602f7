"""What convolutions and pools have in common: values as images, and padding by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fheinfer.frontends.onnx.call import Call
from fheinfer.frontends.translation import Value


@dataclass(frozen=True)
class Windows:
    """Kernel, stride, dilation and padding along each axis of an image; sequences are images of one row.

    before, after  padding at the two ends of each axis
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right)."""
        return self.before[0], self.after[0], self.before[1], self.after[1]


def as_image(c: Call) -> tuple[Value, int]:
    """The first operand as an image (1, C, H, W), and how many axes it has in space: 1 or 2."""
    x = c.t.leading(c.value())
    space = len(x.shape) - 2
    if space == 1:
        return c.t.reshape(x, (*x.shape[:2], 1, x.shape[2]), 0), 1
    if space == 2:
        return x, 2
    c.fail(f"takes a value of the shape {x.shape}; only 1-d and 2-d ones are supported, fold an axis into another")


def from_image(c: Call, y: Value, space: int) -> Value:
    """The result as ONNX has it."""
    return y if space == 2 else c.t.reshape(y, (*y.shape[:2], y.shape[3]), 0)


def windows(c: Call, space: int, kernel: Sequence[int], size: Sequence[int], *, ceil: bool = False) -> Windows:
    """The windows that the attributes of a node say, over an image of `size`.

    Args:
        ceil: whether a last window may begin inside and end outside; padding is then larger at the end.
    """
    ones, zeros = [1] * space, [0] * space
    stride = [int(s) for s in c.get("strides", ones)]
    dilation = [int(d) for d in c.get("dilations", ones)]
    auto = c.get("auto_pad", "NOTSET")
    pads = [int(p) for p in c.get("pads", zeros + zeros)] if auto == "NOTSET" else zeros + zeros
    if not len(kernel) == len(stride) == len(dilation) == len(pads) // 2 == space:
        c.fail("attributes do not fit the shape of its input; export the model again")
    if min(*kernel, *stride, *dilation) < 1 or min(pads) < 0:
        c.fail("has a kernel, stride or dilation below 1 or a negative padding; crop with Slice instead")
    before, after = pads[:space], pads[space:]
    for i, n in enumerate(size[-space:]):
        span = dilation[i] * (kernel[i] - 1) + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max((-(-n // stride[i]) - 1) * stride[i] + span - n, 0)
            small = total // 2
            before[i], after[i] = (small, total - small) if auto == "SAME_UPPER" else (total - small, small)
        elif ceil:
            count = -(-(n + before[i] + after[i] - span) // stride[i]) + 1
            if (count - 1) * stride[i] >= n + before[i]:
                count -= 1  # a window that begins in the padding at the end is omitted
            after[i] = max(after[i], (count - 1) * stride[i] + span - n - before[i])
    lead = 2 - space
    return Windows(
        (1,) * lead + tuple(kernel),
        (1,) * lead + tuple(stride),
        (1,) * lead + tuple(dilation),
        (0,) * lead + tuple(before),
        (0,) * lead + tuple(after),
    )
