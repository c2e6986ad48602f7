"""Imports of packages that not every installation has: what is missing becomes a line that says what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec

from fheinfer.errors import FheinferError, UsageError

EXTRAS = {
    "onnx": "onnx",
    "ray": "ray",
    "torch": "torch",
    "matplotlib": "plot",
    "mpmath": "plot",
    **dict.fromkeys(("fastapi", "prometheus_client", "structlog", "swagger_ui_bundle", "uvicorn"), "serve"),
}
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
        raise error(_advice(package, what)) from missing


def require(package: str, what: str) -> None:
    """Asks before long work whether a package that its end needs is there.

    Raises:
        UsageError: it is not.
    """
    if not have(package):
        raise UsageError(_advice(package, what))


def have(package: str) -> bool:
    """Whether a package is installed; it is not imported, which may take seconds."""
    return find_spec(package) is not None


def needs_torch(what: str, error: type[FheinferError] = UsageError) -> AbstractContextManager[None]:
    """`needs` of PyTorch."""
    return needs("torch", what, error)


def _advice(package: str, what: str) -> str:
    ours = f"pip install '.[{EXTRAS[package]}]' in fheinfer's own folder"
    return f"{what} needs {package}: pip install {package} (or {ours})"
