"""Backends by name: who evaluates ciphertexts, and which keys that takes."""

from __future__ import annotations

from fheinfer.crypto.backends.base import Backend
from fheinfer.crypto.backends.native import NativeBackend
from fheinfer.crypto.backends.openfhe import OpenFheBackend
from fheinfer.errors import UsageError

__all__ = ["BACKENDS", "Backend", "backend"]

BACKENDS: dict[str, Backend] = {b.name: b for b in (NativeBackend(), OpenFheBackend())}
"""To add one, add it here and give it a cost model (compiler/cost) and, where it is known, a noise model."""


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: with the names there are.
    """
    if name not in BACKENDS:
        raise UsageError(f"no backend {name!r}; there are {', '.join(BACKENDS)}")
    return BACKENDS[name]
