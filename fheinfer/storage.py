"""Files that are either whole or absent, private where they must be, and failures of the disk as typed errors.

What is written goes to a temporary sibling that takes the final name once it is complete and on the disk. A process
that is killed outright leaves it behind: its name says which process made it, so the next command that writes there
removes it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fheinfer.errors import CorruptArtifactError, KeyStoreError, StorageError
from fheinfer.leftovers import leftovers, remove_leftovers, temporary_sibling

__all__ = [
    "PRIVATE",
    "PUBLIC",
    "atomic_write",
    "cache_folder",
    "check_private",
    "leftovers",
    "make_folder",
    "open_regular",
    "parse_json",
    "read_json",
    "read_small",
    "remove_leftovers",
    "require_disk",
    "require_writable",
    "shown",
    "storage_errors",
    "sync_folder",
    "temporary_sibling",
    "write_json",
]

Buffer = bytes | bytearray | memoryview
Model = TypeVar("Model", bound=BaseModel)

PRIVATE = 0o600
"""For secrets, and for whatever was decrypted: logits, classes, reports of them."""
PUBLIC = 0o644
"""For everything else: keys of the server, ciphertexts, plans, polynomials."""
PRIVATE_FOLDER = 0o700
PUBLIC_FOLDER = 0o755


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/fheinfer, or ~/.cache/fheinfer.

    A relative XDG_CACHE_HOME is ignored, as its standard says. Whoever writes there does without where that fails: a
    home folder may be read-only, or missing.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not named.is_absolute():
        try:
            named = Path.home() / ".cache"
        except RuntimeError:  # a user without one, as containers have: nothing can be written below this
            named = Path(os.devnull)
    return named / "fheinfer"


def atomic_write(path: Path, chunks: Iterable[Buffer], mode: int = PUBLIC) -> None:
    """Writes `chunks` one after another to `path`, replacing what was there; on any failure `path` stays as it was.

    `mode` is what the file has from its first moment on (less the umask): PRIVATE where the content is secret, or was
    decrypted. A link of that name is replaced, not followed.

    Raises:
        StorageError: the disk is full, the folder is read-only or missing, or a write failed.
    """
    temp = temporary_sibling(path)
    with storage_errors(path):
        try:
            # O_EXCL: a file or link that somebody put there first is refused.
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            try:
                for chunk in chunks:
                    _write_all(fd, chunk)
                os.fsync(fd)
            finally:
                os.close(fd)
            temp.replace(path)
        except BaseException:  # Ctrl-C included
            with suppress(OSError):
                temp.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any, mode: int = PUBLIC) -> None:
    """`value` as indented JSON, atomically.

    Raises:
        StorageError: see `atomic_write`.
    """
    atomic_write(path, [json.dumps(value, indent=2, allow_nan=False).encode(), b"\n"], mode)


def make_folder(path: Path, mode: int = PUBLIC_FOLDER) -> None:
    """Makes a folder and those above it where they are missing, none of them open to others, whatever the umask.

    `mode` is that of the folder itself: PRIVATE_FOLDER where secrets go in. A folder that is there keeps its mode.

    Raises:
        StorageError: something else has that name, or it cannot be made.
    """
    with storage_errors(path):
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(PUBLIC_FOLDER, exist_ok=True)
        path.mkdir(mode, exist_ok=True)


def open_regular(path: Path, what: str = "") -> tuple[int, os.stat_result]:
    """A read-only descriptor of a regular file and what the system says of it; the caller closes it.

    Args:
        what: what the file should be, with its article ("a plan"), for messages.

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
            raise CorruptArtifactError(_not_regular(path, what)) from None
        advice = "check its permissions" if error.errno in {errno.EACCES, errno.EPERM} else "check the disk"
        raise StorageError(f"cannot read {shown(path)}: {error.strerror}; {advice}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise CorruptArtifactError(_not_regular(path, what))
    return fd, status


def _not_regular(path: Path, what: str) -> str:
    expected = f", and {what} was expected there" if what else ""
    return f"{shown(path)}: not a regular file{expected}; check the path"


def read_small(path: Path, limit: int, what: str = "") -> bytes:
    """The content of a file of at most `limit` bytes; `what` as of `open_regular`.

    Raises:
        FileNotFoundError, StorageError: as `open_regular` says.
        CorruptArtifactError: larger than `limit`, or no regular file.
    """
    fd, status = open_regular(path, what)
    with os.fdopen(fd, "rb") as file:
        try:
            data = file.read(min(limit, status.st_size) + 1)  # memory for all of it is taken before anything is read
            if status.st_size < len(data) <= limit:  # it grew
                data += file.read(limit + 1 - len(data))
        except OSError as error:
            raise StorageError(f"cannot read {shown(path)}: {error.strerror}; check the disk") from error
    if len(data) > limit:
        raise CorruptArtifactError(f"{shown(path)}: larger than the {limit} bytes such a file may have")
    return data


def read_json(path: Path, limit: int, model: type[Model], advice: str = "get the file again or make it anew") -> Model:
    """What a JSON file of at most `limit` bytes holds, checked by a pydantic model.

    Args:
        advice: the end of the message about a damaged file: what to do.

    Raises:
        FileNotFoundError, StorageError: as `open_regular` says.
        CorruptArtifactError: no regular file, too large, not JSON, or a field that is missing, unknown or impossible:
            "FILE: damaged (field: reason); advice".
    """
    return parse_json(read_small(path, limit, "a JSON file"), path, model, advice)


def parse_json(raw: bytes, path: Path, model: type[Model], advice: str = "get the file again or make it anew") -> Model:
    """The same of bytes that were read: for files whose version is asked before their fields are.

    Raises:
        CorruptArtifactError: see `read_json`.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise CorruptArtifactError(
            f"{shown(path)}: damaged ({shown(where, 80)}: {shown(first['msg'], 80)}); {advice}"
        ) from None


def check_private(path: Path) -> None:
    """Asks of a secret's file or folder whether other users can read it, replace it, or made it.

    Every folder above it counts: who may rename one can put other keys in the place of these. Folders that are open to
    all but protect what each user put there (the sticky bit of /tmp) are fine, as is whatever root owns.

    Raises:
        KeyStoreError: it is not private; the message has the command that makes it so.
        FileNotFoundError: nothing has that name.
        StorageError: the system does not say.
    """
    try:
        real = path.resolve(strict=True)
        statuses = [(folder, folder.stat()) for folder in (real, *real.parents)]
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, "no such file or folder") from None
    except (ValueError, RuntimeError):  # a zero byte, a circle of links
        raise FileNotFoundError(errno.ENOENT, "not a usable file name") from None
    except OSError as error:
        raise StorageError(f"cannot read {shown(path)}: {error.strerror}; check its permissions") from error
    trusted = {0, os.geteuid()}
    for place, status in statuses:
        name, mode = shown(place), stat.S_IMODE(status.st_mode)
        if status.st_uid not in trusted:
            raise KeyStoreError(
                f"{name} belongs to another user (uid {status.st_uid}), who can replace the secret in it; "
                f"run `chown {os.geteuid()} {name}` if its content is yours"
            )
        if place == real and mode & 0o077:
            wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
            raise KeyStoreError(f"others can read the secret in {name}; run `chmod {wanted} {name}`")
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise KeyStoreError(f"everybody can replace what is in {name}, secrets included; run `chmod o-w {name}`")


def require_disk(path: Path, size: int) -> None:
    """Asks, before anything is written, whether `size` bytes fit on the disk of `path` (which need not exist yet).

    Raises:
        StorageError: they do not.
    """
    with storage_errors(path):
        folder = path.absolute()
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise StorageError(
            f"{shown(path)} needs {_megabytes(size)} and its disk has {_megabytes(free)} free; "
            "free some or choose a folder on another disk"
        )


def require_writable(path: Path) -> None:
    """Asks, before the work whose result `path` takes, whether a file can be made there.

    Raises:
        StorageError: its folder is missing or not to be written in, or its name cannot be that of a file.
    """
    with storage_errors(path):
        if not path.absolute().parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder")
        if not os.access(path.absolute().parent, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
        with suppress(FileNotFoundError):
            path.lstat()  # a zero byte, a name that is too long


def sync_folder(folder: Path) -> None:
    """Asks the system to make names in `folder` durable; not every file system can."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def shown(name: object, longest: int = 200) -> str:
    """A name as a message can print it, on one line: what no terminal shows is escaped, the middle of long ones cut."""
    text = str(name)
    if len(text) > longest:
        text = f"{text[: longest // 2]}...{text[-longest // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Maps the OSError of writing `path` to a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(_advice(error, path)) from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise StorageError(f"{shown(path)}: not a usable file name") from error


def _advice(error: OSError, path: Path) -> str:
    folder = shown(path.parent)
    match error.errno:
        case errno.ENOSPC:
            return f"the disk is full while writing {shown(path)}; free some space or choose a folder on another disk"
        case errno.EDQUOT:
            return f"your quota of the disk is used up while writing {shown(path)}; the disk is full for you: free some"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return f"cannot write in {folder} ({error.strerror}); choose a folder you may write in"
        case errno.ENOENT | errno.ENOTDIR:
            return f"{folder} is not a folder; make it first"
        case errno.EISDIR:
            return f"{shown(path)} is a folder; choose the name of a file"
        case errno.EEXIST:
            return f"{shown(path)} is there and is something else; choose another name"
        case errno.ELOOP:
            return f"links in {shown(path)} lead back to themselves; choose another folder"
        case errno.ENAMETOOLONG:
            return f"{shown(path)}: the name is too long; choose a shorter one"
        case _:
            return f"cannot write {shown(path)}: {error.strerror or error}; nothing was changed"


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def _write_all(fd: int, chunk: Buffer) -> None:
    rest = memoryview(chunk).cast("B")
    while rest:  # a write may take only a part, never more than 2 GiB
        rest = rest[os.write(fd, rest) :]
