"""The container of every key and ciphertext that crosses a boundary (docs/reference/formats.md has it in prose).

    offset  size  field, little-endian
         0     8  magic "FHEINFER"
         8     2  version, 2
        10     2  kind
        12     4  length of the metadata
        16     8  length of the body
        24    32  identity of parameter set and backend (`params.key_identity`)
        56    16  key id
        72    32  SHA-256 of everything else: bytes 0 to 72, then metadata and body
       104        metadata (a JSON object, UTF-8), then the body, then nothing

The checksum finds damage, not malice: who can write the file can also write its checksum.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from fheinfer.crypto.verified import VerifiedFiles, same_file
from fheinfer.errors import CorruptArtifactError, InputError, KeyStoreError, MismatchError, StorageError, UsageError
from fheinfer.storage import Buffer, atomic_write, open_regular, shown

VERSION = 2
ALIGNMENT = 64
"""Bodies are written at a multiple of so many bytes: those of keys are used where they stand in the mapped file."""
MAX_METADATA = 64 * 1024
"""Bytes of JSON a container may carry."""

_HEADER = struct.Struct("<8sHHIQ32s16s32s")
_MAGIC = b"FHEINFER"
_CHECKSUM = hashlib.sha256().digest_size
HEADER_BYTES = _HEADER.size
"""Bytes before the metadata."""
_KEY_ID = slice(56, 72)
_CHECKED = _HEADER.size - _CHECKSUM  # bytes of the header under the checksum


_RETIRED = {8: "a single ciphertext, as fheinfer 0.2 wrote it; encrypt and evaluate again"}
"""Kinds that were written once, and what is said of them."""


class Kind(IntEnum):
    """What a container holds."""

    SECRET_KEY = 1
    PUBLIC_KEY = 2
    RELINEARISATION_KEY = 3
    CONJUGATION_KEY = 4
    ROTATION_KEY = 5
    ENCAPSULATION_TO_SPARSE = 6
    ENCAPSULATION_TO_DENSE = 7
    CIPHERTEXT = 9

    @property
    def title(self) -> str:
        """The kind in words."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Artifact:
    """One key or ciphertext.

    kind      what it is
    identity  of parameter set and backend, 32 bytes (`params.key_identity`)
    key_id    of the keys it belongs to, 32 hexadecimal digits
    metadata  a JSON object; docs/reference/formats.md says what is in it
    body      its bytes
    checksum  as read; empty on an artifact that was not read
    """

    kind: Kind
    identity: bytes
    key_id: str
    metadata: Mapping[str, Any]
    body: bytes | memoryview
    checksum: bytes = field(default=b"", compare=False)


def request_id(container: Buffer) -> str:
    """What a result names the encrypted input by that it answers: the SHA-256 (hex) of the input's container."""
    return hashlib.sha256(container).hexdigest()


def key_id_of(container: Buffer) -> str:
    """The key id that the header of a container says, unchecked: for one that this program made."""
    return bytes(memoryview(container).cast("B")[_KEY_ID]).hex()


