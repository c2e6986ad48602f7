"""Many images at once: files and folders as a user names them, the good ones loaded, the bad ones listed."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fheinfer.data.files import open_given, printable
from fheinfer.data.images import MAX_BYTES, image_errors, read_image
from fheinfer.data.pixels import U8
from fheinfer.errors import ImageError, InputError

_SHOWN = 3


@dataclass(frozen=True)
class Folder:
    """Images by name, in the order of the folders and of the names in them.

    Names are printable and differ: the file's name, with its folder where another file has the same.

    images    pixels, uint8 (height, width, channels)
    failures  why an image could not be read, one line each
    notes     lines that a user should see: what was skipped, values that look wrong
    deep      whether any has values of more than 8 bits, to which alone a depth applies
    """

    images: Mapping[str, U8]
    failures: Mapping[str, str]
    notes: tuple[str, ...]
    deep: bool = False


def load_folder(
    paths: Iterable[Path], size: int | tuple[int, int], *, channels: int = 3, depth: int | None = None
) -> Folder:
    """Every image among `paths` and in the folders among them (not in folders below).

    In a folder every file counts that Pillow reads, by its suffix or else by its content. Hidden files, macOS's `._`
    files among them, and what is no image are skipped and noted. An image that cannot be read does not stop the rest.

    Args:
        size, channels, depth: as `read_image` takes them.

    Raises:
        InputError: nothing there is an image that can be read.
    """
    files: list[Path] = []
    notes: list[str] = []
    failures: dict[str, str] = {}
    paths = list(paths)
    for path in paths:
        try:
            inside, skipped = _inside(path) if path.is_dir() else ([path], "")
        except OSError as error:  # also a name that is too long
            failures[_unused(printable(path), failures)] = f"{printable(path)}: cannot be read ({error.strerror})"
            continue
        files += inside
        notes += [f"{printable(path)}: skipped {skipped}"] if skipped else []
    images: dict[str, U8] = {}
    deep = False
    for name, file in _names(files, failures).items():
        try:
            loaded = read_image(file, size, channels=channels, depth=depth)
        except ImageError as error:
            failures[name] = str(error)
        else:
            images[name] = loaded.pixels
            notes += loaded.notes
            deep |= loaded.deep
    if not images:
        raise InputError(_nothing(paths, list(failures.values())))
    return Folder(images, failures, tuple(notes), deep)


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder by name, hidden ones and folders apart.

    Raises:
        OSError: the folder cannot be listed.
    """
    return _inside(folder)[0]


def _inside(folder: Path) -> tuple[list[Path], str]:
    """(images by name, in words what else is there)."""
    images, others, hidden, folders = [], [], 0, 0
    suffixes = _suffixes()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            hidden += 1
        elif path.is_dir():
            folders += 1
        elif path.suffix.lower() in suffixes or _is_image(path):
            images.append(path)
        else:
            others.append(printable(path.name))
    rest = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    parts = [
        f"{hidden} hidden {'file' if hidden == 1 else 'files'}" if hidden else "",
        f"{folders} {'folder' if folders == 1 else 'folders'}" if folders else "",
        f"{', '.join(others[:_SHOWN])}{rest} (no image)" if others else "",
    ]
    return images, ", ".join(part for part in parts if part)


def _suffixes() -> set[str]:
    """Of what Pillow reads, not of what it only writes."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _is_image(path: Path) -> bool:
    """Whether Pillow knows the content of a file whose suffix says nothing."""
    name = printable(path)
    try:
        with open_given(path, MAX_BYTES, ImageError, "an image") as file, image_errors(name), Image.open(file):
            return True
    except ImageError:
        return False


def _names(files: list[Path], taken: dict[str, Any]) -> dict[str, Path]:
    """A printable name for each of `files`, none of them twice or among `taken`."""
    count = Counter(printable(file.name) for file in files)
    names: dict[str, Any] = {}
    for file in files:
        short = printable(file.name)
        name = short if short and count[short] == 1 else printable(file)
        names[_unused(name, ChainMap(names, taken))] = file
    return names


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, or with a number behind where that is taken."""
    number, result = 1, name
    while result in taken:
        number += 1
        result = f"{name} ({number})"
    return result


def _nothing(paths: list[Path], failures: list[str]) -> str:
    where = ", ".join(printable(path) for path in paths[:_SHOWN]) or "no file or folder is named"
    if not failures:
        return f"{where}: no image here; use PNG or JPEG files"
    rest = f", and {len(failures) - 1} more that cannot be read" if len(failures) > 1 else ""
    return f"no image can be read: {failures[0]}{rest}"
