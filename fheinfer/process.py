"""How a process ends when something else ends it: exit codes as a shell has them, cleanup first, no traceback.

Imports nothing of fheinfer and little of Python, because it is set up before everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED, BROKEN_PIPE = 128 + signal.SIGINT, 128 + signal.SIGPIPE
PARENT_PERIOD = 0.5
"""Seconds between two looks at whether the parent is there."""
_ORPHANED = 128 + signal.SIGTERM


class StoppedError(Exception):
    """A job ended because it was told to: it was cancelled, or has to go on later. Nothing went wrong."""


def install() -> None:
    """SIGTERM and SIGHUP end the process by SystemExit, so that everything is cleaned up, with 143 and 129.

    A signal that the caller had ignored stays ignored: `nohup` does that with SIGHUP. Another one while cleaning up is
    ignored too.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


@contextmanager
def starting() -> Iterator[None]:
    """While modules are imported, Ctrl-C ends the process at once, in one line.

    A KeyboardInterrupt there would end in a traceback, or be taken by a library for a module that cannot be loaded; and
    there is nothing to clean up yet.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def silence_output() -> None:
    """What is still buffered for a reader that went away goes nowhere, instead of to an error at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def tolerate_any_name() -> None:
    """Lets the output streams write what their encoding cannot, escaped: names of files that are no UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # a stream of a test, or a closed one
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def die_with_parent(parent: int) -> None:
    """Ends this process within a second of the end of the one that started it, however that ends.

    A thread of its own looks, so that no computation is in the way that releases the GIL. Nothing is cleaned up:
    files are written atomically. The system's own signal of this kind (PR_SET_PDEATHSIG) would be sent at the end of
    the thread that started this process, too.

    Args:
        parent: the number of the process that started this one. If it is not our parent any more, it ended before this
            call, and this process ends now.
    """
    if os.getppid() != parent:
        sys.exit(_ORPHANED)
    threading.Thread(target=_watch, args=(parent,), name="fheinfer-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_PERIOD)
    os._exit(_ORPHANED)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _leave_at_once(number: int, frame: FrameType | None) -> NoReturn:
    with suppress(OSError):
        os.write(2, b"error: stopped\n")
    os._exit(128 + number)
