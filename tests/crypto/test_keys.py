"""The secret, and the bodies a client makes from it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fheinfer import _core
from fheinfer.errors import CorruptArtifactError, UsageError
from fheinfer.evaluation.metrics import precision_bits

Rigs = Callable[[str], Any]
N = 2048


def test_the_main_secret_is_dense_ternary(rig: Rigs) -> None:
    """The 128-bit tables assume it. OpenFHE's encapsulated mode would draw one of weight 192, which falls short."""
    secret = np.frombuffer(rig("1").keys.secret(), np.int8)
    assert secret.shape == (N,)
    assert set(secret) == {-1, 0, 1}
    for value in (-1, 0, 1):
        assert abs(np.count_nonzero(secret == value) - N / 3) < 6 * (N * 2 / 9) ** 0.5


def test_two_secrets_and_two_encryptions_are_never_the_same(rig: Rigs) -> None:
    r = rig("1")
    assert _core.ClientKeys.generate(r.context, "ab" * 16).secret() != r.keys.secret()
    assert r.keys.encrypt(np.ones(256), 3) != r.keys.encrypt(np.ones(256), 3)


def test_keys_survive_their_bodies(rig: Rigs) -> None:
    r, x = rig("1"), np.random.default_rng(0).uniform(-1, 1, 256)
    loaded = _core.ClientKeys.load(r.context, f"{1:0>32}", r.keys.secret(), r.keys.public_key())
    assert loaded.secret() == r.keys.secret()
    assert loaded.public_key() == r.keys.public_key()
    assert precision_bits(x, r.keys.decrypt(loaded.encrypt(x, 3), 256)).minimum > 25
    assert precision_bits(x[:10], loaded.decrypt(r.keys.encrypt(x, 3), 10)).minimum > 25


