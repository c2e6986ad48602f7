"""From any picture file to the network's input: upright, RGB, centre square, small, normalised."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from fheinfer.data.resources import input_folders
from fheinfer.errors import ImageError

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10, in label order."""

MAX_PIXELS = 50_000_000
"""Pictures that declare more are refused before any pixel is decoded."""

_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}


def load_image(path_or_name: Path | str, size: int = 32) -> U8:
    """The picture as uint8 (size, size, 3); one of exactly that size in RGB comes back bit for bit.

    EXIF orientation is applied, transparency is laid on white, the largest centre square is cut out and resized
    (Lanczos). A bare name that is no file here is looked for in `inputs/`, too.

    Raises:
        ImageError: missing, not a picture, truncated, or of more than 50 megapixels.
    """
    path = _find(path_or_name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # grumbles about damaged EXIF
            # Formats that hold other pictures (ICO, MPO) are checked by Pillow while it decodes.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                _check_header(path, picture)
                return np.asarray(_square(_rgb(ImageOps.exif_transpose(picture)), size))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{path}: over {MAX_PIXELS // 10**6} megapixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not a picture that can be read; use PNG or JPEG") from None
    except Exception as error:  # Pillow's decoders raise any kind on damaged files
        reason = str(error).partition("\n")[0][:80] or type(error).__name__
        raise ImageError(f"{path}: damaged or truncated picture ({reason})") from None


def normalise(image: U8, mean: Sequence[float], std: Sequence[float]) -> F64:
    """uint8 (H, W, 3) -> float64 (3, H, W): (image / 255 - mean) / std."""
    x = (image.astype(np.float64) / 255 - np.asarray(mean)) / np.asarray(std)
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def _find(path_or_name: Path | str) -> Path:
    given = Path(path_or_name)
    bare = given.name == str(path_or_name) and given.name != ""
    folders = input_folders() if bare else ()
    try:
        for path in (given, *(folder / given.name for folder in folders)):
            if path.is_dir():
                raise ImageError(f"{path}: a folder, not a picture")
            if path.exists():
                return path
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise ImageError(f"{str(given)[:80]!r}: not a usable file name ({error})") from None
    there = sorted({p.name for folder in folders if folder.is_dir() for p in folder.iterdir()
                    if p.suffix in {".png", ".jpg"}})
    hint = f"; inputs/ has {', '.join(there)}" if there else ""
    raise ImageError(f"{given}: no such picture{hint}")


def _check_header(path: Path, picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{path}: {width}x{height} is over {MAX_PIXELS // 10**6} megapixels; make it smaller first")
    if width < 1 or height < 1:
        raise ImageError(f"{path}: an empty picture")
    if picture.format == "EPS":  # Pillow would run Ghostscript, an interpreter, on it
        raise ImageError(f"{path}: PostScript is a program, not a picture; convert it to PNG first")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _ALPHA_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_eight_bit(np.asarray(picture))).convert("RGB")
    return picture.convert("RGB")


def _eight_bit(grey: npt.NDArray[np.generic]) -> U8:
    """Grey values of more than 8 bits, or real ones, to 0..255; Pillow's own conversion would clip them."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0, neginf=0)
    if grey.dtype.kind == "f":
        scale = 1 / 255 if values.max() <= 1 else 1.0
    else:
        scale = 257.0 if grey.dtype.itemsize == 2 or values.max() > 255 else 1.0
    result: U8 = np.rint((values / scale).clip(0, 255)).astype(np.uint8)
    return result


def _square(picture: Image.Image, size: int) -> Image.Image:
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    if picture.size != (side, side):
        picture = picture.crop((left, top, left + side, top + side))
    return picture if side == size else picture.resize((size, size), Image.Resampling.LANCZOS)
