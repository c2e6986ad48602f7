"""A stream of hostile requests, the same one for the same seed."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import HEADER_BYTES, MAX_METADATA, Artifact, Kind
from fheinfer.service.protocol import CHUNK_BYTES
from tests.service.hostile.asking import Header, Request, request

OTHER_IDS = ("0123456789abcdef" * 2, "f" * 32)
"""Key ids that nobody has; few, so that what is accepted under them has an end."""
PATHS = (
    "../../signing.key",
    "/etc/passwd",
    "..",
    "a/b.key",
    "public.key\0",
    "public.key\n",
    "PUBLIC.KEY",
    "x" * 300,
    "é.key",
)
HUGE = (-1, 0, 1 << 31, 1 << 32, 1 << 47, (1 << 48) - 1, 1 << 48, 1 << 63, 1 << 64, 10**400)
ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    [],
    {},
    0,
    -1,
    1e308,
    float("inf"),
    float("nan"),
    "\ud800",
    "é" * 99,
    [[]],
    *HUGE[2:],
)
DEEP = b"[" * 100_000
PARTS = (1, 7, 64, 4096, 1 << 20)


@dataclass(frozen=True)
class Target:
    """What an attacker knows of a service: an account of his own, which has keys, an input and its result.

    manifest    manifest.json of the keys, whose files are in `files`
    encrypted   an input that was submitted under `plan`; `foreign` is one under other keys
    """

    token: str
    plan: str
    key_id: str
    manifest: bytes
    files: dict[str, bytes]
    encrypted: bytes
    result: bytes
    foreign: bytes

    @property
    def jobs(self) -> str:
        return f"/v1/jobs?plan={self.plan}&key={self.key_id}"


def attacks(target: Target, seed: int, count: int) -> Iterator[tuple[str, Request]]:
    """The name of an attack and its request, `count` times."""
    rng, makers = random.Random(seed), (_input, _input, _manifest, _manifest, _chunk, _chunk, _framing, _elsewhere)
    for make in rng.choices(makers, k=count):
        yield make.__name__.strip("_"), make(rng, target)


def reseal(data: bytes, **changes: Any) -> bytes:
    """The same container with other fields, and the checksum that belongs to them: malice, not damage."""
    fields: dict[str, Any] = {"kind": Kind.CIPHERTEXT, "max_body": len(data)}
    found = artifact.from_bytes(data, **fields)
    made = {name: getattr(found, name) for name in ("kind", "identity", "key_id", "metadata", "body")} | changes
    return artifact.to_bytes(Artifact(**made))


def raw_metadata(data: bytes, raw: bytes) -> bytes:
    """A container whose metadata are these bytes, padded, under a right checksum."""
    raw += b" " * (-(HEADER_BYTES + len(raw)) % artifact.ALIGNMENT)
    (size,) = struct.unpack_from("<I", data, 12)
    head = data[:12] + struct.pack("<I", len(raw)) + data[16:72]
    body = data[HEADER_BYTES + size :]
    return head + hashlib.sha256(head + raw + body).digest() + raw + body


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Truncated, extended, with bits flipped, with another header, or something else altogether."""
    cut = rng.randrange(len(data))
    word = struct.pack("<Q", rng.choice(HUGE[1:-2]) & ((1 << 64) - 1))
    at = rng.choice((0, 8, 10, 12, 16, 24, 56, 72, rng.randrange(HEADER_BYTES)))
    return rng.choice(
        (
            lambda: data[:cut],
            lambda: data[: rng.choice((0, 1, 8, HEADER_BYTES - 1, HEADER_BYTES))],
            lambda: data + rng.randbytes(rng.choice(PARTS)),
            lambda: data[:cut] + bytes([data[cut] ^ 1 << rng.randrange(8)]) + data[cut + 1 :],
            lambda: data[:at] + word[: rng.choice((2, 4, 8))] + data[at + 8 :],
            lambda: data[:at] + bytes(8) + data[at + 8 :],
            lambda: rng.randbytes(rng.choice(PARTS)),
            lambda: bytes(rng.choice(PARTS)),
            lambda: DEEP,
            lambda: b"\xff\xfe" + data[:100].hex().encode("utf-16"),
            lambda: data * 2,
        )
    )()


def _input(rng: random.Random, target: Target) -> Request:
    """Something in place of an input: damaged, of another kind, key, plan or set; or the same one again."""
    real = target.encrypted
    lies: dict[str, Any] = {"role": "input", "plan": target.plan}
    sent = rng.choice(
        (
            lambda: _damaged(rng, real),
            lambda: _damaged(rng, real),
            lambda: real,
            lambda: target.result,
            lambda: target.foreign,
            lambda: target.manifest,
            lambda: rng.choice(list(target.files.values())),
            lambda: reseal(
                real, metadata=lies | {"role": rng.choice(("result", "checkpoint", "layer", 1, None, ["input"]))}
            ),
            lambda: reseal(real, metadata=lies | {"plan": rng.choice(("0" * 64, "../plans", None, {"a": 1}))}),
            lambda: reseal(real, identity=rng.randbytes(32)),
            lambda: reseal(real, key_id=rng.choice(OTHER_IDS)),
            lambda: reseal(real, kind=rng.choice([kind for kind in Kind if kind != Kind.CIPHERTEXT])),
            lambda: reseal(real, body=_bodies(rng, real)),
            lambda: raw_metadata(real, _text(rng)),
        )
    )()
    where = rng.choice((target.jobs, target.jobs, target.jobs, *_queries(rng, target)))
    return request("POST", where, sent, token=target.token)


