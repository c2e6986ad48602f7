"""Images and arrays that commands are given, as the network takes them: normalised by what client.json says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fheinfer.cli.options import refuse
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.data.files import one_line, printable, read_given
from fheinfer.errors import InputError

if TYPE_CHECKING:
    from fheinfer.data.labelled import DataSet

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

MAX_INPUTS = 100_000
"""Of one array file."""
MAX_BYTES = 1 << 28
"""Of an array file: float64 of the largest input shape there is are 128 MiB."""


def image_input(image: str, spec: ClientSpec, depth: int | None = None) -> F64:
    """An image, (C, H, W) and normalised; what is odd about it goes to standard error.

    Args:
        depth: bits of its values, where they are more than 8; see `data.images.read_image`.

    Raises:
        InputError: the network takes vectors.
        UsageError: a depth for an image of 8 bits.
        ImageError: see `data.images.read_image`.
    """
    from fheinfer.cli.display import err
    from fheinfer.data.images import read_image

    found = read_image(image, spec.image_size, channels=channels(spec), depth=depth)
    if not found.deep:
        refuse(f"{printable(image)} has 8 bits per channel", depth=depth)
    for note in found.notes:
        err.print(note)
    return normalised(found.pixels, spec)


def images_input(
    paths: Iterable[Path], spec: ClientSpec, depth: int | None = None
) -> tuple[dict[str, F64], dict[str, str]]:
    """The images in files and folders by name, normalised, and why others could not be read, by name.

    Raises:
        InputError: none can be read, or the network takes vectors.
        UsageError: a depth where all images have 8 bits.
    """
    from fheinfer.cli.display import err
    from fheinfer.data.folders import load_folder

    found = load_folder(paths, spec.image_size, channels=channels(spec), depth=depth)
    if not found.deep:
        refuse("these images have 8 bits per channel", depth=depth)
    for line in (*found.notes, *found.failures.values()):
        err.print(line)
    return {name: normalised(pixels, spec) for name, pixels in found.images.items()}, dict(found.failures)


def channels(spec: ClientSpec) -> int:
    """1 or 3, whichever kind of image the network takes.

    Raises:
        InputError: it takes neither.
    """
    if spec.input_shape[0] not in (1, 3):
        raise InputError(
            f"{spec.model} takes {spec.input_shape[0]} channels, and image files have 1 or 3; give an array by --input"
        )
    return spec.input_shape[0]


def normalised(pixels: U8, spec: ClientSpec) -> F64:
    """uint8 (H, W, C) as float64 (C, H, W)."""
    from fheinfer.data.images import normalise

    return normalise(pixels, spec.mean, spec.std)


def array_input(path: Path, spec: ClientSpec) -> dict[str, F64]:
    """The inputs in a .npy file by name: one, or several along a first axis.

    uint8 (H, W, C) and vectors are normalised; real images and sequences are taken as they are.

    Raises:
        InputError: no such file, no such array, or one of another shape than the network takes.
    """
    array, shape = _load(path), spec.input_shape
    pixels = (*shape[1:], shape[0]) if len(shape) == 3 and array.dtype == np.uint8 else shape
    if array.ndim == len(shape) + 1 and array.shape[1:] in (shape, pixels) and 0 < len(array) <= MAX_INPUTS:
        return {f"{path.name}:{index}": as_input(one, spec, path) for index, one in enumerate(array)}
    return {path.name: as_input(array, spec, path)}


def as_input(array: NDArray[np.generic], spec: ClientSpec, path: Path = Path("the array")) -> F64:
    """An array as the client encrypts it; errors call it `path`.

    Raises:
        InputError: of another shape than the network takes.
    """
    shape = spec.input_shape
    if len(shape) == 3 and array.dtype == np.uint8 and array.shape == (*shape[1:], shape[0]):
        return normalised(array.astype(np.uint8), spec)
    if array.shape != shape or array.dtype.kind not in "fiu":
        pixels = f", or pixels as uint8 {(*shape[1:], shape[0])}" if len(shape) == 3 else ""
        raise InputError(
            f"{printable(path)}: {array.dtype} {array.shape}, and {spec.model} takes numbers of shape {shape}{pixels}"
        )
    x = array.astype(np.float64)
    return x if x.ndim > 1 else (x - np.asarray(spec.mean)) / np.asarray(spec.std)


def example_input(x: NDArray[np.generic], spec: ClientSpec, data: DataSet) -> F64:
    """One example of a data set, which was made to fit the network's input, as the client encrypts it."""
    if x.dtype == np.uint8:
        return normalised(x.astype(np.uint8), spec)
    real = x.astype(np.float64)
    return real if data.normalised or real.ndim > 1 else (real - np.asarray(spec.mean)) / np.asarray(spec.std)


def _load(path: Path) -> NDArray[np.generic]:
    from fheinfer.data.arrays import parse

    data = read_given(path, MAX_BYTES, InputError, "an array of numpy")
    try:
        return parse(data)
    except ValueError as error:
        raise InputError(f"{printable(path)}: no array of numpy ({one_line(error)}); save it with numpy.save") from None
