"""How long work reports how far it is: one kind of callback, for all of it."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with how much is done, and with how much there is in all."""


def silent(done: int, total: int) -> None:
    """A progress callback that says nothing."""
