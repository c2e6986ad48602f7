"""The container of every key and ciphertext that crosses a boundary (docs/formats.md has it in prose).

    offset  size  field, little-endian
         0     8  magic "FHEINFER"
         8     2  version, 1
        10     2  kind
        12     4  length of meta
        16     8  length of the payload
        24    32  hash of the parameter set
        56    16  key id
        72    32  SHA-256 of everything else: bytes 0 to 72, then meta and payload
       104        meta (a JSON object, UTF-8), then the payload, then nothing

The checksum finds damage, not malice: who can write the file can also write its checksum.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from fheinfer.crypto.params import ParameterSet, ciphertext_bound
from fheinfer.storage import Buffer, atomic_write, open_regular, write_json
from fheinfer.errors import CorruptArtifactError, InputError, KeyStoreError, MismatchError, StorageError, UsageError

__all__ = [
    "VERSION", "Artifact", "Kind", "atomic_write", "from_bytes", "open_ciphertext", "read", "to_bytes", "write",
    "write_json",
]

VERSION = 1
ALIGNMENT = 64
"""Payloads are written at a multiple of so many bytes: those of keys are used where they stand in the mapped file."""
MAX_META = 64 * 1024
"""Bytes of JSON a container may carry."""

_HEADER = struct.Struct("<8sHHIQ32s16s32s")
_MAGIC = b"FHEINFER"
_CHECKSUM = hashlib.sha256().digest_size
_CHECKED = _HEADER.size - _CHECKSUM  # bytes of the header under the checksum


class Kind(IntEnum):
    SECRET_KEY = 1
    PUBLIC_KEY = 2
    RELINEARISATION_KEY = 3
    CONJUGATION_KEY = 4
    ROTATION_KEY = 5
    ENCAPSULATION_TO_SPARSE = 6
    ENCAPSULATION_TO_DENSE = 7
    CIPHERTEXT = 8

    @property
    def title(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Artifact:
    """One key or ciphertext: what it is, which parameter set (32 bytes) and key (32 hex digits) it is of, its bytes."""

    kind: Kind
    params_hash: bytes
    key_id: str
    meta: Mapping[str, Any]
    payload: bytes | memoryview
    checksum: bytes = field(default=b"", compare=False)
    """As read; empty on an artifact that was not read."""


def to_bytes(artifact: Artifact) -> bytes:
    """The container as one string.

    Raises:
        UsageError: a hash, key id or meta that the container cannot hold.
    """
    return b"".join(_chunks(artifact))


def write(path: Path, artifact: Artifact, *, mode: int | None = None) -> bytes:
    """Writes the container atomically and returns its checksum; `mode` is 0600 for a secret key, otherwise 0644.

    Raises:
        StorageError: see `storage.atomic_write`.
        UsageError: see `to_bytes`.
    """
    if mode is None:
        mode = 0o600 if artifact.kind is Kind.SECRET_KEY else 0o644
    head, meta, payload = _chunks(artifact)
    atomic_write(path, (head, meta, payload), mode)
    return bytes(head[_CHECKED:])


def from_bytes(data: Buffer, *, kind: Kind, params_hash: bytes | None = None, key_id: str | None = None,
               max_payload: int) -> Artifact:
    """The artifact in `data`; its payload is a view of `data`, not a copy.

    Raises:
        CorruptArtifactError: not of this format, damaged, incomplete, followed by more, or over `max_payload` bytes.
        MismatchError: intact, but of another version, kind, parameter set or key than asked for.
    """
    view = memoryview(data).cast("B")
    wanted = _Wanted(kind, params_hash, key_id, max_payload)
    header = _Header.parse(bytes(view[:_HEADER.size]), len(view), wanted)
    digest = hashlib.sha256(view[:_CHECKED])
    digest.update(view[_HEADER.size:])
    if digest.digest() != header.checksum:
        raise CorruptArtifactError("the checksum does not match: the file is damaged; fetch or make it again")
    wanted.check(header)
    start = _HEADER.size + header.meta_size
    return Artifact(kind, header.params_hash, header.key_id, _parse_meta(bytes(view[_HEADER.size:start])),
                    view[start:].toreadonly(), header.checksum)


def read(path: Path, *, kind: Kind, params_hash: bytes | None = None, key_id: str | None = None,
         max_payload: int) -> Artifact:
    """The artifact in the file `path`, mapped into memory: its pages are read when used, and leave with the payload.

    Raises:
        InputError, KeyStoreError: no such ciphertext; no such key, or a secret key that others can read.
        CorruptArtifactError, MismatchError: see `from_bytes`; also anything but a regular file.
        StorageError: no permission, or the disk fails.
    """
    try:
        fd, status = open_regular(path)
    except FileNotFoundError:
        missing = InputError if kind is Kind.CIPHERTEXT else KeyStoreError
        raise missing(f"{path}: no such {kind.title}; check the path or make it first") from None
    try:
        if kind is Kind.SECRET_KEY and status.st_mode & 0o077:
            raise KeyStoreError(f"others can read the secret key {path}; run `chmod 600 {path}`")
        # Lengths are checked before the file is mapped.
        _Header.parse(os.pread(fd, _HEADER.size, 0), status.st_size, _Wanted(kind, params_hash, key_id, max_payload))
        mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        return from_bytes(memoryview(mapped), kind=kind, params_hash=params_hash, key_id=key_id,
                          max_payload=max_payload)
    except (CorruptArtifactError, MismatchError) as error:
        raise type(error)(f"{path}: {error}") from None
    except (OSError, ValueError) as error:  # mmap: ValueError for a file emptied meanwhile
        raise StorageError(f"cannot read {path}: {error}") from error
    finally:
        os.close(fd)


def open_ciphertext(source: Buffer | Path, params: ParameterSet, key_id: str) -> Artifact:
    """A ciphertext of this set under this key, from bytes or from a file.

    Raises:
        InputError, CorruptArtifactError, MismatchError, StorageError: see `from_bytes` and `read`.
    """
    bound = ciphertext_bound(params)
    if isinstance(source, Path):
        return read(source, kind=Kind.CIPHERTEXT, params_hash=params.identity, key_id=key_id, max_payload=bound)
    return from_bytes(source, kind=Kind.CIPHERTEXT, params_hash=params.identity, key_id=key_id, max_payload=bound)


@dataclass(frozen=True)
class _Header:
    kind: int
    meta_size: int
    payload_size: int
    params_hash: bytes
    key_id: str
    checksum: bytes

    @classmethod
    def parse(cls, head: bytes, size: int, wanted: _Wanted) -> _Header:
        """Checks all that can be checked on the header of a container of `size` bytes alone."""
        if not head.startswith(_MAGIC):
            raise CorruptArtifactError("not a key or ciphertext of fheinfer")
        if len(head) < _HEADER.size:
            raise CorruptArtifactError("incomplete: it ends before its header does")
        _, version, kind, meta_size, payload_size, params_hash, key_id, checksum = _HEADER.unpack(head)
        if version != VERSION:
            raise MismatchError(f"written in version {version} of the format and this program reads {VERSION}; "
                                "use the fheinfer that wrote it, or make it again")
        expected = _HEADER.size + meta_size + payload_size
        if meta_size > MAX_META or size != expected:
            raise CorruptArtifactError(f"{'incomplete' if size < expected else 'damaged'}: {size} bytes, "
                                       f"its header says {expected}; fetch or make it again")
        header = cls(kind, meta_size, payload_size, params_hash, key_id.hex(), checksum)
        if payload_size > wanted.max_payload:
            wanted.check(header)  # of a larger set, then that is what is wrong with it
            raise CorruptArtifactError(f"{payload_size} bytes of payload where at most {wanted.max_payload} can be")
        return header


@dataclass(frozen=True)
class _Wanted:
    kind: Kind
    params_hash: bytes | None
    key_id: str | None
    max_payload: int

    def check(self, header: _Header) -> None:
        if header.kind != self.kind:
            try:
                found = f"a {Kind(header.kind).title}"
            except ValueError:
                found = f"of unknown kind {header.kind}"
            raise MismatchError(f"{found}, not a {self.kind.title}; check which file you name")
        if self.params_hash is not None and header.params_hash != self.params_hash:
            raise MismatchError(f"of another parameter set ({header.params_hash.hex()[:8]}, "
                                f"not {self.params_hash.hex()[:8]}); choose the set it is of with --set, "
                                "or make keys of this one with `fheinfer keygen --set ...`")
        if self.key_id is not None and header.key_id != self.key_id:
            raise MismatchError(f"of another key ({header.key_id[:8]}, not {self.key_id[:8]}); "
                                "use the keys it was made with, or encrypt again")


def _chunks(artifact: Artifact) -> tuple[bytes, bytes, bytes | memoryview]:
    try:
        meta = json.dumps(dict(artifact.meta), separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        meta += b" " * (-(_HEADER.size + len(meta)) % ALIGNMENT)
        key_id = bytes.fromhex(artifact.key_id)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a container cannot hold this: {error}") from None
    if len(meta) > MAX_META or len(artifact.params_hash) != 32 or len(key_id) != 16 or key_id.hex() != artifact.key_id:
        raise UsageError(f"a container holds up to {MAX_META} bytes of meta, a hash of 32 bytes, a key id of 32 digits")
    payload = memoryview(artifact.payload).cast("B")
    head = _HEADER.pack(_MAGIC, VERSION, artifact.kind, len(meta), len(payload), artifact.params_hash, key_id,
                        bytes(_CHECKSUM))[:_CHECKED]
    digest = hashlib.sha256(head)
    digest.update(meta)
    digest.update(payload)
    return head + digest.digest(), meta, payload


def _parse_meta(raw: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        meta = json.loads(raw, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise CorruptArtifactError("its meta is not JSON") from None
    if not isinstance(meta, dict):
        raise CorruptArtifactError("its meta is not a JSON object")
    return meta
