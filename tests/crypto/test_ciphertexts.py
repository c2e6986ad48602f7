"""Several ciphertexts in one container: all of them come back, and nothing that is not exactly that is read."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer.client import Client
from fheinfer.crypto import artifact
from fheinfer.crypto.ciphertexts import (
    MAX_CIPHERTEXTS,
    body_bound,
    open_ciphertexts,
    read_ciphertexts,
    seal,
    split,
)
from fheinfer.crypto.keygen import generate
from fheinfer.crypto.keystore import KeySet
from fheinfer.crypto.params import ciphertext_bytes, parameter_set
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, RangeError, UsageError
from tests.crypto.specs import SHAPE, TINY, an_input, an_output, spec

F64 = NDArray[np.float64]
PARAMS, KEY = parameter_set(TINY), "ab" * 16
INPUTS, OUTPUTS = 3, {"box": (6, 2), "fc": (5, 1)}
"""Ciphertexts of the input; values and ciphertexts of each output."""


@pytest.fixture(autouse=True)
def _small_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHEINFER_ALLOW_INSECURE", "1")


@pytest.fixture(scope="module")
def wide() -> Any:
    outputs = tuple(an_output(name, count, parts) for name, (count, parts) in OUTPUTS.items())
    return spec(input=an_input(ciphertexts=INPUTS), outputs=outputs)


@pytest.fixture(scope="module")
def keys(wide: Any) -> KeySet:
    return generate(wide, policy="fast")


@pytest.fixture
def client(keys: KeySet, wide: Any) -> Client:
    return Client(keys, wide)


def framed(*bodies: bytes) -> bytes:
    return struct.pack(f"<II{len(bodies)}Q", len(bodies), 0, *map(len, bodies)) + b"".join(bodies)


def answer(client: Client, values: dict[str, F64], order: list[int] | None = None) -> bytes:
    """A result of these values, its ciphertexts in another order where one is given."""
    wanted = client.spec
    assert wanted is not None
    bodies = []
    for output in wanted.outputs:
        flat = np.zeros(output.ciphertexts * output.packing.period)
        flat[output.packing.places().ravel()] = values[output.name] / output.scale
        for slots in flat.reshape(output.ciphertexts, -1):
            bodies.append(client._required_secret().encrypt(slots, 0))
    metadata = {"role": "result", "plan": wanted.plan, "request": "0" * 64}
    chosen = [bodies[i] for i in order or range(len(bodies))]
    return artifact.to_bytes(seal(client.params, client.backend, client.key_id, metadata, chosen))


def outputs() -> dict[str, F64]:
    rng = np.random.default_rng(3)
    return {name: rng.uniform(-10, 10, count) for name, (count, _) in OUTPUTS.items()}


def test_an_input_over_several_ciphertexts_comes_back(client: Client) -> None:
    x = np.random.default_rng(1).uniform(-2, 2, SHAPE)
    parts = client.decrypt_slots(client.encrypt(x))
    assert len(parts) == INPUTS
    for channel, slots in enumerate(parts):
        assert np.abs(slots[:64] * 2 - x[channel].ravel()).max() < 1e-4


def test_several_outputs_come_back_by_name(client: Client) -> None:
    values = outputs()
    found = client.decrypt(answer(client, values))
    assert list(found) == list(OUTPUTS)
    for name, exact in values.items():
        assert np.abs(found[name] - exact).max() < 1e-4


@pytest.mark.parametrize("final", ["softmax", "log_softmax", "sigmoid"])
def test_the_last_operation_is_computed_after_decryption(keys: KeySet, final: Any) -> None:
    torch = pytest.importorskip("torch")
    client = Client(keys, spec(outputs=(an_output(final=final),)))
    logits = np.array([1.0, -2.0, 3.0, 7.5, -14.0])
    result = answer(client, {"fc": logits})
    apply = {
        "softmax": lambda t: torch.softmax(t, 0),
        "log_softmax": lambda t: torch.log_softmax(t, 0),
        "sigmoid": torch.sigmoid,
    }
    expected = apply[final](torch.tensor(logits)).numpy()
    assert np.abs(client.decrypt(result) - expected).max() < 1e-5
    assert np.abs(client.outputs(result)["fc"] - logits).max() < 1e-5


def test_another_number_of_ciphertexts_is_refused(client: Client) -> None:
    for order in ([0, 1], [0, 1, 2, 2], [2]):
        with pytest.raises(MismatchError, match=r"ciphertexts? where the plan has 3"):
            client.decrypt(answer(client, outputs(), order))


def test_exchanged_ciphertexts_give_no_result_in_silence(client: Client) -> None:
    """Moved bytes are noticed by the checksum; a server that seals them anew only lies about its own result."""
    good = answer(client, outputs())
    start = len(good) - 3 * ((len(good) - artifact.HEADER_BYTES) // 3)
    moved = good[:start] + good[start:][::-1]
    with pytest.raises(CorruptArtifactError, match="checksum"):
        client.decrypt(moved)
    values = {"box": np.full(6, 14.0), "fc": np.array([1.0, 2.0, 3.0, 4.0, 5.0])}
    other = client.decrypt(answer(client, values, [2, 1, 0]))
    assert np.abs(other["fc"][:3] - 14.0).max() < 1e-3  # values of another output, within the bounds of its own
    with pytest.raises(RangeError, match="which no result"):
        client.decrypt(answer(client, values | {"box": np.full(6, 15.5)}, [2, 1, 0]))


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half a count": b"\1\0",
    "no ciphertext": struct.pack("<II", 0, 0),
    "a count without lengths": struct.pack("<II", 2, 0),
    "a reserved field in use": struct.pack("<IIQ", 1, 7, 4) + b"body",
    "a length of nothing": struct.pack("<IIQ", 1, 0, 0),
    "a length beyond the body": struct.pack("<IIQ", 1, 0, 5) + b"body",
    "a length short of the body": struct.pack("<IIQ", 1, 0, 3) + b"body",
    "lengths that wrap around": struct.pack("<IIQQ", 2, 0, 2**64 - 4, 8) + b"body",
    "a huge length": struct.pack("<IIQ", 1, 0, 2**63) + b"body",
    "more ciphertexts than there can be": struct.pack("<II", MAX_CIPHERTEXTS + 1, 0) + b"\0" * 8 * 5000,
    "a count of all ones": b"\xff" * 16,
    "one longer than any of the set": framed(b"\0" * (ciphertext_bytes(PARAMS, PARAMS.top_level) + 1)),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_lengths_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(CorruptArtifactError, match="damaged"):
        split(BAD_BODIES[name], PARAMS)


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=9))
def test_bodies_of_any_length_come_back(bodies: list[bytes]) -> None:
    sealed = seal(PARAMS, "native", KEY, {"role": "checkpoint"}, bodies)
    found = open_ciphertexts(artifact.to_bytes(sealed), PARAMS, "native", KEY)
    assert [bytes(body) for body in found.bodies] == bodies
    assert found.metadata == {"role": "checkpoint"}


@given(st.binary(max_size=120))
def test_any_bytes_are_bodies_or_a_typed_error(raw: bytes) -> None:
    try:
        bodies = split(raw, PARAMS)
    except CorruptArtifactError as error:
        assert "\n" not in str(error)
    else:
        assert framed(*map(bytes, bodies)) == raw


@pytest.mark.parametrize("count", [0, MAX_CIPHERTEXTS + 1])
def test_a_container_holds_at_least_one_and_not_too_many(count: int) -> None:
    with pytest.raises(UsageError, match="holds 1 to"):
        seal(PARAMS, "native", KEY, {}, [b"x"] * count)


def test_a_container_of_one_ciphertext_of_0_2_says_what_to_do() -> None:
    data = bytearray(artifact.to_bytes(seal(PARAMS, "native", KEY, {}, [b"x"])))
    data[10] = 8
    data[72:104] = hashlib.sha256(data[:72] + data[104:]).digest()
    with pytest.raises(MismatchError, match=r"as fheinfer 0\.2 wrote it; encrypt and evaluate again"):
        open_ciphertexts(bytes(data), PARAMS, "native", KEY)


def test_one_ciphertext_too_high_among_several_is_refused(client: Client) -> None:
    own = client._required_secret()
    slots = np.zeros(PARAMS.slots)
    metadata = {"role": "result", "plan": "a" * 64, "request": ""}
    bodies = [own.encrypt(slots, level) for level in (0, 5, 0)]
    data = artifact.to_bytes(seal(client.params, client.backend, client.key_id, metadata, bodies))
    with pytest.raises(CorruptArtifactError, match="bytes of body where at most"):
        client.decrypt(data)


def test_a_file_is_bounded_by_the_number_that_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.ct"
    with path.open("wb") as file:
        file.truncate(body_bound(PARAMS, 3) + 10)
    assert read_ciphertexts(path, PARAMS, 3)
    with path.open("wb") as file:
        file.truncate(body_bound(PARAMS, 3) + (1 << 17))
    with pytest.raises(CorruptArtifactError):
        read_ciphertexts(path, PARAMS, 3)
    with pytest.raises(InputError, match="no such file"):
        read_ciphertexts(tmp_path / "none.ct", PARAMS)


def test_a_larger_set_has_larger_containers() -> None:
    larger = replace(PARAMS, log_n=PARAMS.log_n + 1)
    assert body_bound(larger, 2, 3) > body_bound(PARAMS, 2, 3) > body_bound(PARAMS, 1, 3) > body_bound(PARAMS, 1, 2)
