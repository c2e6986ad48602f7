"""Imports of packages that not every installation has: what is missing becomes a line that says what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec

from fheinfer.errors import FheinferError, UsageError

EXTRAS = {"torch": "torch", "matplotlib": "plot", "mpmath": "plot"}
"""Optional packages, and the extra of fheinfer that brings each."""


@contextmanager
def needs(package: str, what: str, error: type[FheinferError] = UsageError) -> Iterator[None]:
    """For late imports that end in an optional package.

    Args:
        package: its name, one of EXTRAS.
        what: the work that needs it, as the beginning of the message.

    Raises:
        FheinferError: of the given kind; the package is not installed. Another one that is missing is a fault of the
            installation and passes through.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] != package:
            raise
        extra = EXTRAS[package]
        raise error(
            f"{what} needs {package}: pip install {package} (or pip install '.[{extra}]' in fheinfer's own folder)"
        ) from missing


def have(package: str) -> bool:
    """Whether an optional package is installed; it is not imported, which can take seconds."""
    return find_spec(package) is not None


def require(package: str, what: str) -> None:
    """Asks before long work whether a package that its end needs is there.

    Raises:
        UsageError: it is not.
    """
    if not have(package):
        with needs(package, what):
            import_module(package)


def needs_torch(what: str, error: type[FheinferError] = UsageError) -> AbstractContextManager[None]:
    """`needs` of PyTorch."""
    return needs("torch", what, error)
