"""The secret key as a file or as bytes: one container, with or without a passphrase, for its owner alone."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path

from fheinfer.crypto import passphrase as sealing
from fheinfer.crypto.artifact import Artifact, Kind, from_bytes, read
from fheinfer.errors import CorruptArtifactError, KeyStoreError, MismatchError

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
        KeyStoreError: no key there, or one that is not its owner's alone.
        CorruptArtifactError, MismatchError, StorageError: see `artifact.read`.
    """
    if isinstance(source, Path):
        if source.parent.is_dir():
            require_private(source.parent, source.parent.stat())
        return read(
            source,
            kind=Kind.SECRET_KEY,
            identity=identity,
            key_id=key_id,
            max_body=MAX_SECRET,
            check=require_private,
        )
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
    return unseal_secret(found, passphrase, str(source) if isinstance(source, Path) else "the secret key")


def unseal_secret(found: Artifact, passphrase: str | bytes | None, name: str) -> Secret:
    """The secret in a container that `read_secret` returned. Raises what `open_secret` does."""
    body = found.body
    if sealing.is_sealed(found.metadata):
        body = sealing.unseal(body, found.metadata, passphrase, found.identity + bytes.fromhex(found.key_id), name)
    return Secret(found.identity, found.key_id, body)


def require_private(path: Path, status: os.stat_result) -> None:
    """Whether a file or folder is this user's, and closed to everybody else.

    Raises:
        KeyStoreError: it is not; with the command that makes it so.
    """
    quoted = shlex.quote(str(path))
    if status.st_uid != os.geteuid():
        raise KeyStoreError(
            f"{path} belongs to another user (uid {status.st_uid}), who can read this secret; "
            f"if it is yours, run `chown {os.geteuid()} {quoted}`, else make keys of your own"
        )
    if status.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise KeyStoreError(f"others can open {path}, which holds a secret key; run `chmod {mode} {quoted}`")
