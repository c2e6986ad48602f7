"""The client encrypts for its own plan, and believes its own client.json of every result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer.client import MAX_DECIMALS, Client, class_decimals, rounded
from fheinfer.crypto import passphrase
from fheinfer.crypto.artifact import request_id, to_bytes
from fheinfer.crypto.ciphertexts import open_ciphertexts, seal
from fheinfer.crypto.keygen import generate, keygen, new_secret
from fheinfer.crypto.keystore import KeySet
from fheinfer.errors import (
    BackendError,
    CorruptArtifactError,
    FheinferError,
    InputError,
    KeyStoreError,
    MismatchError,
    RangeError,
    UsageError,
)
from tests.crypto.specs import OUTPUTS, SHAPE, TINY, TURBO, spec

F64 = NDArray[np.float64]
OUTPUT = np.array([1.0, -2.0, 3.0, 7.5, -14.0])


@pytest.fixture(autouse=True)
def _small_parameters(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("FHEINFER_ALLOW_INSECURE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(passphrase, "LOG2_N", 10)


@pytest.fixture(scope="module")
def keys() -> KeySet:
    return generate(spec(), policy="fast")


@pytest.fixture
def client(keys: KeySet) -> Client:
    return Client(keys, spec())


def image(seed: int = 0) -> F64:
    return np.random.default_rng(seed).uniform(-2, 2, SHAPE)


def result(client: Client, values: F64 = OUTPUT, **changes: Any) -> bytes:
    """What a server could answer: `values` at level 0; `changes` are those of the metadata."""
    wanted = client.spec
    assert wanted is not None
    slots = np.zeros(wanted.params.slots)
    slots[: len(values)] = values / wanted.outputs[0].scale
    body = client._required_secret().encrypt(slots, 0)
    metadata: dict[str, Any] = {"role": "result", "plan": wanted.plan, "request": "0" * 64}
    return sealed(client, {**metadata, **changes}, body)


def sealed(client: Client, metadata: Mapping[str, Any], *bodies: bytes | memoryview) -> bytes:
    return to_bytes(seal(client.params, client.backend, client.key_id, metadata, bodies))


@pytest.mark.parametrize("name", [TINY, TURBO, f"{TINY}-openfhe"])
def test_round_trip_of_inputs_and_results(name: str) -> None:
    wanted = spec(name)
    client = Client(generate(wanted), wanted)
    (slots,) = client.decrypt_slots(client.encrypt(image()))
    assert np.abs(slots[: image().size] * wanted.input.scale - image().ravel()).max() < 1e-4
    found = client.decrypt(result(client))
    assert found.dtype == np.float64
    assert np.abs(found - OUTPUT).max() < 1e-3


def test_an_input_says_its_plan_and_nothing_more(client: Client, tmp_path: Path) -> None:
    data = client.encrypt(image())
    found = open_ciphertexts(data, client.params, client.backend, client.key_id)
    assert found.metadata == {"role": "input", "plan": "a" * 64}
    assert len(request_id(data)) == 64
    assert request_id(data) != request_id(client.encrypt(image()))
    (tmp_path / "x.ct").write_bytes(data)
    metadata, (slots,) = client.read_slots(tmp_path / "x.ct")
    assert metadata == found.metadata
    assert np.abs(slots - client.decrypt_slots(data)[0]).max() < 1e-9  # decryption adds noise of its own


def test_the_public_key_alone_encrypts(tmp_path: Path) -> None:
    keygen(spec(), tmp_path / "keys")
    sender = tmp_path / "sender" / "server"
    sender.mkdir(parents=True)
    for name in ("public.key", "manifest.json"):
        shutil.copy(tmp_path / "keys" / "server" / name, sender)
    public, owner = Client(sender.parent, spec()), Client(tmp_path / "keys", spec())
    assert (public.can_decrypt, owner.can_decrypt) == (False, True)
    data = public.encrypt(image())
    assert np.abs(owner.decrypt_slots(data)[0][: image().size] * 2 - image().ravel()).max() < 1e-6
    assert len(owner.encrypt(image())) < 0.6 * len(data)
    for attempt in (public.decrypt, public.decrypt_slots):
        with pytest.raises(KeyStoreError, match="no secret key"):
            attempt(result(owner))
    # With the secret, nothing else of the server folder is opened.
    (tmp_path / "keys" / "server" / "public.key").unlink()
    Client(tmp_path / "keys", spec()).encrypt(image())
    (sender / "public.key").unlink()
    with pytest.raises(KeyStoreError, match="no such public key"):
        Client(sender.parent, spec()).encrypt(image())


@pytest.mark.parametrize("name, precision", [(TINY, 1e-8), (TURBO, 1e-2), (f"{TINY}-openfhe", 1e-7)])
def test_the_public_key_encrypts_for_every_kind_of_set(name: str, precision: float) -> None:
    made = generate(spec(name))
    sender, owner = Client(KeySet(made.manifest, made.files), spec(name)), Client(made)
    (slots,) = owner.decrypt_slots(sender.encrypt(image()))
    assert np.abs(slots[: image().size] * 2 - image().ravel()).max() < precision


def test_a_secret_as_bytes_and_one_with_a_passphrase(tmp_path: Path) -> None:
    secret = new_secret(spec(), passphrase="word")
    keygen(spec(), tmp_path / "keys", secret=secret, passphrase="word")
    owner = Client(tmp_path / "keys", spec(), secret=secret, passphrase="word")
    assert np.abs(owner.decrypt(result(owner)) - OUTPUT).max() < 1e-5
    locked = Client(tmp_path / "keys", spec(), secret=secret)
    assert not locked.can_decrypt
    assert len(locked.encrypt(image())) > 1.5 * len(owner.encrypt(image()))  # under the public key
    with pytest.raises(KeyStoreError, match="has a passphrase, which was not given"):
        locked.decrypt(result(owner))
    with pytest.raises(KeyStoreError, match="does not open"):
        Client(tmp_path / "keys", spec(), secret=secret, passphrase="wrong")
    with pytest.raises(MismatchError, match="another key"):
        Client(tmp_path / "keys", spec(), secret=new_secret(spec()))
    with pytest.raises(CorruptArtifactError, match="the secret key"):
        Client(tmp_path / "keys", spec(), secret=b"\0" * 2048)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keygen(spec(), tmp_path / "keys")
    (tmp_path / "keys" / "secret" / "secret.key").chmod(0o640)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        Client(tmp_path / "keys", spec())


def test_keys_of_another_set_or_backend_are_not_taken(keys: KeySet) -> None:
    for other in (spec(TURBO), spec(f"{TINY}-openfhe")):
        with pytest.raises(MismatchError, match=f"needs keys of set {other.params.name}"):
            Client(keys, other)


def test_without_a_spec_only_slots_are_read(keys: KeySet, client: Client) -> None:
    bare = Client(keys)
    assert np.abs(bare.decrypt_slots(result(client))[0][:OUTPUTS] * 10 - OUTPUT).max() < 1e-5
    for attempt in (lambda: bare.encrypt(image()), lambda: bare.decrypt(result(client))):
        with pytest.raises(UsageError, match=r"client\.json"):
            attempt()


@pytest.mark.parametrize(
    "x, error",
    [
        (np.full(SHAPE, 255.0), RangeError),
        (np.full(SHAPE, 2.1), RangeError),
        (np.full(SHAPE, np.nan), InputError),
        (np.full(SHAPE, -np.inf), InputError),
        (np.zeros((3, 8, 9)), InputError),
        (np.zeros((1, *SHAPE)), InputError),
    ],
)
def test_inputs_that_the_network_does_not_take_are_refused(client: Client, x: F64, error: type[FheinferError]) -> None:
    with pytest.raises(error):
        client.encrypt(x)


def test_the_answer_to_another_request_is_refused(client: Client) -> None:
    one, other = client.encrypt(image()), client.encrypt(image())
    answer = result(client, request=request_id(one))
    for request in (one, request_id(one), None):
        assert np.abs(client.decrypt(answer, request=request) - OUTPUT).max() < 1e-5
    for wrong in (other, request_id(other), ""):
        with pytest.raises(MismatchError, match="another request"):
            client.decrypt(answer, request=wrong)
    with pytest.raises(MismatchError, match="another request"):
        client.decrypt(result(client, request=None), request=one)


def test_results_of_something_else_are_refused(client: Client) -> None:
    with pytest.raises(MismatchError, match="an encrypted input"):
        client.decrypt(result(client, role="input"))
    with pytest.raises(MismatchError, match="not a result"):
        client.decrypt(result(client, role="checkpoint"))
    for plan in ("b" * 64, None, 1, ["a" * 64]):
        with pytest.raises(MismatchError, match="another plan"):
            client.decrypt(result(client, plan=plan))
    with pytest.raises(MismatchError, match="another key"):
        client.decrypt(result(Client(generate(spec()), spec())))
    turbo = spec(TURBO)
    with pytest.raises(MismatchError, match="another parameter set"):
        client.decrypt(result(Client(generate(turbo), turbo)))
    with pytest.raises(CorruptArtifactError):
        client.decrypt(result(client)[:-1])


def test_what_the_server_says_of_scale_and_outputs_counts_for_nothing(client: Client) -> None:
    """0.1 took both from the header: two crafted results with 16,384 outputs each gave away the secret."""
    told = result(client, outputs=512, output_scale=2.0**40, output_bound=1e300, scale=0.0)
    assert client.decrypt(told).shape == (OUTPUTS,)
    assert np.abs(client.decrypt(told) - OUTPUT).max() < 1e-5


def test_a_result_of_a_higher_level_is_refused(client: Client) -> None:
    wanted = spec()
    high = client._required_secret().encrypt(np.zeros(wanted.params.slots), 4)
    with pytest.raises(CorruptArtifactError, match="at most"):
        client.decrypt(sealed(client, {"role": "result", "plan": wanted.plan, "request": ""}, high))


def test_garbage_is_not_shown_as_a_class(client: Client) -> None:
    wanted = spec()
    with pytest.raises(RangeError, match="damaged, of another key, or forged"):
        client.decrypt(result(client, OUTPUT * 1.2))
    good = open_ciphertexts(result(client), wanted.params, wanted.backend, client.key_id)
    rng = np.random.default_rng(3)
    (body,) = good.bodies
    noise = bytes(body[:44]) + rng.bytes(len(body) - 44)
    with pytest.raises((RangeError, BackendError, CorruptArtifactError)):
        client.decrypt(sealed(client, good.metadata, noise))


def test_decimals_are_what_the_class_needs() -> None:
    cases: list[tuple[list[float], int]] = [
        ([1.0, 12.0, -3.0], 1),
        ([1.24, 1.31], 2),
        ([0.1234, 0.1236, -5.0], 4),
        ([0.0, 0.0], MAX_DECIMALS),
        ([1.0, 1.0 + 1e-12], MAX_DECIMALS),
        ([3.0], 1),
        ([0.04], 3),
        ([-0.3], 2),
    ]
    for outputs, decimals in cases:
        assert class_decimals(np.array(outputs)) == decimals, outputs
    assert rounded(np.array([1.26, -0.04]), 1).tolist() == [1.3, 0.0]
    assert not np.signbit(rounded(np.array([-0.04]), 1)).any()
    for wrong in (-1, 18):
        with pytest.raises(UsageError):
            rounded(OUTPUT, wrong)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_rounding_does_not_change_the_class(outputs: list[float]) -> None:
    values = np.array(outputs)
    best, second = np.sort(values)[::-1][:2]
    shown = rounded(values, class_decimals(values))
    if best - second > 2 * 10.0**-MAX_DECIMALS:
        assert shown.argmax() == values.argmax()
        assert np.sort(shown)[-1] > np.sort(shown)[-2]
    assert np.abs(shown - values).max() <= 0.5 * 10.0 ** -class_decimals(values) + 1e-9
