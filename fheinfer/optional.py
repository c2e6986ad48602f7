"""PyTorch is only needed for training, simulation and the plain reference: where it is missing, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fheinfer.errors import FheinferError, UsageError


@contextmanager
def needs_torch(what: str, error: type[FheinferError] = UsageError) -> Iterator[None]:
    """For imports that end in torch: its absence becomes a line that says what to install.

    Raises:
        FheinferError: of the given kind; PyTorch is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        raise error(f"{what} needs PyTorch: pip install 'torch==2.13.*'") from missing
