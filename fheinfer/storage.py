"""Files that are either whole or absent, and failures of the disk as typed errors.

What is written goes to a temporary sibling, named `.fheinfer-*.tmp`, that takes the final name once it is complete and
on the disk. Only a process that is killed outright can leave one behind; it may be deleted.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fheinfer.errors import CorruptArtifactError, StorageError

Buffer = bytes | bytearray | memoryview


def temporary_sibling(path: Path) -> Path:
    """A fresh name in the folder of `path`, short enough for every file system."""
    return path.parent / f".fheinfer-{secrets.token_hex(8)}.tmp"


def atomic_write(path: Path, chunks: Iterable[Buffer], mode: int = 0o644) -> None:
    """Writes `chunks` one after another to `path`, replacing what was there; on any failure `path` stays as it was.

    `mode` is what the file has from its first moment on (less the umask).

    Raises:
        StorageError: the disk is full, the folder is read-only or missing, or a write failed.
    """
    temp = temporary_sibling(path)
    with storage_errors(path):
        try:
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                for chunk in chunks:
                    _write_all(fd, chunk)
                os.fsync(fd)
            finally:
                os.close(fd)
            temp.replace(path)
        except BaseException:  # Ctrl-C included
            temp.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """`value` as indented JSON, atomically.

    Raises:
        StorageError: see `atomic_write`.
    """
    atomic_write(path, [json.dumps(value, indent=2, allow_nan=False).encode(), b"\n"], mode)


def open_regular(path: Path) -> tuple[int, os.stat_result]:
    """A read-only descriptor of a regular file and what the system says of it; the caller closes it.

    Raises:
        FileNotFoundError: nothing has that name.
        CorruptArtifactError: a folder, a pipe or a device.
        StorageError: no permission, or the disk fails.
    """
    try:
        # O_NONBLOCK: a FIFO without a writer would hold us here for good.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a zero byte
        raise FileNotFoundError(errno.ENOENT, "not a usable file name") from None
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}:
            raise FileNotFoundError(error.errno, error.strerror) from None
        if error.errno == errno.ENXIO:  # a socket
            raise CorruptArtifactError(f"{path}: not a regular file") from None
        raise StorageError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise CorruptArtifactError(f"{path}: not a regular file")
    return fd, status


def read_small(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        FileNotFoundError, StorageError: as `open_regular` says.
        CorruptArtifactError: larger than `limit`, or no regular file.
    """
    fd, _ = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CorruptArtifactError(f"{path}: larger than the {limit} bytes such a file may have")
    return data


def require_disk(path: Path, size: int) -> None:
    """Asks, before anything is written, whether `size` bytes fit on the disk of `path` (which need not exist yet).

    Raises:
        StorageError: they do not.
    """
    folder = path.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    with storage_errors(folder):
        disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise StorageError(f"{path} needs {_megabytes(size)} and its disk has {_megabytes(free)} free; "
                           "free some or choose a folder on another disk")


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def require_writable(path: Path) -> None:
    """Asks, before the work whose result `path` takes, whether a file can be made there.

    Raises:
        StorageError: its folder is missing, or not to be written in.
    """
    with storage_errors(path):
        if not path.absolute().parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder")
        if not os.access(path.absolute().parent, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")


def sync_folder(folder: Path) -> None:
    """Asks the system to make names in `folder` durable; not every file system can."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Maps the OSError of writing `path` to a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(_advice(error, path)) from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise StorageError(f"{str(path)!r}: not a usable file name") from error


def _advice(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk is full while writing {path}; free some space or choose a folder on another disk"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return f"cannot write in {path.parent} ({error.strerror}); choose a folder you may write in"
        case errno.ENOENT | errno.ENOTDIR:
            return f"{path.parent} is not a folder; make it first"
        case errno.EISDIR:
            return f"{path} is a folder; choose the name of a file"
        case _:
            return f"cannot write {path}: {error.strerror or error}; nothing was changed"


def _write_all(fd: int, chunk: Buffer) -> None:
    rest = memoryview(chunk).cast("B")
    while rest:  # a write may take only a part, never more than 2 GiB
        rest = rest[os.write(fd, rest):]
