"""From any image file to the network's input: upright, RGB or grey, centre cut out, small, normalised."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fheinfer.data.files import one_line, open_given, printable
from fheinfer.data.pixels import MAX_DEPTH, U8, rgb
from fheinfer.data.resources import input_folders
from fheinfer.errors import ImageError

F64 = npt.NDArray[np.float64]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10, in label order."""

MAX_PIXELS = 50_000_000
"""Images that declare more are refused before any pixel is decoded."""

MAX_BYTES = 512 * 2**20
"""Of an image file: as many pixels in 16-bit RGBA, uncompressed, are 400 MB."""


@dataclass(frozen=True)
class LoadedImage:
    """An image as a network takes it.

    pixels  uint8 (H, W, channels)
    notes   lines that a user should see, each with the file's name
    deep    whether its values have more than 8 bits, to which alone a depth applies
    """

    pixels: U8
    notes: tuple[str, ...] = ()
    deep: bool = False


def read_image(
    path_or_name: Path | str, size: int | tuple[int, int] = 32, *, channels: int = 3, depth: int | None = None
) -> LoadedImage:
    """The image, cut and resized to a network's input; one of exactly that size comes back bit for bit.

    EXIF orientation is applied, transparency is laid on white, and the largest centred part with the proportions of
    `size` is cut out and resized (Lanczos). A bare name that is no file here is looked for in `inputs/`, too.

    Args:
        size: (height, width), or both as one number.
        channels: 3, or 1 for grey.
        depth: bits of the values of images with more than 8 bits per channel, 1 to 32: 12 for what 12-bit cameras
            store in 16. None takes what the file says.

    Raises:
        ImageError: missing, not a regular file, not an image, truncated, of more than 50 megapixels or 512 MiB, or of
            values that `depth` does not explain.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1 or channels not in (1, 3) or not (depth is None or 1 <= depth <= MAX_DEPTH):
        raise ImageError(
            f"no images of {height}x{width} in {channels} channels and {depth} bits: sizes are positive, "
            f"channels 1 or 3, bits 1 to {MAX_DEPTH}"
        )
    with _find(path_or_name) as file:
        return decode(file, printable(path_or_name), (height, width), channels, depth)


def load_image(
    path_or_name: Path | str, size: int | tuple[int, int] = 32, *, channels: int = 3, depth: int | None = None
) -> U8:
    """Only the pixels of `read_image`: uint8 (height, width, channels).

    Raises:
        ImageError: as `read_image` says.
    """
    return read_image(path_or_name, size, channels=channels, depth=depth).pixels


def normalise(image: U8, mean: Sequence[float], std: Sequence[float]) -> F64:
    """uint8 (H, W, C) -> float64 (C, H, W): (image / 255 - mean) / std."""
    x = (image.astype(np.float64) / 255 - np.asarray(mean)) / np.asarray(std)
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def decode(file: BinaryIO, name: str, size: tuple[int, int], channels: int, depth: int | None) -> LoadedImage:
    """`read_image` of an open file, called `name` in messages."""
    with image_errors(name), Image.open(file) as image:
        check_header(image)

        def again() -> Image.Image:
            file.seek(0)
            return Image.open(file)

        upright, notes, deep = rgb(image, again, depth)
        cut = cut_out(upright, *size).convert("RGB" if channels == 3 else "L")
        pixels = np.asarray(cut).reshape(*size, channels)
    return LoadedImage(pixels, tuple(f"{name}: {note}" for note in notes), deep)


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Maps whatever Pillow raises on a file, called `name`, to an ImageError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged EXIF
            # Formats that hold other images (ICO, MPO) are checked by Pillow while it decodes.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: over {MAX_PIXELS // 10**6} megapixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read; use PNG or JPEG") from None
    except Exception as error:  # Pillow's decoders raise any kind on damaged files
        raise ImageError(f"{name}: damaged or truncated image ({one_line(error, 80)})") from None


def check_header(image: Image.Image) -> None:
    """Refuses, before any pixel is decoded, what is too large, empty, or a program.

    Raises:
        ImageError: without the file's name.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} is over {MAX_PIXELS // 10**6} megapixels; make it smaller first")
    if width < 1 or height < 1:
        raise ImageError("an empty image")
    if image.format == "EPS":  # Pillow would run Ghostscript, an interpreter, on it
        raise ImageError("PostScript is a program, not an image; convert it to PNG first")


def _find(path_or_name: Path | str) -> BinaryIO:
    given = Path(path_or_name)
    bare = given.name == str(path_or_name) and given.name != ""
    folders = input_folders() if bare else ()
    path = next((p for p in (given, *(folder / given.name for folder in folders)) if _exists(p)), None)
    if path is not None:
        return open_given(path, MAX_BYTES, ImageError, "an image")
    there: set[str] = set()
    for folder in folders:
        with suppress(OSError):
            there |= {p.name for p in folder.iterdir() if p.suffix in {".png", ".jpg"}}
    hint = f"; inputs/ has {', '.join(sorted(there))}" if there else ""
    raise ImageError(f"{printable(given)}: no such image{hint}")


def _exists(path: Path) -> bool:
    """Whether the system has that name, a link that leads nowhere included."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:  # a name too long, a folder that cannot be entered: opening it says so
        return True
    return True


def cut_out(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred part of these proportions, resized."""
    scale = min(image.width / width, image.height / height)
    part = max(1, round(width * scale)), max(1, round(height * scale))
    if image.size != part:
        left, top = (image.width - part[0]) // 2, (image.height - part[1]) // 2
        image = image.crop((left, top, left + part[0], top + part[1]))
    return image if part == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