def _bodies(rng: random.Random, real: bytes) -> bytes:
    """Numbers and lengths of ciphertexts that do not make up a body."""
    count = rng.choice((0, 1, 2, 4096, 4097, (1 << 32) - 1))
    lengths = [rng.choice(HUGE[1:-2]) & ((1 << 64) - 1) for _ in range(min(count, 5))]
    return struct.pack("<II", count, rng.choice((0, 0, 1))) + struct.pack(f"<{len(lengths)}Q", *lengths) + real[200:400]


def _text(rng: random.Random) -> bytes:
    """Text that is no JSON, or none that anybody expects; at most as long as metadata may be."""
    return rng.choice(
        (
            b"[" * 30_000,
            b'{"a":' * 10_000,
            b"{" + b'"role": "input", ' * 100 + b'"plan": 0}',
            b'{"role": ' + b"9" * 60_000 + b"}",
            b'{"role": NaN, "plan": Infinity}',
            b'{"role": "\\ud800", "plan": "\\udfff"}',
            b"\xff\xfe\x00{}",
            b"\xef\xbb\xbf{}",
            b"null",
            b" " * (MAX_METADATA - 200),
            rng.randbytes(500),
        )
    )


def _queries(rng: random.Random, target: Target) -> tuple[str, ...]:
    plan, key = f"plan={target.plan}", f"key={target.key_id}"
    other = rng.choice(OTHER_IDS)
    return (
        f"/v1/jobs?{plan}",
        f"/v1/jobs?{key}",
        f"/v1/jobs?plan={'0' * 64}&{key}",
        f"/v1/jobs?{plan}&key={other}",
        f"/v1/jobs?{plan}&{key}&key={other}",
        f"/v1/jobs?{plan}&key[]={target.key_id}",
        f"/v1/jobs?{plan}&key={target.key_id.upper()}",
        f"/v1/jobs?{plan}&key=..%2F..%2F{target.key_id}",
        f"/v1/jobs?{plan}&{key}%00",
    )


def _manifest(rng: random.Random, target: Target) -> Request:
    """Something in place of a manifest: damaged JSON, odd values anywhere, paths, thousands of files, huge sizes."""
    fields = json.loads(target.manifest)
    key_id = rng.choice((target.key_id, *OTHER_IDS))
    if rng.random() < 0.8:
        fields["key_id"] = key_id
    entry = {"bytes": rng.choice(HUGE), "sha256": "0" * 64}
    kind = rng.randrange(8)
    if kind == 0:
        _spoil(rng, fields)
    elif kind == 1:
        fields["files"][rng.choice(PATHS)] = entry
    elif kind == 2:
        fields["files"][rng.choice(sorted(fields["files"]))] = entry
    elif kind == 3:
        many = {f"rotation_{i}_4.key": entry for i in range(rng.choice((1000, 1000, 1000, 6000)))}
        fields["files"] |= many
        fields["rotations"] = sorted([*fields["rotations"], *([i, 4] for i in range(len(many)))])
    elif kind == 4:
        fields["plans"] = [{"plan": "0" * 64, "model": "é" * 200}] * rng.choice((0, 1000, 1001))
    raw = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if kind == 5:  # the same name twice
        raw = raw.replace(b'"files": {', b'"files": {"public.key": {"bytes": 1, "sha256": "' + b"0" * 64 + b'"}, ')
    elif kind == 6:
        raw = _damaged(rng, raw)
    elif kind == 7:
        raw = rng.choice(
            (
                _text(rng),
                DEEP,
                b'{"files":' * 20_000,
                b" " * (1 << 20),
                raw.ljust((1 << 20) + 1),
                raw.decode().encode("utf-16"),
            )
        )
    return request("PUT", f"/v1/keys/{key_id}", raw, token=target.token)


def _spoil(rng: random.Random, fields: Any) -> None:
    """Puts an odd value somewhere into a tree of JSON, or takes one away."""
    while True:
        keys = list(fields) if isinstance(fields, dict) else range(len(fields))
        key = rng.choice(keys)
        if isinstance(fields[key], dict | list) and fields[key] and rng.random() < 0.7:
            fields = fields[key]
            continue
        if rng.random() < 0.2:
            del fields[key]
        else:
            fields[key] = rng.choice(ODD)
        return