def to_bytes(artifact: Artifact) -> bytes:
    """The container as one string.

    Raises:
        UsageError: an identity, key id or metadata that the container cannot hold.
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
    head, metadata, body = _chunks(artifact)
    atomic_write(path, (head, metadata, body), mode)
    return bytes(head[_CHECKED:])


def from_bytes(
    data: Buffer, *, kind: Kind, identity: bytes | None = None, key_id: str | None = None, max_body: int
) -> Artifact:
    """The artifact in `data`; its body is a view of `data`, not a copy.

    Raises:
        CorruptArtifactError: not of this format, damaged, incomplete, followed by more, or over `max_body` bytes.
        MismatchError: intact, but of another version, kind, parameter set or key than asked for.
    """
    return _parse(memoryview(data).cast("B"), _Wanted(kind, identity, key_id, max_body), lambda checksum: False)


def read(
    path: Path,
    *,
    kind: Kind,
    identity: bytes | None = None,
    key_id: str | None = None,
    max_body: int,
    verified: VerifiedFiles | None = None,
) -> Artifact:
    """The artifact in the file `path`, mapped into memory: its pages are read when used, and leave with the body.

    Args:
        verified: spares the checksum of a file that it knows, and is told of others that are right.

    Raises:
        InputError, KeyStoreError: no such ciphertext; no such key.
        CorruptArtifactError, MismatchError: see `from_bytes`; also anything but a regular file.
        StorageError: no permission, or the disk fails.
    """
    wanted = _Wanted(kind, identity, key_id, max_body)
    try:
        fd, status = open_regular(path, f"a {kind.title}")
    except FileNotFoundError:
        missing = InputError if kind is Kind.CIPHERTEXT else KeyStoreError
        raise missing(f"{shown(path)}: no such {kind.title}; check the path or make it first") from None
    try:
        # Lengths are checked before the file is mapped.
        _Header.parse(os.pread(fd, _HEADER.size, 0), status.st_size, wanted)
        mapped = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        found = _parse(mapped, wanted, lambda sum_: verified is not None and verified.knows(status, sum_))
        if verified is not None and same_file(status, os.fstat(fd)):
            verified.remember(status, found.checksum)
        return found
    except (CorruptArtifactError, MismatchError) as error:
        raise type(error)(f"{shown(path)}: {error}") from None
    except (OSError, ValueError) as error:  # mmap: ValueError for a file emptied meanwhile
        raise StorageError(f"cannot read {shown(path)}: {error}") from error
    finally:
        os.close(fd)


def too_long(size: int, bound: int) -> str:
    """What is said of a body of more bytes than can be."""
    return f"{size} bytes of body where at most {bound} can be; fetch or make it again"


@dataclass(frozen=True)
class _Header:
    kind: int
    metadata_size: int
    body_size: int
    identity: bytes
    key_id: str
    checksum: bytes

    @classmethod
    def parse(cls, head: bytes, size: int, wanted: _Wanted) -> _Header:
        """Checks all that can be checked on the header of a container of `size` bytes alone."""
        if not head.startswith(_MAGIC[: len(head)]):
            raise CorruptArtifactError("not a key or ciphertext of fheinfer; check which file you name")
        if len(head) < _HEADER.size:
            state = "incomplete: it ends before its header does" if head else "an empty file"
            raise CorruptArtifactError(f"{state}; fetch or make it again")
        _, version, kind, metadata_size, body_size, identity, key_id, checksum = _HEADER.unpack(head)
        if version != VERSION:
            writer = "fheinfer 0.1" if version == 1 else "the fheinfer"
            raise MismatchError(
                f"written in version {version} of the format and this program reads {VERSION}; make it again, "
                f"or use {writer} that wrote it"
            )
        expected = _HEADER.size + metadata_size + body_size
        if metadata_size > MAX_METADATA or size != expected:
            state = "incomplete" if size < expected else "damaged"
            raise CorruptArtifactError(f"{state}: {size} bytes, its header says {expected}; fetch or make it again")
        if (_HEADER.size + metadata_size) % ALIGNMENT:
            raise CorruptArtifactError(f"damaged: its body does not begin at a multiple of {ALIGNMENT} bytes")
        header = cls(kind, metadata_size, body_size, identity, key_id.hex(), checksum)
        if body_size > wanted.max_body:
            wanted.check(header)  # of a larger set, then that is what is wrong with it
            raise CorruptArtifactError(too_long(body_size, wanted.max_body))
        return header


@dataclass(frozen=True)
class _Wanted:
    kind: Kind
    identity: bytes | None
    key_id: str | None
    max_body: int

    def check(self, header: _Header) -> None:
        if header.kind != self.kind:
            if header.kind in _RETIRED:
                raise MismatchError(_RETIRED[header.kind])
            try:
                found = f"a {Kind(header.kind).title}"
            except ValueError:
                found = f"of unknown kind {header.kind}"
            raise MismatchError(f"{found}, not a {self.kind.title}; check which file you name")
        if self.identity is not None and header.identity != self.identity:
            raise MismatchError(
                f"of another parameter set or backend ({header.identity.hex()[:8]}, not {self.identity.hex()[:8]}); "
                "name the client.json and the keys it was made with, or make keys for this plan with `fheinfer keygen`"
            )
        if self.key_id is not None and header.key_id != self.key_id:
            raise MismatchError(
                f"of another key ({header.key_id[:8]}, not {self.key_id[:8]}); use the keys it was made with, "
                "or encrypt again"
            )


def _parse(view: memoryview, wanted: _Wanted, known: Callable[[bytes], bool]) -> Artifact:
    header = _Header.parse(bytes(view[: _HEADER.size]), len(view), wanted)
    if not known(header.checksum):
        digest = hashlib.sha256(view[:_CHECKED])
        digest.update(view[_HEADER.size :])  # gives up the interpreter's lock: several files are checked at once
        if digest.digest() != header.checksum:
            raise CorruptArtifactError("the checksum does not match: the file is damaged; fetch or make it again")
    wanted.check(header)
    start = _HEADER.size + header.metadata_size
    metadata = _parse_metadata(bytes(view[_HEADER.size : start]))
    return Artifact(wanted.kind, header.identity, header.key_id, metadata, view[start:].toreadonly(), header.checksum)


def _chunks(artifact: Artifact) -> tuple[bytes, bytes, bytes | memoryview]:
    try:
        metadata = json.dumps(dict(artifact.metadata), separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        metadata += b" " * (-(_HEADER.size + len(metadata)) % ALIGNMENT)
        key_id = bytes.fromhex(artifact.key_id)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"a container cannot hold this: {error}") from None
    if (
        len(metadata) > MAX_METADATA
        or len(artifact.identity) != 32
        or len(key_id) != 16
        or key_id.hex() != artifact.key_id
    ):
        raise UsageError(
            f"a container holds up to {MAX_METADATA} bytes of metadata, an identity of 32 bytes, a key id of 32 digits"
        )
    body = memoryview(artifact.body).cast("B")
    fields = (VERSION, artifact.kind, len(metadata), len(body), artifact.identity, key_id, bytes(_CHECKSUM))
    head = _HEADER.pack(_MAGIC, *fields)[:_CHECKED]
    digest = hashlib.sha256(head)
    digest.update(metadata)
    digest.update(body)
    return head + digest.digest(), metadata, body


def _parse_metadata(raw: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        metadata = json.loads(raw, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise CorruptArtifactError("its metadata is not JSON") from None
    if not isinstance(metadata, dict):
        raise CorruptArtifactError("its metadata is not a JSON object")
    return metadata
