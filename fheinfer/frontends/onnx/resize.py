"""Resize and Upsample: matrices for rows and columns, of ONNX's coordinates and kernels (operator Resize)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fheinfer.frontends.onnx.borders import resampled
from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.graph import MAX_VALUES

_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def upsample(c: Call) -> Value:
    """Upsample, which opset 10 calls Resize."""
    x = c.value()
    scales = c.get("scales")
    array = c.constant(1, "the scales") if scales is None else np.asarray(scales)
    return _resized(c, x, dict(enumerate(map(float, array))), {}, "asymmetric", "floor")


def resize(c: Call) -> Value:
    """Resize by scales or to sizes, nearest, linear or cubic."""
    x = c.value()
    if c.t.opset < 11:
        return upsample(c)
    rank = len(x.shape)
    axes = [c.axis(int(axis), rank) for axis in c.get("axes", range(rank))]
    scales, sizes, roi = c.optional(2, "the scales"), c.optional(3, "the sizes"), c.optional(1, "the region")
    coordinates = c.get("coordinate_transformation_mode", "half_pixel")
    regions = {}
    if coordinates == "tf_crop_and_resize":
        if roi is None or roi.size != 2 * len(axes) or c.get("extrapolation_value", 0.0) != 0:
            c.fail("crops with no region, or a border that is not zero; crop with Slice and pad with Pad")
        regions = {axis: (float(roi[i]), float(roi[len(axes) + i])) for i, axis in enumerate(axes)}
    if sizes is not None and sizes.size:
        wanted = dict(zip(axes, (int(size) for size in sizes), strict=True))
        if x.batch in wanted:
            wanted[x.batch] = 1  # the file's own batch
        given = _scales_of(c, x, wanted)
    elif scales is not None and scales.size:
        given = dict(zip(axes, map(float, scales), strict=True))
    else:
        c.fail("has neither scales nor sizes")
    return _resized(c, x, given, regions, coordinates, c.get("nearest_mode", "round_prefer_floor"))


def _scales_of(c: Call, x: Value, sizes: dict[int, int]) -> dict[int, float]:
    policy = c.get("keep_aspect_ratio_policy", "stretch")
    each = {axis: size / x.shape[axis] for axis, size in sizes.items()}
    if policy == "stretch":
        return each
    scale = min(each.values()) if policy == "not_larger" else max(each.values())
    return dict.fromkeys(each, math.floor(scale * 2**40 + 0.5) / 2**40)


def _resized(
    c: Call,
    x: Value,
    scales: dict[int, float],
    regions: dict[int, tuple[float, float]],
    coordinates: str,
    nearest: str,
) -> Value:
    matrices = {}
    for axis, scale in scales.items():
        size = x.shape[axis]
        region = regions.get(axis, (0.0, 1.0))
        if scale == 1 and region == (0.0, 1.0):
            continue
        count = _count(c, size, scale, region, coordinates)
        places = _places(c, size, count, scale, region, coordinates)
        matrix = _kernel(c, places, size, scale, nearest)
        if coordinates == "tf_crop_and_resize":
            matrix[(places < 0) | (places > size - 1)] = 0
        matrices[axis] = matrix
    return resampled(c, x, matrices)


def _count(c: Call, size: int, scale: float, region: tuple[float, float], coordinates: str) -> int:
    """Entries of the result along an axis."""
    exact = np.float32(size) * np.float32(scale)
    if coordinates == "tf_crop_and_resize":
        exact = np.float32(exact * (region[1] - region[0])) if c.optional(3, "the sizes") is None else exact
    rounded = c.get("keep_aspect_ratio_policy", "stretch") != "stretch" or c.optional(3, "the sizes") is not None
    count = int(np.floor(exact + 0.5) if rounded else np.floor(exact))
    if not 1 <= count <= MAX_VALUES // max(size, 1):
        c.fail(f"resizes an axis of {size} to {count}")
    return count


def _places(c: Call, size: int, count: int, scale: float, region: tuple[float, float], mode: str) -> Array:
    """Where each entry of the result is in the input."""
    i = np.arange(count, dtype=np.float64)
    half = (i + 0.5) / scale - 0.5
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and count > 1):
        return half
    if mode == "pytorch_half_pixel":
        return np.zeros(1)
    if mode == "asymmetric":
        return i / scale
    if mode == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if mode == "align_corners" and c.optional(3, "the sizes") is None and count != size * scale:
        c.fail(f"scales an axis of {size} by {scale:g} with corners aligned, which runtimes do in two ways; give sizes")
    if mode == "align_corners":
        return i * (size - 1) / (count - 1) if count > 1 else i
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - count / (scale * size)) + half
    if mode == "tf_crop_and_resize":
        start, end = region
        step = (end - start) * (size - 1) / (count - 1) if count > 1 else 0.0
        first = start * (size - 1) if count > 1 else 0.5 * (start + end) * (size - 1)
        return first + i * step
    c.fail(f"coordinates {mode!r} are not supported; use 'half_pixel'")


def _kernel(c: Call, places: Array, size: int, scale: float, nearest: str) -> Array:
    """The matrix (entries of the result, size) of an interpolation."""
    mode, matrix = c.get("mode", "nearest"), np.zeros((len(places), size))
    rows = np.arange(len(places))
    if mode == "nearest":
        if nearest not in _NEAREST:
            c.fail(f"nearest_mode {nearest!r} is not supported; use 'floor'")
        matrix[rows, np.clip(_NEAREST[nearest](places), 0, size - 1).astype(int)] = 1
        return matrix
    if mode not in ("linear", "cubic"):
        c.fail(f"mode {mode!r} is not supported; use 'nearest', 'linear' or 'cubic'")
    stretch = max(1 / scale, 1.0) if c.get("antialias") else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) * stretch) + 1
    a = float(c.get("cubic_coeff_a", -0.75))
    for row, place in zip(rows, places, strict=True):
        near = np.arange(math.floor(place) - reach, math.floor(place) + reach + 1)
        distance = np.abs(near - place) / stretch
        weights = np.maximum(1 - distance, 0) if mode == "linear" else _cubic(distance, a)
        if c.get("exclude_outside"):
            weights = weights * ((near >= 0) & (near < size))
        np.add.at(matrix[row], np.clip(near, 0, size - 1), weights / weights.sum())
    return matrix


def _cubic(x: Array, a: float) -> Array:
    """Cubic convolution (Keys 1981) of parameter a."""
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


RESIZE: dict[str, Handler] = {"Resize": resize, "Upsample": upsample}
