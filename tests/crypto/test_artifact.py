"""The container: everything written is read back, and nothing else is."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.errors import (
    ArtifactError,
    CorruptArtifactError,
    FheinferError,
    InputError,
    KeyStoreError,
    MismatchError,
    UsageError,
)

HASH, OTHER_HASH = b"\x11" * 32, b"\x22" * 32
KEY, OTHER_KEY = "ab" * 16, "cd" * 16
LIMIT = 1 << 12
HEADER = 104


def sample(kind: Kind = Kind.CIPHERTEXT, body: bytes = b"body", **metadata: Any) -> Artifact:
    return Artifact(kind, HASH, KEY, metadata, body)


def read_back(data: bytes) -> Artifact:
    return artifact.from_bytes(data, kind=Kind.CIPHERTEXT, identity=HASH, key_id=KEY, max_body=LIMIT)


def resealed(data: bytes) -> bytes:
    """`data` with the checksum made to fit, as an attacker would."""
    return data[:72] + hashlib.sha256(data[:72] + data[HEADER:]).digest() + data[HEADER:]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(Kind),
    st.binary(max_size=LIMIT),
    st.dictionaries(st.text(), json_values, max_size=3),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
)
def test_round_trip(kind: Kind, body: bytes, metadata: dict[str, Any], identity: bytes, key: bytes) -> None:
    written = Artifact(kind, identity, key.hex(), metadata, body)
    found = artifact.from_bytes(
        artifact.to_bytes(written), kind=kind, identity=identity, key_id=key.hex(), max_body=LIMIT
    )
    assert found == written
    assert bytes(found.body) == body


def test_layout_is_the_documented_one() -> None:
    data = artifact.to_bytes(sample(Kind.ROTATION_KEY, b"xyz", a=1))
    assert data[:8] == b"FHEINFER"
    assert data[8:24] == bytes([2, 0, 5, 0, 24, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0])
    assert data[24:72] == HASH + bytes.fromhex(KEY)
    assert data[HEADER:] == b'{"a":1}' + b" " * 17 + b"xyz"  # the body is at a multiple of 64
    assert resealed(data) == data


def test_the_body_is_a_read_only_view_without_a_copy() -> None:
    data = bytearray(artifact.to_bytes(sample()))
    body = read_back(data).body  # type: ignore[arg-type]
    data[-1] ^= 0xFF
    assert isinstance(body, memoryview)
    assert body.readonly
    assert body[-1] == data[-1]


@given(st.data())
def test_every_bit_flip_is_found(data: st.DataObject) -> None:
    good = bytearray(artifact.to_bytes(sample(layer="conv")))
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    good[bit // 8] ^= 1 << bit % 8
    # A flipped version cannot be told from a version of the future.
    expected = MismatchError if bit // 8 in (8, 9) else CorruptArtifactError
    with pytest.raises(expected):
        read_back(bytes(good))


def test_every_truncation_and_any_trailing_byte_is_found() -> None:
    good = artifact.to_bytes(sample(layer="conv"))
    for size in range(len(good)):
        with pytest.raises(CorruptArtifactError):
            read_back(good[:size])
    with pytest.raises(CorruptArtifactError):
        read_back(good + b"\0")


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_raise_only_typed_errors(data: bytes, with_magic: bool) -> None:
    data = b"FHEINFER\2\0" + data if with_magic else data
    for candidate in (data, resealed(data)) if len(data) >= HEADER else (data,):
        with pytest.raises(ArtifactError):
            read_back(candidate)


@example(2, 26)  # the spaces behind the metadata taken for the body's beginning
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_lengths_are_never_trusted(metadata: int, body: int) -> None:
    good = artifact.to_bytes(sample())
    lied = resealed(good[:12] + metadata.to_bytes(4, "little") + body.to_bytes(8, "little") + good[24:])
    if lied != good:
        with pytest.raises(CorruptArtifactError):
            read_back(lied)


@given(
    st.binary(max_size=40)
    | st.sampled_from(
        [
            b"",
            b"[]",
            b"1",
            b"null",
            b"{",
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b"\xff",
            b"[" * 60_000,
            b'{"a":' * 10_000,
            b'{"a":' + b"9" * 5000 + b"}",
            b"{}x",
            b"\xef\xbb\xbf{}",
        ]
    )
)
def test_metadata_that_is_no_json_object_is_found(metadata: bytes) -> None:
    good = artifact.to_bytes(sample())
    head = good[:12] + len(metadata).to_bytes(4, "little") + (0).to_bytes(8, "little") + good[24:HEADER]
    with suppress(CorruptArtifactError):
        assert isinstance(read_back(resealed(head + metadata)).metadata, dict)


def test_mismatches_say_which_and_what_to_do() -> None:
    data = artifact.to_bytes(sample())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kind": Kind.PUBLIC_KEY}, "a ciphertext, not a public key"),
        ({"identity": OTHER_HASH}, "another parameter set or backend .*fheinfer keygen"),
        ({"key_id": OTHER_KEY}, "another key .*use the keys"),
    ]
    for change, says in cases:
        with pytest.raises(MismatchError, match=says):
            artifact.from_bytes(data, **({"kind": Kind.CIPHERTEXT, "max_body": LIMIT} | change))
    for version, says in ((1, "version 1 .*fheinfer 0.1"), (3, "version 3 .*the fheinfer that wrote it")):
        with pytest.raises(MismatchError, match=says):
            read_back(resealed(data[:8] + version.to_bytes(2, "little") + data[10:]))
    with pytest.raises(MismatchError, match="unknown kind 99"):
        read_back(resealed(data[:10] + b"\x63\0" + data[12:]))


def test_too_large_is_corrupt_unless_it_is_of_another_set() -> None:
    data = artifact.to_bytes(sample(body=bytes(100)))
    with pytest.raises(CorruptArtifactError, match="at most 99"):
        artifact.from_bytes(data, kind=Kind.CIPHERTEXT, identity=HASH, max_body=99)
    with pytest.raises(MismatchError, match="another parameter set"):
        artifact.from_bytes(data, kind=Kind.CIPHERTEXT, identity=OTHER_HASH, max_body=99)


@pytest.mark.parametrize(
    "bad",
    [
        Artifact(Kind.CIPHERTEXT, b"short", KEY, {}, b""),
        Artifact(Kind.CIPHERTEXT, HASH, "ab", {}, b""),
        Artifact(Kind.CIPHERTEXT, HASH, KEY.upper(), {}, b""),
        Artifact(Kind.CIPHERTEXT, HASH, "x" * 32, {}, b""),
        Artifact(Kind.CIPHERTEXT, HASH, KEY, {"a": float("nan")}, b""),
        Artifact(Kind.CIPHERTEXT, HASH, KEY, {"a": object()}, b""),
        Artifact(Kind.CIPHERTEXT, HASH, KEY, {"a": "x" * 70_000}, b""),
    ],
)
def test_what_cannot_be_written_is_refused(bad: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        artifact.write(tmp_path / "file", bad)
    assert list(tmp_path.iterdir()) == []


def test_files_round_trip_with_modes(tmp_path: Path) -> None:
    for kind, mode in ((Kind.SECRET_KEY, 0o600), (Kind.CIPHERTEXT, 0o644)):
        path = tmp_path / kind.name
        checksum = artifact.write(path, sample(kind, layer="x"))
        found = artifact.read(path, kind=kind, identity=HASH, key_id=KEY, max_body=LIMIT)
        assert (found, found.checksum) == (sample(kind, layer="x"), checksum)
        assert stat.S_IMODE(path.stat().st_mode) == mode & ~_umask()
    path.unlink()
    assert bytes(found.body) == b"body"  # the mapping outlives the name


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    def read(path: Path, kind: Kind = Kind.CIPHERTEXT) -> None:
        artifact.read(path, kind=kind, identity=HASH, key_id=KEY, max_body=LIMIT)

    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").touch()
    (tmp_path / "junk").write_bytes(b"FHEINFER" + bytes(200))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
    artifact.write(tmp_path / "public", sample(Kind.PUBLIC_KEY))
    cases: dict[str, type[FheinferError]] = {
        ".": CorruptArtifactError,
        "fifo": CorruptArtifactError,
        "sock": CorruptArtifactError,
        "loop": InputError,
        "empty": CorruptArtifactError,
        "junk": MismatchError,
        "none": InputError,
        "public": MismatchError,
        "none/deeper": InputError,
        "x" * 300: InputError,
        "a\0b": InputError,
    }
    for name, expected in cases.items():
        with pytest.raises(expected, match="sock|fifo|junk|empty|public|none|loop|xxx|a.b|" + tmp_path.name):
            read(tmp_path / name)
    with pytest.raises(KeyStoreError):
        read(tmp_path / "none", Kind.PUBLIC_KEY)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    head = artifact.to_bytes(sample())[:HEADER]
    size = 1 << 40
    with path.open("wb") as file:
        file.write(head[:16] + (size - HEADER - 24).to_bytes(8, "little") + head[24:])
        file.truncate(size)
    with pytest.raises(CorruptArtifactError, match="at most 4096"):
        artifact.read(path, kind=Kind.CIPHERTEXT, identity=HASH, max_body=LIMIT)


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old
