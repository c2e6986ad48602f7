"""The secret key as a file or as bytes: one container, with or without a passphrase, for its owner alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fheinfer.crypto import passphrase as sealing
from fheinfer.crypto.artifact import Artifact, Kind, from_bytes, read
from fheinfer.errors import CorruptArtifactError, MismatchError
from fheinfer.storage import check_private, shown

MAX_SECRET = 1 << 20
"""Bytes of a secret key: one per coefficient, of which no set has more."""


@dataclass(frozen=True)
class Secret:
    """An opened secret key: `body` is what the core loads. It is kept out of `repr`."""

    identity: bytes
    key_id: str
    body: bytes | memoryview = field(repr=False)


def wrap_secret(body: bytes, identity: bytes, key_id: str, passphrase: str | bytes | None) -> Artifact:
    """The container of a secret key, sealed where there is a passphrase.

    Raises:
        UsageError: an empty passphrase.
    """
    if passphrase is None:
        return Artifact(Kind.SECRET_KEY, identity, key_id, {}, body)
    sealed, metadata = sealing.seal(body, passphrase, identity + bytes.fromhex(key_id))
    return Artifact(Kind.SECRET_KEY, identity, key_id, metadata, sealed)


def read_secret(source: Path | bytes, *, identity: bytes, key_id: str | None = None) -> Artifact:
    """The container of a secret key, as it is: still sealed where it has a passphrase.

    Args:
        source: `secret.key`, or its bytes from elsewhere (a vault).

    Raises:
        KeyStoreError: no key there, or one that others can read or replace (`storage.check_private`).
        CorruptArtifactError, MismatchError, StorageError: see `artifact.read`.
    """
    if isinstance(source, Path):
        with suppress(FileNotFoundError):  # `read` says so
            check_private(source.parent)
            check_private(source)
        return read(source, kind=Kind.SECRET_KEY, identity=identity, key_id=key_id, max_body=MAX_SECRET)
    try:
        return from_bytes(source, kind=Kind.SECRET_KEY, identity=identity, key_id=key_id, max_body=MAX_SECRET)
    except (CorruptArtifactError, MismatchError) as error:
        raise type(error)(f"the secret key: {error}") from None


def open_secret(
    source: Path | bytes, *, identity: bytes, key_id: str | None = None, passphrase: str | bytes | None = None
) -> Secret:
    """The secret key in a file or in bytes, opened with its passphrase where it has one.

    Raises:
        KeyStoreError: as `read_secret`; and a passphrase that is missing or does not open it.
        CorruptArtifactError, MismatchError, StorageError: see `read_secret`.
    """
    found = read_secret(source, identity=identity, key_id=key_id)
    return unseal_secret(found, passphrase, shown(source) if isinstance(source, Path) else "the secret key")


def unseal_secret(found: Artifact, passphrase: str | bytes | None, name: str) -> Secret:
    """The secret in a container that `read_secret` returned. Raises what `open_secret` does."""
    body = found.body
    if sealing.is_sealed(found.metadata):
        body = sealing.unseal(body, found.metadata, passphrase, found.identity + bytes.fromhex(found.key_id), name)
    return Secret(found.identity, found.key_id, body)