def _chunk(rng: random.Random, target: Target) -> Request:
    """Bytes of a key at a place where they do not belong."""
    name = rng.choice(sorted(target.files))
    data = target.files[rng.choice((name, rng.choice(sorted(target.files))))]
    size = rng.choice((0, 1, 1000, len(data) - 1, len(data), len(data) + 1))
    sent = (data * 2)[:size] if rng.random() < 0.5 else _damaged(rng, data)
    if rng.random() < 0.01:
        sent = bytes(CHUNK_BYTES + rng.choice((0, 1)))
    offset = rng.choice(
        (
            "0",
            "1",
            str(len(data)),
            str(len(data) - size),
            "-1",
            "1e3",
            "0x1",
            "٣",
            "1" * 30,
            str(1 << 47),
            "",
            "0&offset=1",
        )
    )
    named = rng.choice(
        (
            name,
            name,
            "public.key",
            "secret.key",
            "manifest.json",
            "public.key.part",
            "rotation_999999_999.key",
            "..%2Fpublic.key",
        )
    )
    key_id = rng.choice((target.key_id, *OTHER_IDS))
    return request("PUT", f"/v1/keys/{key_id}/files/{named}?offset={offset}", sent, token=target.token)


def _framing(rng: random.Random, target: Target) -> Request:
    """Lengths that lie, bodies that break off, drip, or have no end."""
    method, where = rng.choice(
        (
            ("POST", target.jobs),
            ("PUT", f"/v1/keys/{target.key_id}"),
            ("PUT", f"/v1/keys/{rng.choice(OTHER_IDS)}"),
            ("PUT", f"/v1/keys/{target.key_id}/files/public.key"),
        )
    )
    token: Header = ("authorization", f"Bearer {target.token}")
    data = rng.choice((target.encrypted, target.manifest))
    size = len(data)
    pieces = tuple(data[i : i + 997] for i in range(0, size, 997)) if rng.random() < 0.3 else (data,)
    lengths: tuple[Header, ...] = rng.choice(
        (
            (),
            (("transfer-encoding", "chunked"),),
            (("transfer-encoding", "chunked"), ("content-length", str(size))),
            (("content-length", str(size - rng.randrange(1, 100))),),
            (("content-length", str(size + rng.randrange(1, 100))),),
            (("content-length", "0"),),
            (("content-length", str(rng.choice(HUGE))),),
            (("content-length", rng.choice(("-0", "+1", " 1", "1,1", "0x10", "1e3", "٣", "", "1" * 5000))),),
            (("content-length", str(size)), ("content-length", str(size + 1))),
            (("content-length", str(size)), ("content-encoding", "gzip")),
            (("content-length", str(size)), ("content-type", "multipart/form-data; boundary=x")),
        )
    )
    return Request(method, where, (token, *lengths), pieces, gone=rng.random() < 0.3)


def _elsewhere(rng: random.Random, target: Target) -> Request:
    """Requests without a body of ours: methods, paths, headers and tokens that nobody sends."""
    method = rng.choice(("GET", "GET", "HEAD", "OPTIONS", "PATCH", "DELETE", "TRACE", "BREW", "CONNECT", "X" * 300))
    name = rng.choice((*OTHER_IDS, "..", "%2e%2e", "%00", "%ff", "a" * 5000, "%E2%80%AE", "'", "*", "{key_id}"))
    place = rng.choice(
        (
            "/v1/models/{}",
            f"/v1/plans/{target.plan}/client.json",
            "/v1/plans/{}/client.safetensors",
            "/v1/keys/{}",
            f"/v1/keys/{target.key_id}/files/{{}}",
            "/v1/jobs/{}",
            "/v1/jobs/{}/events",
            "/v1/jobs/{}/result",
            "/docs/{}",
            "/{}",
            "/metrics",
            "/v1/jobs",
        )
    )
    header: Header = rng.choice(
        (
            ("range", "bytes=" + ",".join(f"{i}-{i}" for i in range(rng.choice((1, 50, 5000))))),
            ("range", rng.choice(("bytes=", "bytes=a-b", "bytes=5-1", "bytes=-0", f"bytes={1 << 70}-", "lines=1-2"))),
            ("if-range", "x" * 5000),
            ("accept", "\x00"),
            ("x-forwarded-for", "1.2.3.4, " * 500),
            ("host", "evil.example"),
            ("content-length", "10"),
            ("cookie", "=" * 5000),
            ("last-event-id", "\xff\xfe"),
        )
    )
    wrong = rng.choice(("", "fi_", "fi_" + "A" * 43, target.token[:-1], target.token + "\n", "\xff" * 46, "A" * 9000))
    token = target.token if rng.random() < 0.7 else wrong
    scheme = rng.choice(("Bearer", "Bearer", "Bearer", "bearer", "Basic", "Token", ""))
    return Request(method, place.format(name), (("authorization", f"{scheme} {token}"), header))
