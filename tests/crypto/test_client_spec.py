"""`client.json`: what a client believes, and what it refuses to encrypt or to show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.errors import CorruptArtifactError, FheinferError, InputError, MismatchError, PlanError, RangeError
from fheinfer.frontends import zoo

fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def spec() -> ClientSpec:
    return fheinfer.compile(zoo.placeholder(zoo.network("resnet8-tiny")), "insecure-tiny").client


def test_a_saved_spec_comes_back_whole(tmp_path: Path, spec: ClientSpec) -> None:
    spec.save(tmp_path / "client.json")
    raw = (tmp_path / "client.json").read_bytes()
    for place in (tmp_path, tmp_path / "client.json"):
        assert ClientSpec.load(place) == spec
    ClientSpec.load(tmp_path).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == raw
    assert b"weight" not in raw
    assert spec.image_size == (8, 8)


Change = Callable[[dict[str, Any]], object]
IMPOSSIBLE: dict[str, Change] = {
    "format": lambda c: c.pop("format"),
    "format of another kind": lambda c: c.update(format="1"),
    **{
        f"no {name}": (lambda c, name=name: c.pop(name))  # type: ignore[misc]
        for name in ("plan", "params", "mean", "input", "outputs", "output_bytes", "keys")
    },
    **{
        f"an input without {name}": (lambda c, name=name: c["input"].pop(name))  # type: ignore[misc]
        for name in ("shape", "packing", "scale", "level")
    },
    **{
        f"an output without {name}": (lambda c, name=name: c["outputs"][0].pop(name))  # type: ignore[misc]
        for name in ("name", "shape", "packing", "scale", "bound")
    },
    **{
        f"a packing without {name}": (lambda c, name=name: c["input"]["packing"].pop(name))  # type: ignore[misc]
        for name in ("shape", "grid", "start", "strides", "band", "period", "rotation", "ciphertexts", "block", "width")
    },
    "an unknown field of the input": lambda c: c["input"].update(weights="w"),
    "an unknown field of an output": lambda c: c["outputs"][0].update(weights="w"),
    "two elements in one slot": lambda c: c["input"]["packing"].update(start=[[0], [0], [128]]),
    "an element outside the slots": lambda c: c["input"]["packing"].update(start=[[0], [64], [1 << 40]]),
    "an element before the slots": lambda c: c["input"]["packing"].update(start=[[0], [64], [-1]]),
    "starts of other channels": lambda c: c["input"]["packing"].update(start=[[0], [64]]),
    "starts that are words": lambda c: c["input"]["packing"].update(start=[["0"], ["1"], ["2"]]),
    "a packing of another shape": lambda c: c["input"]["packing"].update(shape=[3, 8, 4]),
    "very many ciphertexts": lambda c: c["input"]["packing"].update(ciphertexts=1 << 20),
    "no ciphertext": lambda c: c["input"]["packing"].update(ciphertexts=0),
    "a tensor of very many values": lambda c: c["input"]["packing"].update(shape=[1 << 26], grid=[1, 1 << 13, 1 << 13]),
    "a period beyond the slots": lambda c: c["input"]["packing"].update(period=1024),
    "two outputs of one name": lambda c: c.update(outputs=c["outputs"] * 2),
    "very many outputs": lambda c: c.update(outputs=c["outputs"] * 100),
    "an unknown last operation": lambda c: c["outputs"][0].update(final="exp"),
    "an unknown field": lambda c: c.update(weights="w.safetensors"),
    "an unknown field of the set": lambda c: c["params"].update(network="resnet20"),
    "a set that lacks a field": lambda c: c["params"].pop("digits"),
    "a hash that is none": lambda c: c.update(plan="x" * 64),
    "a set name that is a path": lambda c: c["params"].update(name="../../home"),
    "a set without a name": lambda c: c["params"].update(name=""),
    "a huge ring": lambda c: c["params"].update(log_n=1 << 40),
    "a negative ring": lambda c: c["params"].update(log_n=-3),
    "slots that are no power of two": lambda c: c["params"].update(slots=500),
    "more slots than the ring has": lambda c: c["params"].update(slots=2048),
    "wide primes": lambda c: c["params"].update(scale_bits=300),
    "no digits": lambda c: c["params"].update(digits=0),
    "negative levels": lambda c: c["params"].update(levels=-1),
    "very many levels": lambda c: c["params"].update(levels=1 << 40),
    "another chain": lambda c: c["params"].update(chain="gold"),
    "narrow primes": lambda c: c["params"].update(first_bits=9),
    "an unknown backend": lambda c: c.update(backend="abacus"),
    "a level above the chain": lambda c: c["input"].update(level=20),
    "an odd level of a composite-prime chain": lambda c: (
        c["params"].update(chain="composite"),
        c["input"].update(level=3),
    ),
    "a scale of 0": lambda c: c["outputs"][0].update(scale=0),
    "a negative scale": lambda c: c["input"].update(scale=-1.0),
    "a scale that is a word": lambda c: c["input"].update(scale="1"),
    "a bound that is null": lambda c: c["outputs"][0].update(bound=None),
    "no outputs": lambda c: c.update(outputs=[]),
    "class names for others": lambda c: c["outputs"][0].update(classes=["one"]),
    "a shape of two": lambda c: c["input"].update(shape=[8, 8]),
    "a shape of nothing": lambda c: c["input"].update(shape=[]),
    "a negative shape": lambda c: c["input"].update(shape=[3, -8, -8]),
    "an input beyond the slots": lambda c: c["input"].update(shape=[3, 32, 32]),
    "a mean of one number": lambda c: c.update(mean=[0.5]),
    "a std of 0": lambda c: c.update(std=[0.5, 0.5, 0]),
    "no policy": lambda c: c.update(keys={}),
    "an unknown policy": lambda c: c["keys"].update(slow=c["keys"]["fast"]),
    "rotations that are no pairs": lambda c: c["keys"]["fast"].update(rotations=[1, 2]),
    "rotations of three": lambda c: c["keys"]["fast"].update(rotations=[[1, 2, 3]]),
    "a rotation by nothing": lambda c: c["keys"]["fast"].update(rotations=[[0, 2]]),
    "a rotation beyond the ring": lambda c: c["keys"]["fast"].update(rotations=[[1024, 2]]),
    "a key taller than the chain": lambda c: c["keys"]["fast"].update(rotations=[[1, 21]]),
    "keys twice": lambda c: c["keys"]["fast"].update(rotations=[[1, 2], [1, 2]]),
    "negative bytes": lambda c: c["keys"]["fast"].update(key_bytes=-1),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_refused(spec: ClientSpec, name: str) -> None:
    content = spec.to_json()
    IMPOSSIBLE[name](content)
    with pytest.raises(CorruptArtifactError, match=r"client\.json: damaged \(.*\); get it again") as caught:
        ClientSpec.from_bytes(json.dumps(content).encode())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(spec: ClientSpec, value: str) -> None:
    content = spec.to_json()
    content["outputs"][0]["scale"] = 123456789.5
    raw = json.dumps(content).replace("123456789.5", value)
    with pytest.raises(CorruptArtifactError):
        ClientSpec.from_bytes(raw.encode())


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format":' * 10_000, b"9" * 5000]
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(CorruptArtifactError):
        ClientSpec.from_bytes(raw)


@fuzz
@given(st.data())
def test_a_damaged_file_is_a_typed_error(spec: ClientSpec, data: st.DataObject) -> None:
    content = bytearray(json.dumps(spec.to_json()).encode())
    place = data.draw(st.integers(0, 1500) | st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        ClientSpec.from_bytes(bytes(content))
    except FheinferError as error:
        assert "\n" not in str(error)


def test_another_version_says_so(spec: ClientSpec) -> None:
    with pytest.raises(MismatchError, match="version 1 of the format and this program reads 2"):
        ClientSpec.from_bytes(json.dumps({"format": 1, "anything": "else"}).encode())


def test_parameters_for_tests_are_refused(spec: ClientSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.dumps(spec.to_json()).encode()
    monkeypatch.delenv("FHEINFER_ALLOW_INSECURE")
    with pytest.raises(PlanError, match="parameters insecure-tiny have less than 128 bits"):
        ClientSpec.from_bytes(raw)
    hidden = json.loads(raw)
    hidden["params"]["insecure"] = False  # believed until a context is made: nothing is encrypted under it
    found = ClientSpec.from_bytes(json.dumps(hidden).encode())
    with pytest.raises(PlanError):
        found.key_backend.context(found.params)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(CorruptArtifactError, match="not a regular file"):
            ClientSpec.load(path)
    for path in (tmp_path, tmp_path / "gone", Path("x" * 5000), Path("a\0b")):
        with pytest.raises(InputError, match=r"no such client\.json; `fheinfer compile` writes it"):
            ClientSpec.load(path)


# Inputs and outputs


@pytest.mark.parametrize("value", [0, 255])
def test_every_image_fits_the_input_scale(spec: ClientSpec, value: int) -> None:
    image = (np.full((3, 8, 8), value) / 255 - np.reshape(spec.mean, (-1, 1, 1))) / np.reshape(spec.std, (-1, 1, 1))
    (slots,) = spec.pack(image)
    assert np.abs(slots).max() <= 1


def test_raw_pixels_are_refused(spec: ClientSpec) -> None:
    with pytest.raises(RangeError, match=r"the input reaches 255 and .* normalise it first"):
        spec.pack(np.full((3, 8, 8), 255.0))
    assert spec.pack(np.full((3, 8, 8), spec.input.scale))[0].max() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(spec: ClientSpec, value: float) -> None:
    image = np.zeros((3, 8, 8))
    image[1, 2, 3] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        spec.pack(image)


@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 8), (1, 3, 8, 8), (192,), (3, 9, 9)])
def test_inputs_of_another_shape_are_refused(spec: ClientSpec, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes inputs of shape \(3, 8, 8\), not"):
        spec.pack(np.zeros(shape))


def test_outputs_beyond_the_bound_are_no_result(spec: ClientSpec) -> None:
    slots, (output,) = np.zeros(512), spec.outputs
    slots[0] = 0.99 * output.bound / output.scale
    assert spec.unpack([slots])[output.name].shape == (10,)
    for value in (1.01 * output.bound / output.scale, np.nan, np.inf, -1e9):
        slots[3] = value
        with pytest.raises(RangeError, match="which no result of resnet8-tiny can be"):
            spec.unpack([slots])


def test_outputs_are_slots_times_the_scale_of_the_file(spec: ClientSpec) -> None:
    slots, (output,) = np.arange(512.0) / 512, spec.outputs
    assert np.array_equal(spec.unpack([slots])[output.name], slots[:10] * output.scale)


def test_a_vector_is_no_image() -> None:
    spec = fheinfer.compile(zoo.placeholder(zoo.network("checkerboard")), "insecure-tiny", activation="relu:13").client
    with pytest.raises(InputError, match="checkerboard takes 2 numbers, not an image; give arrays, by `--input"):
        _ = spec.image_size
    (slots,) = spec.pack(np.array([1.0, -0.5]))
    assert slots.shape == (2,)
    with pytest.raises(InputError, match="takes inputs of shape"):
        spec.pack(np.zeros(3))


def test_the_plan_of_a_spec_is_that_of_the_file(tiny_plan: Plan) -> None:
    assert tiny_plan.client.plan == tiny_plan.identity