@pytest.mark.parametrize("limbs", [1, 2, 12, 13, 14, 25])
def test_a_key_is_no_taller_than_asked_for(rig: Rigs, limbs: int) -> None:
    """Decision 5: keygen makes each key only as tall as its level needs, which is what keeps key folders small."""
    r = rig("1")
    body = r.keys.rotation_keys([(1, limbs)])[0]
    assert len(body) == r.context.evaluation_key_bytes(limbs)
    digits = -(-limbs // 13)  # 25 limbs in 2 digits
    assert len(body) == 12 + 2 * digits * (limbs + len(r.context.p)) * N * 8


def test_another_secret_decrypts_nothing(rig: Rigs) -> None:
    r, x = rig("1"), np.full(256, 0.5)
    other = _core.ClientKeys.generate(r.context, f"{1:0>32}")
    try:
        values = other.decrypt(r.keys.encrypt(x, 3), 256)
    except Exception as error:  # OpenFHE notices noise most of the time
        assert "BackendError" in type(error).__name__
    else:
        assert precision_bits(x, values).minimum < 0


def test_what_only_the_other_key_can_do_is_refused(rig: Rigs) -> None:
    r = rig("1")
    public = _core.ClientKeys.load(r.context, "ab" * 16, b"", r.keys.public_key())
    secret = _core.ClientKeys.load(r.context, "ab" * 16, r.keys.secret(), b"")
    ciphertext = public.encrypt(np.ones(256), 2)
    assert secret.decrypt(ciphertext, 1) == pytest.approx(1, abs=1e-6)
    assert secret.decrypt(secret.encrypt(np.ones(256), 2), 1) == pytest.approx(1, abs=1e-6)
    for needs_secret in (
        public.secret,
        public.relinearisation_key,
        public.conjugation_key,
        public.encapsulation_keys,
        lambda: public.rotation_keys([(1, 3)]),
        lambda: public.decrypt(ciphertext, 1),
        lambda: _core.export_secret_key(public),
    ):
        with pytest.raises(UsageError, match="needs the secret key"):
            needs_secret()
    with pytest.raises(UsageError, match="needs the public key"):
        _core.export_public_key(secret)


CHAINS = {
    "a prime for each level": _core.ParameterSet(10, 16, 48, 40, 50, 2, 0, 0, 6, native=True, allow_insecure=True),
    "composite primes": _core.ParameterSet(
        10, 16, 31, 25, 45, 2, 0, 0, 6, native=True, allow_insecure=True, composite=True
    ),
    "OpenFHE": _core.ParameterSet(10, 16, 48, 40, 50, 2, 0, 0, 6, native=False, allow_insecure=True),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_public_key_alone_encrypts_at_every_level(chain: str) -> None:
    context = _core.Context(CHAINS[chain])
    client, x = _core.ClientKeys.generate(context, "ab" * 16), np.linspace(-1, 1, 16)
    alone = _core.ClientKeys.load(context, "ab" * 16, client.secret(), b"")
    fresh = alone.public_key()
    assert fresh != alone.public_key() != client.public_key() == client.public_key()
    assert len(fresh) == len(client.public_key())
    for public_key in (client.public_key(), fresh):
        public = _core.ClientKeys.load(context, "ab" * 16, b"", public_key)
        assert public.public_key() == public_key
        for level in range(0, 7, 2 if chain == "composite primes" else 1):
            ciphertext = public.encrypt(x, level)
            for reader in (client, alone):
                np.testing.assert_allclose(reader.decrypt(ciphertext, 16), x, atol=2.0**-8)
            assert len(ciphertext) > len(client.encrypt(x, level))  # no seed in place of a half
            assert ciphertext != public.encrypt(x, level)


@pytest.mark.parametrize("chain", CHAINS)
def test_the_public_key_adds_hardly_more_noise_than_the_secret(chain: str) -> None:
    """Rounding remains, of std sqrt(N / 18), beside errors of 3.2; undivided it would be 3.2 sqrt(4 N / 3)."""
    context, x = _core.Context(CHAINS[chain]), np.linspace(-1, 1, 16)
    client = _core.ClientKeys.generate(context, "ab" * 16)
    public = _core.ClientKeys.load(context, "ab" * 16, b"", client.public_key())

    def noise(keys: _core.ClientKeys) -> float:
        return float(np.std([client.decrypt(keys.encrypt(x, 2), 16) - x for _ in range(40)]))

    assert noise(client) < noise(public) < 6 * noise(client)


@pytest.mark.parametrize("part", ["digits", "limbs", "special primes", "length"])
def test_a_public_key_of_another_shape_is_refused(part: str) -> None:
    context = _core.Context(CHAINS["a prime for each level"])
    client = _core.ClientKeys.generate(context, "ab" * 16)
    body = bytearray(client.public_key())
    if part == "length":
        del body[-8:]
    else:
        at = ["digits", "limbs", "special primes"].index(part) * 4
        body[at] += 1
    with pytest.raises(CorruptArtifactError):
        _core.ClientKeys.load(context, "ab" * 16, b"", bytes(body))
    with pytest.raises(CorruptArtifactError, match="one digit of all limbs and one special prime"):
        _core.ClientKeys.load(context, "ab" * 16, b"", _core.NativeKeys(client).rotation_keys([(1, 1)])[0])


@pytest.mark.parametrize("level", [-1, 23, 1000])
def test_no_encryption_at_levels_that_do_not_exist(rig: Rigs, level: int) -> None:
    r = rig("4")
    top = r.params.top_level
    with pytest.raises(UsageError, match="no level"):
        r.keys.encrypt(np.ones(256), level if level < 0 else top + level)


@pytest.mark.parametrize(
    "values", [np.zeros(0), np.zeros(3), np.zeros(512), np.full(4, np.nan), np.array([1.0, np.inf])]
)
def test_no_encryption_of_what_does_not_repeat_or_is_not_finite(rig: Rigs, values: Any) -> None:
    with pytest.raises(UsageError, match=r"do not repeat|only finite"):
        rig("1").keys.encrypt(values, 3)


@pytest.mark.parametrize("limbs", [-1, 0, 26])
def test_no_keys_of_impossible_height(rig: Rigs, limbs: int) -> None:
    with pytest.raises(UsageError, match="no evaluation key of"):
        rig("1").keys.rotation_keys([(1, limbs)])


def test_secrets_made_at_the_same_time_leave_the_context_as_it_was() -> None:
    """Whether secrets are dense is a setting of the context: whoever set it first has to be the one to set it back."""
    context = _core.Context(_core.ParameterSet(11, 8, 48, 45, 50, 2, 1, 1, 17, native=False, allow_insecure=True))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: _core.ClientKeys.generate(context, f"{i:032x}"), range(40)))
    for keys in made:
        secret = np.frombuffer(keys.secret(), np.int8)
        assert abs(np.count_nonzero(secret) - N * 2 / 3) < 6 * (N * 2 / 9) ** 0.5  # dense; sparse ones have 192
    assert all(made[0].encapsulation_keys())
