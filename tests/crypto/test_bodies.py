"""Every reader of serial.h against hostile bytes: CorruptArtifactError, and never a crash or a wrong object.

Bodies come behind a checksum, but who can write a file can write its checksum too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer.errors import CorruptArtifactError

TAG = "ab" * 16
N = 64


@dataclass(frozen=True)
class Reader:
    body: bytes
    read: Callable[[Any], Any]
    counts: int  # u32 counts at the front
    primes: tuple[int, ...]  # of the limbs, in file order
    gap: int = 0  # bytes after the counts that may be anything
    packed: bool = False  # at the width of their prime

    @property
    def widths(self) -> list[int]:
        return [p.bit_length() if self.packed else 64 for p in self.primes]


@cache
def readers() -> dict[str, Reader]:
    context = _core.Context(_core.ParameterSet(6, 8, 48, 45, 50, 2, 0, 0, 3, native=False, allow_insecure=True))
    keys = _core.ClientKeys.generate(context, TAG)
    q, p = tuple(context.q), tuple(context.p)
    assert len(q) == 4

    def evaluator() -> Any:
        return _core.OpenFheEvaluator(context, TAG)

    short = keys.rotation_keys([(1, 3)])[0]
    relinearisation = keys.relinearisation_key()
    sparse = np.array([2, 2], "<u4").tobytes() + bytes(4 * N * 8)
    ciphertext = keys.encrypt(np.ones(8), 2)
    return {
        "ciphertext": Reader(ciphertext, lambda b: evaluator().read(b), 3, q[:3], 32, True),
        "ciphertext of the client": Reader(ciphertext, lambda b: keys.decrypt(b, 8), 3, q[:3], 32, True),
        "public key": Reader(
            keys.public_key(), lambda b: _core.ClientKeys.load(context, TAG, b"", b), 3, q + p[:1], 52
        ),
        "rotation key": Reader(short, lambda b: evaluator().add_rotation_key(1, b), 3, (q[:3] + p) * 4),
        "relinearisation key": Reader(
            relinearisation, lambda b: evaluator().add_relinearisation_key(b), 3, (q + p) * 4
        ),
        "conjugation key": Reader(relinearisation, lambda b: evaluator().add_conjugation_key(b), 3, (q + p) * 4),
        "to_sparse": Reader(
            sparse, lambda b: evaluator().add_encapsulation_keys(b, relinearisation), 2, (q[0], p[0]) * 2
        ),
        "to_dense": Reader(relinearisation, lambda b: evaluator().add_encapsulation_keys(sparse, b), 3, (q + p) * 4),
        "secret": Reader(keys.secret(), lambda b: _core.ClientKeys.load(context, TAG, b, b""), 0, ()),
    }


NAMES = [
    "ciphertext",
    "ciphertext of the client",
    "public key",
    "rotation key",
    "relinearisation key",
    "conjugation key",
    "to_sparse",
    "to_dense",
]
ALL = [*NAMES, "secret"]


def refused(name: str, body: bytes) -> None:
    with pytest.raises(CorruptArtifactError):
        readers()[name].read(body)


@pytest.mark.parametrize("name", ALL)
def test_the_bodies_themselves_are_read(name: str) -> None:
    reader = readers()[name]
    reader.read(reader.body)
    reader.read(bytearray(reader.body))
    reader.read(memoryview(reader.body))
    assert len(reader.body) == 4 * reader.counts + reader.gap + (N * sum(reader.widths) // 8 or N)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=30)
@given(st.data())
def test_truncated(name: str, data: st.DataObject) -> None:
    body = readers()[name].body
    refused(name, body[: data.draw(st.integers(1, len(body) - 1))])


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=20)
@given(st.binary(min_size=1, max_size=64))
def test_extended(name: str, more: bytes) -> None:
    refused(name, readers()[name].body + more)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=4 * N))
def test_random(name: str, noise: bytes) -> None:
    if name != "secret" or len(noise) != N:
        refused(name, noise)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(st.data())
def test_absurd_counts(name: str, data: st.DataObject) -> None:
    """2^32 - 1 limbs must not become an allocation, nor an overflow that makes a length fit."""
    reader = readers()[name]
    header = np.frombuffer(reader.body[: 4 * reader.counts], "<u4").copy()
    which = data.draw(st.integers(0, reader.counts - 1))
    absurd = st.sampled_from([0, 1, 2, 3, 4, 5, 2**16, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
    value = data.draw(absurd)
    if value != header[which]:
        header[which] = value
        refused(name, header.tobytes() + reader.body[4 * reader.counts :])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(st.data())
def test_residues_not_below_their_prime(name: str, data: st.DataObject) -> None:
    reader = readers()[name]
    limb = data.draw(st.integers(0, len(reader.primes) - 1))
    prime, width = reader.primes[limb], reader.widths[limb]
    start = 8 * (4 * reader.counts + reader.gap) + N * sum(reader.widths[:limb])
    first = start + width * data.draw(st.integers(0, N - 1))

    def written(value: int) -> bytes:
        whole = int.from_bytes(reader.body, "little")
        whole += (value - (whole >> first) % (1 << width)) << first
        return whole.to_bytes(len(reader.body), "little")

    largest = (1 << width) - 1
    refused(name, written(data.draw(st.sampled_from([prime, largest]) | st.integers(prime, largest))))
    if name != "ciphertext of the client":  # OpenFHE notices that it decrypts to noise
        reader.read(written(prime - 1))


@settings(max_examples=60)
@given(st.integers(0, N - 1), st.integers(2, 254))
def test_a_secret_is_ternary(at: int, value: int) -> None:
    secret = bytearray(readers()["secret"].body)
    secret[at] = value
    refused("secret", bytes(secret))


@pytest.mark.parametrize(("digits", "limbs", "specials"), [(1, 3, 1), (1, 4, 2), (2, 4, 1), (2, 4, 2)])
def test_a_public_key_has_one_digit_of_every_limb_and_one_special_prime(digits: int, limbs: int, specials: int) -> None:
    """Switching keys are made of the same bytes and must not pass for one."""
    header = np.array([digits, limbs, specials], "<u4").tobytes() + bytes(52)
    refused("public key", header + bytes(digits * (limbs + specials) * N * 8))


def test_a_ciphertext_has_two_polynomials_or_one_and_a_seed() -> None:
    for polynomials in (0, 1, 2, 3):
        bits = polynomials * N * sum(p.bit_length() for p in readers()["ciphertext"].primes)
        body = np.array([3, polynomials, 0], "<u4").tobytes() + bytes(bits // 8)
        if polynomials == 2:
            readers()["ciphertext"].read(body)
        else:
            refused("ciphertext", body)
