"""Image files written byte by byte: forms that Pillow reads and cannot write."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
"""PNG's colour types."""


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size: tuple[int, int], depth: int, colour: int, rows: list[bytes], *extra: bytes) -> bytes:
    """A PNG of (height, width) with these unfiltered rows; `extra` are chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def deep_png(values: NDArray[np.uint16], *extra: bytes) -> bytes:
    """16-bit values (H, W, 1 to 4)."""
    colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}[values.shape[2]]
    return png(values.shape[:2], 16, colour, [row.astype(">u2").tobytes() for row in values], *extra)


def transparent(*colour: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(colour)}H", *colour))


def deep_tiff(values: NDArray[np.uint16], order: str, compressed: bool) -> bytes:
    """16-bit RGB (H, W, 3), in byte order "<" or ">", in one strip."""
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    at = 8 + 2 + 10 * 12 + 4
    entries = [
        (256, 4, 1, values.shape[1]),
        (257, 4, 1, values.shape[0]),
        (258, 3, 3, at),
        (259, 3, 1, 8 if compressed else 1),
        (262, 3, 1, 2),
        (273, 4, 1, at + 6),
        (277, 3, 1, 3),
        (278, 4, 1, values.shape[0]),
        (279, 4, 1, len(data)),
        (284, 3, 1, 1),
    ]
    result = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        packed = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        result += struct.pack(f"{order}HHI", tag, kind, count) + packed
    return result + struct.pack(f"{order}IHHH", 0, 16, 16, 16) + data


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name has 107 bytes at most
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "loop": _loop,
    "socket": _socket,
    "dangling": lambda path: path.symlink_to("nothing"),
}
"""What has a name and is no regular file; each makes one."""
