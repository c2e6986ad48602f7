"""One container of several ciphertexts: an input, a result or a checkpoint (docs/reference/formats.md has it in prose).

    offset  size  field of the body, little-endian
         0     4  n, the number of ciphertexts, 1 to `MAX_CIPHERTEXTS`
         4     4  zero
         8    8n  length of each
      8+8n        their bodies in order, then nothing

A tensor is in one or several ciphertexts. All of a request travel together: one checksum, one identity of the request.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import MAX_METADATA, Artifact, Kind
from fheinfer.crypto.params import ParameterSet, ciphertext_bytes, key_identity
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, UsageError
from fheinfer.storage import Buffer, read_small, shown

MAX_CIPHERTEXTS = 4096
"""Ciphertexts that one container may hold."""
BLOCK = "block.ct"
"""The checkpoint that a run goes on from, in the folder of its checkpoints."""
MAX_BLOCK = 512 << 20
"""Bytes of the values that are alive after an activation; where there are more, the run goes on from an earlier one."""
_COUNT = struct.Struct("<II")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Ciphertexts:
    """What a container of ciphertexts holds.

    metadata  a JSON object; docs/reference/formats.md says what is in it
    bodies    views of the container, one per ciphertext; the core reads and checks each
    """

    metadata: Mapping[str, Any]
    bodies: tuple[memoryview, ...]


def seal(
    params: ParameterSet, backend: str, key_id: str, metadata: Mapping[str, Any], bodies: Sequence[Buffer]
) -> Artifact:
    """The container of these ciphertexts of a set and a backend, under a key.

    Raises:
        UsageError: none, or more than `MAX_CIPHERTEXTS`.
    """
    if not 1 <= len(bodies) <= MAX_CIPHERTEXTS:
        raise UsageError(f"{len(bodies)} ciphertexts in one container, which holds 1 to {MAX_CIPHERTEXTS}")
    views = [memoryview(body).cast("B") for body in bodies]
    lengths = b"".join(_LENGTH.pack(len(view)) for view in views)
    body = b"".join((_COUNT.pack(len(views), 0), lengths, *views))
    return Artifact(Kind.CIPHERTEXT, key_identity(params, backend), key_id, metadata, body)


def open_ciphertexts(
    source: Buffer | Path,
    params: ParameterSet,
    backend: str,
    key_id: str,
    *,
    count: int | None = None,
    level: int | None = None,
) -> Ciphertexts:
    """The ciphertexts of these parameters and this backend under this key, from bytes or from a file.

    Args:
        count: how many there have to be; any number by default.
        level: the highest that they may have; any by default.

    Raises:
        InputError, CorruptArtifactError, MismatchError, StorageError: see `artifact.from_bytes` and `artifact.read`.
        CorruptArtifactError: lengths that do not make up the body, or ciphertexts of a higher level.
        MismatchError: another number of ciphertexts than `count`.
    """
    wanted: dict[str, Any] = {"kind": Kind.CIPHERTEXT, "identity": key_identity(params, backend), "key_id": key_id}
    wanted["max_body"] = body_bound(params, count, level)
    found = artifact.read(source, **wanted) if isinstance(source, Path) else artifact.from_bytes(source, **wanted)
    opened = Ciphertexts(found.metadata, split(found.body, params))
    if level is not None:
        check_level(opened, params, level)
    if count is not None:
        check_count(opened, count)
    return opened


def read_ciphertexts(path: Path, params: ParameterSet, count: int | None = None) -> bytes:
    """The container in a file, refused unread where it is larger than any of so many ciphertexts of the set.

    Raises:
        InputError: no such file.
        CorruptArtifactError: too large, or no regular file.
        StorageError: no permission, or the disk fails.
    """
    try:
        bound = body_bound(params, count) + artifact.HEADER_BYTES + MAX_METADATA
        return read_small(path, bound, "a ciphertext")
    except FileNotFoundError:
        raise InputError(f"{shown(path)}: no such file; check the path") from None


def body_bound(params: ParameterSet, count: int | None = None, level: int | None = None) -> int:
    """Bytes that the body of a container of so many ciphertexts of a set, at most at that level, can have."""
    most = MAX_CIPHERTEXTS if count is None else count
    each = ciphertext_bytes(params, params.top_level if level is None else level)
    return _COUNT.size + most * (_LENGTH.size + each)


def split(body: Buffer, params: ParameterSet) -> tuple[memoryview, ...]:
    """The bodies in the body of a container: views, whose lengths are checked before anything is read by them.

    Raises:
        CorruptArtifactError: a number or a length that cannot be, or lengths that do not make up the body.
    """
    view, most = memoryview(body).cast("B"), ciphertext_bytes(params, params.top_level)
    count, zero = _COUNT.unpack_from(view) if len(view) >= _COUNT.size else (0, 0)
    start = _COUNT.size + count * _LENGTH.size
    if not 1 <= count <= MAX_CIPHERTEXTS or zero or start > len(view):
        raise CorruptArtifactError("damaged: it does not say how many ciphertexts it holds; fetch or make it again")
    lengths = [_LENGTH.unpack_from(view, _COUNT.size + i * _LENGTH.size)[0] for i in range(count)]
    if any(not 0 < length <= most for length in lengths) or start + sum(lengths) != len(view):
        raise CorruptArtifactError(
            f"damaged: the lengths of its {count} ciphertexts do not make up its body; fetch or make it again"
        )
    bodies = []
    for length in lengths:
        bodies.append(view[start : start + length].toreadonly())
        start += length
    return tuple(bodies)


def check_count(found: Ciphertexts, count: int) -> None:
    """Asks whether there are as many ciphertexts as there have to be.

    Raises:
        MismatchError: there are more or fewer.
    """
    if len(found.bodies) != count:
        have = f"{len(found.bodies)} ciphertext" + "s" * (len(found.bodies) != 1)
        raise MismatchError(
            f"{have} where the plan has {count}; encrypt or evaluate again with the client.json and the plan that "
            "belong together"
        )


def check_level(found: Ciphertexts, params: ParameterSet, level: int) -> None:
    """Asks whether all ciphertexts have a level of at most `level`, by their lengths and the limbs that they say.

    Raises:
        CorruptArtifactError: one is higher.
    """
    bound = ciphertext_bytes(params, level)
    for body in found.bodies:
        if len(body) > bound:
            raise CorruptArtifactError(artifact.too_long(len(body), bound))
        # One with a seed in place of a polynomial is half as long: twice the limbs stay within the bound.
        limbs = int.from_bytes(body[:4], "little")
        if limbs > params.limbs(level):
            raise CorruptArtifactError(
                f"a ciphertext of {limbs} limbs where at most {params.limbs(level)} can be; fetch or make it again"
            )
