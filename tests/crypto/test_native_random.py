"""The keystream that the public halves of keys come from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer._testing import ckks, ring

P50 = 0x3FFFFFFD20001  # the largest, and one just above a power of two: half of all words are passed over
PRIMES = [P50, 0x2000000140001, 786433]
SEED = bytes(range(32))


@pytest.fixture(autouse=True, scope="module", params=ring.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here in every instruction set the processor has."""
    before = ring.instruction_set()
    ring.set_instruction_set(request.param)
    yield
    ring.set_instruction_set(before)


def test_the_block_of_rfc_8439() -> None:
    """Section 2.3.2: key 00..1f, counter 1, nonce 000000090000004a00000000."""
    expected = """e4e7f110 15593bd1 1fdd0f50 c47120a3 c7f4d1c7 0368c033 9aaa2204 4e6cd4c3
                  466482d2 09aa9f07 05d7c214 a2028bd9 d19c12b5 b94e16de e883d0cb 4e3c50a2"""
    block = ckks.chacha20_block(SEED, 1, [0x09000000, 0x4A000000, 0])
    assert [f"{word:08x}" for word in block] == expected.split()


def test_the_keystream_of_rfc_8439() -> None:
    """Appendix A.1, vectors 1 and 2: zeros, counters 0 and 1."""
    first = np.array(ckks.chacha20_block(bytes(32), 0, [0, 0, 0]), "<u4").tobytes().hex()
    second = np.array(ckks.chacha20_block(bytes(32), 1, [0, 0, 0]), "<u4").tobytes().hex()
    assert first.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert second.startswith("9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed")


@pytest.mark.parametrize("p", PRIMES)
def test_residues_are_the_keystream_cut_to_the_size_of_the_prime(p: int) -> None:
    """Read again in Python: 64-bit words of the blocks, those not below the prime passed over."""
    n, mask, expected, counter = 1000, (1 << p.bit_length()) - 1, list[int](), 0
    while len(expected) < n:
        words = np.array(ckks.chacha20_block(SEED, counter, [5, 7, 0]), "<u4").view("<u8")
        expected += [int(w) & mask for w in words if int(w) & mask < p]
        counter += 1
    assert ckks.uniform(n, p, SEED, 5, 7).tolist() == expected[:n]


@pytest.mark.parametrize("p", PRIMES)
def test_residues_are_uniform_and_below_the_prime(p: int) -> None:
    n, bins = 1 << 16, 64
    x = ckks.uniform(n, p, SEED, 0, 0)
    assert x.max() < p
    assert x.max() > p - p // 100
    for value in (x.astype(np.float64) / p * bins, x % bins):  # high bits and low bits
        counts = np.bincount(value.astype(int), minlength=bins)
        chi = ((counts - n / bins) ** 2 / (n / bins)).sum()
        assert 20 < chi < 130  # 63 degrees of freedom: beyond one chance in a million on either side


@given(st.integers(0, 1000), st.integers(0, 1000), st.binary(min_size=32, max_size=32))
def test_every_row_of_every_digit_of_every_seed_is_a_stream_of_its_own(digit: int, row: int, seed: bytes) -> None:
    x = ckks.uniform(64, P50, seed, digit, row)
    assert np.array_equal(x, ckks.uniform(128, P50, seed, digit, row)[:64])
    flipped = bytes([seed[0] ^ 1]) + seed[1:]
    for other in (
        ckks.uniform(64, P50, seed, digit + 1, row),
        ckks.uniform(64, P50, seed, digit, row + 1),
        ckks.uniform(64, P50, flipped, digit, row),
    ):
        assert np.count_nonzero(other == x) < 3


def test_no_two_keys_have_a_seed_in_common() -> None:
    params = _core.ParameterSet(6, 8, 48, 45, 50, 2, 2, 2, 15, native=True, allow_insecure=True)
    context = _core.Context(params)
    keys = _core.NativeKeys(_core.ClientKeys.generate(context, "ab" * 16))
    bodies = [keys.relinearisation_key(), keys.relinearisation_key(), keys.conjugation_key()]
    bodies += [*keys.encapsulation_keys(), *keys.encapsulation_keys(), *keys.rotation_keys([(1, 3), (1, 3), (2, 16)])]
    assert len({body[12:44] for body in bodies}) == len(bodies)
    assert len({body[44:300] for body in bodies}) == len(bodies)
