"""A passphrase on the secret key: Scrypt (RFC 7914) makes a key of it, AES-256-GCM seals the body under that key.

Parameters stand in the metadata of the file. They are bounded before any work is done: a hostile file cannot ask for
more than 256 MiB. A wrong passphrase and a damaged file look the same.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fheinfer.errors import CorruptArtifactError, InputError, KeyStoreError, UsageError
from fheinfer.storage import read_small, shown

VARIABLE = "FHEINFER_PASSPHRASE"
"""Environment variable that may hold the passphrase."""
MAX_PASSPHRASE = 4096
"""Bytes of a passphrase, and of a file that holds one."""

LOG2_N = 17
"""Cost of a new seal: 128 MiB and about half a second, once per use of the secret."""
_R, _P, _SALT, _NONCE = 8, 1, 16, 12
FIELD = "passphrase"
"""Field of the metadata that holds a seal; absent where there is none."""


class _Seal(BaseModel):
    """Parameters of a sealed body; 128 * r * 2^log2_n bytes of memory are bounded by the types."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kdf: Literal["scrypt"] = "scrypt"
    log2_n: Annotated[int, Field(ge=10, le=18)]
    r: Literal[8] = 8
    p: Annotated[int, Field(ge=1, le=4)]
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    cipher: Literal["aes-256-gcm"] = "aes-256-gcm"
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]


def is_sealed(metadata: Mapping[str, Any]) -> bool:
    """Whether a secret key with this metadata takes a passphrase."""
    return FIELD in metadata


def seal(body: bytes | memoryview, passphrase: str | bytes, bound: bytes) -> tuple[bytes, dict[str, Any]]:
    """The body under a passphrase, and the metadata that goes with it.

    Args:
        bound: what else the seal covers, so that it opens only where this is the same: identity and key id.

    Raises:
        UsageError: an empty passphrase, or one of more than `MAX_PASSPHRASE` bytes.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    parameters = _Seal(log2_n=LOG2_N, p=_P, salt=salt.hex(), nonce=nonce.hex())
    sealed = AESGCM(_key(parameters, _encoded(passphrase))).encrypt(nonce, body, bound)
    return sealed, {FIELD: parameters.model_dump(mode="json")}


def unseal(
    body: bytes | memoryview, metadata: Mapping[str, Any], passphrase: str | bytes | None, bound: bytes, name: str
) -> bytes:
    """The body that `seal` got; `name` is how errors call the file.

    Raises:
        KeyStoreError: no passphrase, or not the one it was sealed with (or the file was changed).
        CorruptArtifactError: parameters that no seal has.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        parameters = _Seal.model_validate(metadata[FIELD])
    except ValidationError:
        raise CorruptArtifactError(f"{name}: a seal that this program does not make; get the file again") from None
    if passphrase is None:
        raise KeyStoreError(f"{name} has a passphrase; give it with --passphrase-file, {VARIABLE} or at the prompt")
    try:
        return AESGCM(_key(parameters, _encoded(passphrase))).decrypt(bytes.fromhex(parameters.nonce), body, bound)
    except (InvalidTag, ValueError):
        raise KeyStoreError(f"the passphrase does not open {name}; try again, or get the file from a backup") from None


def read_passphrase(file: Path | None = None) -> bytes | None:
    """The passphrase from a file (its first line), else from the environment; None without any.

    Raises:
        InputError: a file that is missing, empty, too large, or no regular one.
        StorageError: a file that cannot be read.
        UsageError: an empty passphrase from elsewhere.
    """
    if file is not None:
        try:
            lines = read_small(file, MAX_PASSPHRASE, "a file with the passphrase").splitlines()
        except FileNotFoundError:
            raise InputError(f"{shown(file)}: no such file; put the passphrase on its first line") from None
        except CorruptArtifactError as error:
            raise InputError(str(error)) from None
        if not lines or not lines[0]:
            raise InputError(f"{shown(file)}: its first line is empty; put the passphrase there")
        return lines[0]
    return _encoded(os.fsencode(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def _encoded(passphrase: str | bytes) -> bytes:
    raw = passphrase.encode("utf-8", "surrogateescape") if isinstance(passphrase, str) else passphrase
    if not 1 <= len(raw) <= MAX_PASSPHRASE:
        raise UsageError(f"a passphrase has 1 to {MAX_PASSPHRASE} bytes; choose another one")
    return raw


def _key(parameters: _Seal, passphrase: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    salt = bytes.fromhex(parameters.salt)
    return Scrypt(salt, 32, 1 << parameters.log2_n, parameters.r, parameters.p).derive(passphrase)
