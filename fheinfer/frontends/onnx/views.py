"""Views: the shape of a value and the order of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.translation import Value


def reshape(c: Call) -> Value:
    """Another shape; 0 keeps a size, -1 is what is left over."""
    x, wanted = c.value(), c.numbers("shape", 1, "the shape") or []
    sizes = [
        x.shape[i] if size == 0 and not c.get("allowzero") and i < len(x.shape) else size
        for i, size in enumerate(wanted)
    ]
    total, batch = math.prod(x.shape), c.t.batch
    if batch > 1 and x.batch == 0 and sizes and sizes[0] == batch and -1 not in sizes[:1]:
        sizes[0] = 1  # the file's own batch
    if -1 in sizes:
        known = -math.prod(sizes)
        if known <= 0 or total % known:
            c.fail(f"a value of the shape {x.shape} does not fit the shape {tuple(wanted)}")
        sizes[sizes.index(-1)] = total // known
    return _reshaped(c, x, sizes)


def _reshaped(c: Call, x: Value, sizes: Sequence[int]) -> Value:
    if math.prod(sizes) != math.prod(x.shape) or min(sizes, default=1) < 1:
        c.fail(f"a value of the shape {x.shape} does not fit the shape {tuple(sizes)}")
    batch = x.batch
    if batch is not None:
        kept = batch < len(sizes) and tuple(sizes[: batch + 1]) == x.shape[: batch + 1]
        batch = batch if kept else 0 if sizes and sizes[0] == 1 else None
    return c.t.reshape(x, sizes, batch)


def flatten(c: Call) -> Value:
    """Two axes: those before `axis`, and those from it on."""
    x = c.value()
    axis = int(c.get("axis", 1))
    axis = axis if axis == len(x.shape) else c.axis(axis, max(len(x.shape), 1))
    return _reshaped(c, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def squeeze(c: Call) -> Value:
    """Without axes of size 1."""
    x, given = c.value(), c.numbers("axes", 1, "the axes")
    rank = len(x.shape)
    axes = {c.axis(axis, rank) for axis in given} if given is not None else _ones(c, x)
    if any(x.shape[axis] != 1 for axis in axes):
        c.fail(f"removes an axis of a value of the shape {x.shape} that is larger than 1")
    shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    batch = x.batch
    if batch is not None:
        batch = None if batch in axes else batch - sum(axis < batch for axis in axes)
    return c.t.reshape(x, shape, batch)


def _ones(c: Call, x: Value) -> set[int]:
    """Axes of size 1, without the batch: a file that squeezes all axes means those of a larger batch too."""
    return {axis for axis, size in enumerate(x.shape) if size == 1 and axis != x.batch}


def unsqueeze(c: Call) -> Value:
    """With new axes of size 1."""
    x, given = c.value(), c.numbers("axes", 1, "the axes") or []
    rank = len(x.shape) + len(given)
    axes = {c.axis(axis, rank) for axis in given}
    old = [axis for axis in range(rank) if axis not in axes]
    shape = [1] * rank
    for axis, size in zip(old, x.shape, strict=False):
        shape[axis] = size
    return c.t.reshape(x, shape, None if x.batch is None else old[x.batch])


def transpose(c: Call) -> Value:
    """Axes in another order."""
    x = c.value()
    order = [int(axis) for axis in c.get("perm", range(len(x.shape))[::-1])]
    if sorted(order) != list(range(len(x.shape))):
        c.fail(f"order {order} is none of the axes of a value of the shape {x.shape}")
    return c.t.transpose(x, order)


def expand(c: Call) -> Value:
    """Broadcast to a shape."""
    shape = c.numbers("", 1, "the shape") or []
    x = c.value()
    if c.t.batch > 1 and x.batch == 0 and len(shape) == len(x.shape) and shape[0] == c.t.batch:
        shape[0] = 1  # the file's own batch
    return c.t.expand(x, tuple(shape))


def tile(c: Call) -> Value:
    """Copies one after the other along every axis."""
    x, repeats = c.value(), c.numbers("", 1, "the repeats") or []
    if len(repeats) != len(x.shape) or min(repeats, default=1) < 1:
        c.fail(f"repeats {repeats} do not fit a value of the shape {x.shape}")
    if x.batch is not None and repeats[x.batch] != 1:
        x = c.t.with_batch(x, None)
    for axis, count in enumerate(repeats):
        if count > 1:
            shape = (*x.shape[:axis], count * x.shape[axis], *x.shape[axis + 1 :])
            before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
            wide = c.t.expand(c.t.reshape(x, (before, 1, after), None), (before, count, after))
            x = c.t.reshape(wide, shape, x.batch)
    return x


def depth_to_space(c: Call) -> Value:
    """Channels to blocks of pixels, as pixel shuffle."""
    x, b = c.t.leading(c.value()), int(c.get("blocksize", 1))
    n, channels, height, width = _four(c, x)
    if b < 1 or channels % (b * b):
        c.fail(f"blocks of {b} do not divide {channels} channels")
    depth = channels // (b * b)
    if c.get("mode", "DCR") == "CRD":
        y = c.t.transpose(c.t.reshape(x, (n, depth, b, b, height, width), 0), (0, 1, 4, 2, 5, 3))
    else:
        y = c.t.transpose(c.t.reshape(x, (n, b, b, depth, height, width), 0), (0, 3, 4, 1, 5, 2))
    return c.t.reshape(y, (n, depth, height * b, width * b), 0)


def space_to_depth(c: Call) -> Value:
    """Blocks of pixels to channels."""
    x, b = c.t.leading(c.value()), int(c.get("blocksize", 1))
    n, channels, height, width = _four(c, x)
    if b < 1 or height % b or width % b:
        c.fail(f"blocks of {b} do not divide an image of {height} x {width}")
    y = c.t.reshape(x, (n, channels, height // b, b, width // b, b), 0)
    order = (0, 1, 3, 5, 2, 4) if c.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return c.t.reshape(c.t.transpose(y, order), (n, channels * b * b, height // b, width // b), 0)


def _four(c: Call, x: Value) -> tuple[int, int, int, int]:
    if len(x.shape) != 4:
        c.fail(f"takes images, not a value of the shape {x.shape}")
    n, channels, height, width = x.shape
    return n, channels, height, width


VIEWS: dict[str, Handler] = {
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Reshape": reshape,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
