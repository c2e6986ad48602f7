"""PyTorch is only needed for training, simulation and the plain reference: where it is missing, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from fheinfer.errors import FheinferError, UsageError

_ADVICE = "{} needs PyTorch: pip install 'torch==2.13.*'"


@contextmanager
def needs_torch(what: str, error: type[FheinferError] = UsageError) -> Iterator[None]:
    """For imports that end in torch: its absence becomes a line that says what to install.

    Raises:
        FheinferError: of the given kind; PyTorch is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.partition(".")[0] != "torch":
            raise
        raise error(_ADVICE.format(what)) from missing


def have_torch() -> bool:
    """Whether PyTorch is installed; it is not imported."""
    return find_spec("torch") is not None


def require_torch(what: str) -> None:
    """Asks before the work that needs it later.

    Raises:
        UsageError: PyTorch is not installed.
    """
    if not have_torch():
        raise UsageError(_ADVICE.format(what))
