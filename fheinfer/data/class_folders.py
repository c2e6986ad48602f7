"""A folder of class folders: one folder of images for each class, alone or below folders for training and testing."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import numpy as np

from fheinfer.data.files import printable
from fheinfer.data.folders import images_in
from fheinfer.data.images import read_image
from fheinfer.data.labelled import MAX_VALUES, UNKNOWN, DataSet, Shape, part_of_whole
from fheinfer.errors import DatasetError, ImageError

MAX_CLASSES = 1 << 16
_NAMES = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}
_SHOWN = 3


def part_folder(root: Path, part: str) -> Path | None:
    """The folder of a part, where the root has one for training and another for testing."""
    found = {p: next((root / n for n in names if (root / n).is_dir()), None) for p, names in _NAMES.items()}
    return found[part] if part in found and all(found.values()) else None


def has_parts(root: Path) -> bool:
    """Whether there are folders for training and for testing."""
    return part_folder(root, "test") is not None


def load(root: Path, part: str, shape: Shape, limit: int | None = None) -> DataSet:
    """The images of a part ("train", "test" or "all"), a class after the other in turn: first ones are of all classes.

    Each image is cut and resized as `read_image` does it. One that cannot be read is skipped and noted. Images that lie
    in the folder itself, with no folders beside them, have no labels.

    Args:
        shape: (channels, height, width) of the network, 1 or 3 channels.
        limit: at most so many images of a part.

    Raises:
        DatasetError: no images there, none that can be read, or more than memory should hold.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise DatasetError(f"image files have 1 or 3 channels, and the network takes {channels}; give an .npz file")
    if part == "all" and has_parts(root):
        parts = [load(root, p, shape, limit) for p in _NAMES]
        if parts[0].classes != parts[1].classes:
            raise DatasetError(f"{printable(root)}: its folders for training and testing have other classes")
        both = parts[0].joined(parts[1])
        return both
    folder = part_folder(root, part)
    files, classes = _files(folder or root)
    if folder is None:
        files = [files[i] for i in part_of_whole(len(files), part)]
    files = files[:limit]
    if len(files) * channels * height * width > MAX_VALUES:
        raise DatasetError(f"{len(files):,} images of {height}x{width} are too many for memory; take fewer (--limit)")
    return _read(folder or root, files, classes, shape)


def _read(folder: Path, files: list[tuple[Path, int]], classes: tuple[str, ...], shape: Shape) -> DataSet:
    channels, height, width = shape
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    labels: list[int] = []
    failures: list[str] = []
    for path, label in files:
        try:
            pixels[len(labels)] = read_image(path, (height, width), channels=channels).pixels
            labels.append(label)
        except ImageError as error:
            failures.append(str(error))
    if not labels:
        raise DatasetError(f"{printable(folder)}: no image can be read: {failures[0]}")
    notes = [f"{printable(folder)}: images are cut and resized to {height}x{width}"]
    if failures:
        more = f", and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        notes.append(f"skipped {len(failures)} images: {'; '.join(failures[:_SHOWN])}{more}")
    return DataSet(pixels[: len(labels)], np.array(labels), classes, tuple(notes))


def _files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """((file, label) of all images, the classes in turn; class names)."""
    try:
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not inside:
            files = [(path, UNKNOWN) for path in images_in(folder)]
            if not files:
                raise DatasetError(
                    f"{printable(folder)}: no images and no folders of images; see docs/reference/formats.md"
                )
            return files, ()
        by_class = [[(path, label) for path in images_in(p)] for label, p in enumerate(inside)]
    except OSError as error:
        raise DatasetError(f"{printable(folder)}: cannot be read ({error.strerror})") from None
    if len(inside) > MAX_CLASSES:
        raise DatasetError(f"{printable(folder)}: {len(inside):,} folders are more than the {MAX_CLASSES:,} classes")
    empty = [printable(p.name) for p, files in zip(inside, by_class, strict=True) if not files]
    if empty:
        raise DatasetError(f"{printable(folder)}: no images in {', '.join(empty[:_SHOWN])}; each folder is a class")
    turns = zip_longest(*by_class)
    return [file for turn in turns for file in turn if file is not None], tuple(printable(p.name) for p in inside)
