"""Images of every mode that Pillow has as 8-bit RGB: deep ones scaled, transparent ones laid on white.

Pillow's own conversions clip 16-bit grey values, compare a transparent colour of 16 bits with 8-bit pixels, and keep
the upper byte of 16-bit colours only. Here those are read in full.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fheinfer.errors import ImageError

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Values = npt.NDArray[Any]

TWELVE_BITS = 4095
MAX_DEPTH = 32
_BLOCK = 2**16  # numbers that stay in the cache while they are scaled

_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
_COLOURS = {"RGB;16": 3, "RGBA;16": 4, "LA;16": 2}
_SIXTEEN_BIT_FORMATS = {"PNG", "PPM"}  # their grey values of mode I are 0 to 65,535, however dark
_GREY_STEPS = {"L;2": 85, "L;4": 17}


def rgb(image: Image.Image, again: Callable[[], Image.Image], depth: int | None) -> tuple[Image.Image, list[str], bool]:
    """(the upright image in mode RGB, what a user should know of its values, whether they have more than 8 bits).

    Args:
        image: opened, not yet loaded.
        again: opens the same image once more.
        depth: bits of the values of an image with more than 8 bits per channel, 1 to 32; None: what the file says.

    Raises:
        ImageError: values that cannot be scaled, or a colour space that is not read.
    """
    raw_mode = _raw_mode(image)
    family = raw_mode[:-1] if raw_mode[:-1] in _COLOURS and len(image.getbands()) >= 3 else ""
    upright = ImageOps.exif_transpose(image)
    clear = upright.info.get("transparency")
    if family:
        return *_deep(_both_bytes(upright, family, raw_mode, again), clear, False, depth), True
    if upright.mode.startswith("I"):
        wide = upright.mode == "I" and image.format not in _SIXTEEN_BIT_FORMATS
        return *_deep(np.asarray(upright)[..., None], clear, wide, depth), True
    if upright.mode == "F":
        return *_real(np.asarray(upright), depth), True
    notes = [] if depth in (None, 8) else [f"8 bits per channel: a depth of {depth} bits does not apply"]
    return _shallow(upright, _GREY_STEPS.get(raw_mode, 1)), notes, False


def _shallow(image: Image.Image, grey_step: int) -> Image.Image:
    """Modes of at most 8 bits; `grey_step` is what one step of a grey image of 2 or 4 bits became."""
    if image.mode == "La":
        image = image.convert("LA")
    clear = image.info.get("transparency")
    if image.mode in _ALPHA_MODES or clear is not None:
        if isinstance(clear, int) and grey_step > 1:
            image.info["transparency"] = clear * grey_step
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _raw_mode(image: Image.Image) -> str:
    """How the file stores a pixel, in Pillow's words; empty where a format does not say."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _both_bytes(upper: Image.Image, family: str, raw_mode: str, again: Callable[[], Image.Image]) -> Values:
    """uint16 (H, W, 2 to 4): Pillow decodes upper bytes; the lower ones are the upper ones of the other byte order."""
    with again() as image:
        order = {"N": "L" if sys.byteorder == "little" else "B"}.get(raw_mode[-1], raw_mode[-1])
        other = "RGBA" if family == "LA;16" else family + {"B": "L", "L": "B"}[order]
        image.tile = [_stored_as(other, tile) for tile in image.tile]  # type: ignore[attr-defined]
        low = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
    if family == "LA;16":  # (grey, grey, alpha, alpha), upper byte first
        return low[..., ::2] << 8 | low[..., 1::2]
    return np.asarray(upper).astype(np.uint16) << 8 | low


def _stored_as(raw_mode: str, tile: Any) -> Any:
    """A tile of Pillow, which is a tuple or since 11 a named one, to be decoded as `raw_mode`."""
    *place, arguments = tile
    changed = (*place, (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode)
    return tile._make(changed) if hasattr(tile, "_make") else changed


def _deep(values: Values, clear: Any, wide: bool, depth: int | None) -> tuple[Image.Image, list[str]]:
    """Integers (H, W, 1 to 4) of more than 8 bits: grey, grey with alpha, RGB or RGBA.

    Args:
        clear: the colour that is transparent, or None.
        wide: whether they have 32 bits, of which some may be unused.
    """
    alpha = values.shape[2] in (2, 4)
    colours = values[..., :-1] if alpha else values
    opaque = None if alpha or clear is None else (colours != np.asarray(clear)).any(axis=2)[..., None]
    where = True if opaque is None else opaque
    low, high = int(colours.min(initial=0, where=where)), int(colours.max(initial=0, where=where))
    white, notes = _white(low, high, wide, depth)
    if alpha:
        return _eight_bit(colours, white, values[..., -1:], min(white, 65535.0)), notes
    return _eight_bit(colours, white, opaque), notes


def _white(low: int, high: int, wide: bool, depth: int | None) -> tuple[float, list[str]]:
    """(the value that is white, notes), by the smallest and largest value of pixels that are not transparent.

    Raises:
        ImageError: values that no such white explains.
    """
    if low < 0:
        raise ImageError(f"holds negative values, down to {low}; white and black are unknown: convert it to PNG first")
    if depth is not None:
        if high > 2**depth - 1:
            raise ImageError(f"holds values up to {high}, more than {depth} bits; give the depth it has (--depth)")
        return 2.0**depth - 1, []
    if not wide:
        dark = f"16 bits per channel, but no value above {high}, as of 12-bit data: nearly black; "
        return 65535.0, [f"{dark}a depth of 12 bits (--depth 12) scales it"] if 0 < high <= TWELVE_BITS else []
    if high > 65535:
        raise ImageError(f"holds 32-bit values up to {high}; give the depth in bits (--depth)")
    bits = 8 if high <= 255 else 16
    return 2.0**bits - 1, [f"32-bit values up to {high}, read as {bits}-bit ones; --depth says otherwise"]


def _real(values: Values, depth: int | None) -> tuple[Image.Image, list[str]]:
    """Real grey values (H, W): white is 1 where none is larger, otherwise 255."""
    if not np.isfinite(values).all():
        raise ImageError("holds NaN or infinite values; convert it to PNG first")
    high = float(values.max())
    white = 2.0**depth - 1 if depth is not None else 1.0 if high <= 1 else 255.0
    if high > white:
        raise ImageError(
            f"holds real values up to {high:.6g}, more than white ({white:.0f}); give the depth in bits (--depth)"
        )
    notes = [] if depth is not None else [f"real values up to {high:.6g}, read with white at {white:.0f}"]
    return _eight_bit(values[..., None], white, None), notes


def _eight_bit(colours: Values, white: float, alpha: Values | None, full: float = 1.0) -> Image.Image:
    """Colours (H, W, 1 or 3) of 0 to `white`, laid on white by `alpha` (H, W, 1) of 0 to `full`, as RGB."""
    result = np.empty(colours.shape, np.uint8)
    rows = max(1, _BLOCK // (colours.shape[1] * colours.shape[2]))
    for top in range(0, len(colours), rows):
        block = slice(top, top + rows)
        light = (colours[block] / white).clip(0, 1)
        if alpha is not None:
            opaque = (alpha[block] / full).clip(0, 1)
            light = light * opaque + 1 - opaque
        result[block] = np.rint(255 * light)
    return Image.fromarray(result[..., 0] if colours.shape[2] == 1 else result).convert("RGB")
