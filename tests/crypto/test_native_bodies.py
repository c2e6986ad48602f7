"""Every reader of the native backend against hostile bytes: typed errors, and never a crash."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer.errors import BackendError, CorruptArtifactError, UsageError
from fheinfer.evaluation.metrics import precision_bits

Rigs = Callable[[str], Any]
TAG = "ab" * 16
N = 64
SEED = 32
KEY_SEED = 52  # bytes between the counts of a key and its residues: a seed, and zeros


@dataclass(frozen=True)
class Reader:
    body: bytes
    read: Callable[[Any], Any]
    counts: int  # u32 counts at the front
    gap: int  # bytes after them that may be anything
    primes: tuple[int, ...]  # of the limbs, in file order
    packed: bool = False  # at the width of their prime


@cache
def readers() -> dict[str, Reader]:
    context = _core.Context(_core.ParameterSet(6, 8, 49, 45, 50, 2, 1, 1, 15, native=True, allow_insecure=True))
    client = _core.ClientKeys.generate(context, TAG)
    public = _core.ClientKeys.load(context, TAG, b"", client.public_key())
    keys = _core.NativeKeys(client)
    q, p = tuple(context.q), tuple(context.p)
    assert (len(q), len(p)) == (16, 8)

    def evaluator() -> Any:
        return _core.NativeEvaluator(context)

    def shape(body: bytes) -> tuple[int, ...]:
        digits, limbs, specials = (int(v) for v in np.frombuffer(body[:12], "<u4"))
        return (q[:limbs] + p[:specials]) * digits

    def key(body: bytes, read: Callable[[Any], Any]) -> Reader:
        return Reader(body, read, 3, KEY_SEED, shape(body))

    relinearisation, conjugation = keys.relinearisation_key(), keys.conjugation_key()
    sparse, dense = keys.encapsulation_keys()
    return {
        "ciphertext": Reader(public.encrypt(np.ones(8), 2), lambda b: evaluator().read(b), 3, 0, q[:3] * 2, True),
        "seeded ciphertext": Reader(client.encrypt(np.ones(8), 2), lambda b: evaluator().read(b), 3, SEED, q[:3], True),
        "rotation key": key(keys.rotation_keys([(1, 3)])[0], lambda b: evaluator().add_rotation_key(1, b)),
        "relinearisation key": key(relinearisation, lambda b: evaluator().add_relinearisation_key(b)),
        "conjugation key": key(conjugation, lambda b: evaluator().add_conjugation_key(b)),
        "to_sparse": key(sparse, lambda b: evaluator().add_encapsulation_keys(b, dense)),
        "to_dense": key(dense, lambda b: evaluator().add_encapsulation_keys(sparse, b)),
    }


NAMES = [
    "ciphertext",
    "seeded ciphertext",
    "rotation key",
    "relinearisation key",
    "conjugation key",
    "to_sparse",
    "to_dense",
]
KEYS = NAMES[2:]


def refused(name: str, body: bytes) -> None:
    with pytest.raises(CorruptArtifactError):
        readers()[name].read(body)


@pytest.mark.parametrize("name", NAMES)
def test_the_bodies_themselves_are_read(name: str) -> None:
    reader = readers()[name]
    for buffer in (bytes, bytearray, memoryview):
        reader.read(buffer(reader.body))
    widths = [p.bit_length() if reader.packed else 64 for p in reader.primes]
    assert len(reader.body) == 4 * reader.counts + reader.gap + N * sum(widths) // 8


def test_short_keys_are_short() -> None:
    """One digit and few special primes where that is enough; a seed for the uniform half."""
    header = {name: np.frombuffer(readers()[name].body[:12], "<u4").tolist() for name in KEYS}
    assert header["relinearisation key"] == [2, 16, 8]
    assert header["conjugation key"] == [2, 15, 8]
    assert header["rotation key"] == [1, 3, 3]
    assert header["to_sparse"] == [1, 1, 1]
    assert header["to_dense"] == [1, 16, 1]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(st.data())
def test_truncated(name: str, data: st.DataObject) -> None:
    body = readers()[name].body
    refused(name, body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(st.binary(min_size=1, max_size=64))
def test_extended(name: str, more: bytes) -> None:
    refused(name, readers()[name].body + more)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(st.binary(max_size=4 * N))
def test_random(name: str, noise: bytes) -> None:
    refused(name, noise)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(st.data())
def test_absurd_counts(name: str, data: st.DataObject) -> None:
    """2^32 - 1 limbs must not become an allocation, nor an overflow that makes a length fit."""
    reader = readers()[name]
    header = np.frombuffer(reader.body[: 4 * reader.counts], "<u4").copy()
    which = data.draw(st.integers(0, reader.counts - 1))
    absurd = st.sampled_from([0, 1, 2, 3, 4, 8, 9, 16, 17, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
    value = data.draw(absurd | st.integers(0, 2**32 - 1))
    if value != header[which]:
        header[which] = value
        refused(name, header.tobytes() + reader.body[4 * reader.counts :])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_in_the_counts(name: str, data: st.DataObject) -> None:
    reader = readers()[name]
    bit = data.draw(st.integers(0, 32 * reader.counts - 1))
    body = bytearray(reader.body)
    body[bit // 8] ^= 1 << bit % 8
    refused(name, bytes(body))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(st.data())
def test_residues_not_below_their_prime(name: str, data: st.DataObject) -> None:
    reader = readers()[name]
    start = 4 * reader.counts + reader.gap
    limb = data.draw(st.integers(0, len(reader.primes) - 1))
    widths = [p.bit_length() if reader.packed else 64 for p in reader.primes]
    prime, width = reader.primes[limb], widths[limb]
    first = 8 * start + N * sum(widths[:limb]) + width * data.draw(st.integers(0, N - 1))

    def written(value: int) -> bytes:
        whole = int.from_bytes(reader.body, "little")
        whole += (value - (whole >> first) % (1 << width)) << first
        return whole.to_bytes(len(reader.body), "little")

    largest = (1 << width) - 1
    value = data.draw(st.sampled_from([prime, prime + 1, largest]) | st.integers(prime, largest))
    refused(name, written(min(value, largest)))
    reader.read(written(prime - 1))
    reader.read(written(0))


# Counts that agree with the length, and with nothing else


@settings(max_examples=150)
@given(st.sampled_from(KEYS), st.integers(0, 4), st.integers(0, 18), st.integers(0, 10))
def test_a_key_of_any_shape_is_refused_or_of_a_shape_that_exists(
    name: str, digits: int, limbs: int, specials: int
) -> None:
    counts = np.array([digits, limbs, specials], "<u4").tobytes()
    body = counts + bytes(KEY_SEED + digits * (limbs + specials) * 8 * N)
    possible = 1 <= limbs <= 16 and 1 <= specials <= 8 and digits in (1, -(-limbs // 8))
    if possible:
        with suppress(BackendError):  # too short for its place
            readers()[name].read(body)
    else:
        refused(name, body)


@pytest.mark.parametrize("limbs", [0, 1, 2, 4])
@pytest.mark.parametrize("polynomials", [0, 1, 2, 3])
@pytest.mark.parametrize("dropped", [0, 1, 10, 48, 49, 50, 2**31])
def test_a_ciphertext_has_one_polynomial_and_a_seed_or_two(polynomials: int, limbs: int, dropped: int) -> None:
    """And bits can be dropped from a single limb only."""
    widths = [p.bit_length() - dropped for p in readers()["to_dense"].primes[:limbs]]
    bits = polynomials * N * sum(widths[:limbs])
    body = np.array([limbs, polynomials, dropped], "<u4").tobytes()
    body += bytes((SEED if polynomials == 1 else 0) + max(bits, 0) // 8)
    if polynomials in (1, 2) and limbs and (dropped == 0 or (limbs == 1 and widths[0] > 0)):
        readers()["ciphertext"].read(body)
    else:
        refused("ciphertext", body)


def test_a_body_is_what_it_says(native_rig: Rigs, pack: Any, unpack: Any) -> None:
    """Packed and unpacked again in Python, and what the evaluator makes of the one is what it makes of the other."""
    r, n = native_rig("3"), 2048
    for level in (0, 1, 25):
        seeded = r.keys.encrypt(np.ones(256) / 3, level)
        rows = unpack(seeded, r.context.q, n)
        whole = pack(rows, r.context.q)
        assert r.evaluator.write(r.evaluator.read(seeded)) == whole == r.evaluator.write(r.evaluator.read(whole))
        assert np.array_equal(unpack(whole, r.context.q, n), rows)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KEYS), st.sampled_from(KEYS), st.integers(0, 15))
def test_keys_in_each_others_place_are_errors_or_noise(pack: Any, name: str, other: str, level: int) -> None:
    """Every reader takes the bytes of every key; what they are for, only the mathematics knows. Never a crash."""
    context = _core.Context(_core.ParameterSet(6, 8, 49, 45, 50, 2, 1, 1, 15, native=True, allow_insecure=True))
    evaluator, body = _core.NativeEvaluator(context), readers()[other].body
    x = evaluator.read(pack(np.zeros((2, level + 1, N), np.uint64), context.q))
    try:
        if name == "relinearisation key":
            evaluator.add_relinearisation_key(body)
            evaluator.multiply(x, x)
        elif name in ("rotation key", "conjugation key"):
            evaluator.add_rotation_key(1, body)
            evaluator.rotate(x, 1)
        else:
            places = {"to_sparse": readers()["to_sparse"].body, "to_dense": readers()["to_dense"].body}
            evaluator.add_encapsulation_keys(*(places | {name: body}).values())
            evaluator.prepare_bootstrap()
    except BackendError:
        return


def test_keys_are_used_where_they_stand(native_rig: Rigs) -> None:
    """In the buffer they came in, which stays as long as the evaluator does; and at the boundaries of words."""
    r, x = native_rig("1"), np.random.default_rng(0).uniform(-1, 1, 256)
    key, ciphertext = _core.NativeKeys(r.keys).rotation_keys([(7, 4)])[0], r.keys.encrypt(x, 3)
    mapped, evaluator = mmap.mmap(-1, len(key)), _core.NativeEvaluator(r.context)
    mapped[:] = key
    evaluator.add_rotation_key(7, memoryview(mapped))
    results = []
    for residues in (key[64:], bytes(len(key) - 64), key[64:]):
        mapped[64:] = residues
        results.append(evaluator.write(evaluator.rotate(evaluator.read(ciphertext), 7)))
    assert results[0] == results[2] != results[1]
    assert precision_bits(np.roll(x, -7), r.keys.decrypt(results[0], 256)).minimum > 25
    with pytest.raises(BufferError):
        mapped.close()
    with pytest.raises(UsageError, match="multiple of 8 bytes"):
        evaluator.add_rotation_key(8, memoryview(b"\0" + key)[1:])


def test_keys_of_openfhes_evaluation_are_not_ours(native_rig: Rigs) -> None:
    r = native_rig("1")
    evaluator = _core.NativeEvaluator(r.context)
    theirs = r.keys.rotation_keys([(1, 3)])[0]
    for load in (
        lambda: evaluator.add_rotation_key(1, theirs),
        lambda: evaluator.add_relinearisation_key(r.keys.relinearisation_key()),
        lambda: evaluator.add_conjugation_key(r.keys.conjugation_key()),
        lambda: evaluator.add_encapsulation_keys(np.array([2, 2], "<u4").tobytes() + bytes(4 * 2048 * 8), theirs),
    ):
        with pytest.raises(CorruptArtifactError):
            load()  # type: ignore[no-untyped-call]
    ours = _core.NativeKeys(r.keys).rotation_keys([(1, 3)])[0]
    with pytest.raises(CorruptArtifactError):
        _core.OpenFheEvaluator(r.context, TAG).add_rotation_key(1, ours)


def test_what_another_evaluator_holds_is_refused(native_rig: Rigs) -> None:
    r, x = native_rig("1"), np.ones(256) / 2
    slots = _core.SlotsEvaluator(256, r.context.levels)
    other = _core.OpenFheEvaluator(r.context, f"{1:0>32}")
    for foreign in (slots.encrypt(x, 3), other.read(r.keys.encrypt(x, 3))):
        for use in (
            lambda x: r.evaluator.multiply(x, x),
            r.evaluator.bootstrap,
            r.evaluator.write,
            r.evaluator.level,
            lambda x: r.evaluator.rotate(x, 3),
            lambda x: r.evaluator.add(r.encrypt(np.ones(256), 3), x),
            lambda x: r.evaluator.chebyshev(x, [0.0, 1.0]),
            lambda x: r.evaluator.drop_to(x, 1),
        ):
            with pytest.raises(UsageError, match="not a ciphertext of the native evaluator"):
                use(foreign)


def test_a_ciphertext_of_another_chain_is_refused_or_noise(native_rig: Rigs) -> None:
    """Same ring, other primes: residues not below them, or nothing that decrypts to the message."""
    r, other, x = native_rig("1"), native_rig("4"), np.random.default_rng(0).uniform(-1, 1, 256)
    for level in range(9):
        try:
            y = r.evaluator.read(other.keys.encrypt(x, level))
        except CorruptArtifactError:
            continue
        with suppress(BackendError):  # OpenFHE notices
            assert precision_bits(x, r.decrypt(y)).minimum < 0


@pytest.mark.parametrize("limbs", [-1, 0, 23, 1000])
def test_no_keys_of_impossible_height(native_rig: Rigs, limbs: int) -> None:
    with pytest.raises(UsageError, match="no rotation key of"):
        _core.NativeKeys(native_rig("1").keys).rotation_keys([(1, limbs)])


def test_keys_need_a_secret(native_rig: Rigs) -> None:
    r = native_rig("1")
    public = _core.ClientKeys.load(r.context, TAG, b"", r.keys.public_key())
    with pytest.raises(UsageError, match="needs the secret key"):
        _core.NativeKeys(public)


@pytest.mark.parametrize("limbs", [1, 2, 11, 12, 22])
def test_a_key_is_no_larger_than_said(native_rig: Rigs, limbs: int) -> None:
    r = native_rig("1")
    assert len(r.context.q) == 22
    body = _core.NativeKeys(r.keys).rotation_keys([(1, limbs)])[0]
    assert len(body) == _core.native_key_bytes(r.context, limbs)
    assert len(body) < 0.52 * r.context.evaluation_key_bytes(limbs)


def test_values_too_large_for_the_scale_are_refused(native_rig: Rigs) -> None:
    r, x = native_rig("1"), np.ones(256)
    ct = r.encrypt(x, 3)
    for bad in (1e300, np.nan, np.inf):
        with pytest.raises(UsageError, match="too large"):
            r.evaluator.add_plain(ct, np.full(4, bad))
        with pytest.raises(UsageError, match="too large"):
            r.evaluator.multiply_plain(ct, np.full(256, bad))
    for count in (0, 3, 512):
        with pytest.raises(UsageError, match="do not repeat"):
            r.evaluator.add_plain(ct, np.ones(count))
