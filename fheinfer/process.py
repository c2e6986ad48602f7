"""What every long-lived process of fheinfer does about signals and about its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1


def exit_on_signals() -> None:
    """SIGTERM and SIGHUP end the process through `SystemExit`, so that temporary files are removed on the way."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def die_with_parent(parent: int) -> None:
    """Has the system end this process when its parent ends, however that comes about.

    Args:
        parent: process id of the parent, as the parent itself gave it: it may have ended before this is called.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
