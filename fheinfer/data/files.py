"""Files that a user names: opened without hanging, read up to a limit, and written about in printable lines."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import BinaryIO

from fheinfer.errors import CorruptArtifactError, InputError, StorageError
from fheinfer.storage import open_regular

MAX_SHOWN = 200
"""Characters of a file name in a message."""

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]?")


def printable(path: Path | str, limit: int = MAX_SHOWN) -> str:
    """`path` as text that any terminal, file or JSON document takes: one line of at most `limit` characters.

    Bytes that are not UTF-8 and control characters become escapes such as \\xff; of a longer name the middle is
    omitted. The result is for people: it need not be the name of a file.
    """
    text = str(path).encode("utf-8", "surrogateescape" if _has_only_escapes(str(path)) else "backslashreplace")
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.decode("utf-8", "backslashreplace")
    )
    if len(shown) <= limit:
        return shown
    return f"{shown[: limit // 2 - 2]}...{shown[-(limit // 2 - 1) :]}"


def one_line(error: BaseException | str, limit: int = 120) -> str:
    """The first line of a library's message, without terminal colours, cut between words."""
    text = _ESCAPE_SEQUENCE.sub("", str(error)).strip().partition("\n")[0]
    text = printable(text, 10 * limit)
    if len(text) > limit:
        text = text[:limit].rpartition(" ")[0] or text[:limit]
    return text or (type(error).__name__ if isinstance(error, BaseException) else "")


def open_given(path: Path, limit: int, kind: type[InputError], what: str) -> BinaryIO:
    """A regular file of at most `limit` bytes, open for reading; a FIFO, device or socket is refused at once.

    Args:
        kind: class of the error to raise.
        what: what the file should be, with its article ("an image"), for messages.

    Raises:
        InputError: of the given kind: missing, no regular file, not readable, or larger than `limit`.
    """
    name = printable(path)
    try:
        fd, status = open_regular(path)
    except FileNotFoundError as error:
        reason = "no such file" if error.errno == errno.ENOENT and "\0" not in str(path) else error.strerror
        raise kind(f"{name}: {reason}") from None
    except CorruptArtifactError:
        folder = Path(path).is_dir()
        raise kind(f"{name}: {'a folder' if folder else 'a pipe, socket or device'}, not {what}") from None
    except StorageError as error:
        cause = error.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else "the disk failed"
        raise kind(f"{name}: cannot be read ({reason}); check its permissions") from None
    if status.st_size > limit:
        os.close(fd)
        raise kind(f"{name}: {status.st_size:,} bytes, more than the {limit:,} that {what} may have")
    return os.fdopen(fd, "rb")


def read_given(path: Path, limit: int, kind: type[InputError], what: str) -> bytes:
    """The content of such a file.

    Raises:
        InputError: as `open_given` says, or the disk fails.
    """
    with open_given(path, limit, kind, what) as file:
        try:
            data = file.read(os.fstat(file.fileno()).st_size + 1)
        except OSError as error:
            raise kind(f"{printable(path)}: cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise kind(f"{printable(path)}: more than the {limit:,} bytes that {what} may have")
    return data


def _has_only_escapes(text: str) -> bool:
    """Whether every surrogate in `text` is a byte that the system's names hold and UTF-8 does not know."""
    return all("\udc80" <= c <= "\udcff" for c in text if "\ud800" <= c <= "\udfff")
