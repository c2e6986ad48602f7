"""manifest.json: everything valid is read back, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fheinfer.crypto import manifest as manifests
from fheinfer.crypto.artifact import Kind
from fheinfer.crypto.client_spec import ALLOW_INSECURE
from fheinfer.crypto.key_policy import select
from fheinfer.crypto.manifest import FileEntry, Manifest, PlanEntry, describe, rotation_file
from fheinfer.crypto.params import key_identity, parameter_set, parameter_sets
from fheinfer.errors import CorruptArtifactError, FheinferError, KeyStoreError, MismatchError, PlanError

KEY = "ab" * 16
ENTRY = FileEntry(bytes=100, sha256="0" * 64)


def sample(*rotations: tuple[int, int], name: str = "insecure-tiny", **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "params": parameter_set(name),
        "backend": "native",
        "key_id": KEY,
        "policy": "fast",
        "plans": (PlanEntry(plan="1" * 64, model="resnet20"),),
        "created": "2026-01-02T03:04:05+00:00",
        "rotations": tuple(sorted(rotations)),
        "files": dict.fromkeys(("public.key", "relinearisation.key", *(rotation_file(*r) for r in rotations)), ENTRY),
    }
    return Manifest(**(fields | changes))


@given(
    st.sets(st.tuples(st.integers(0, 1023), st.integers(1, 18)), max_size=20),
    st.lists(st.text(max_size=200), min_size=1, max_size=5),
    st.sampled_from(["fast", "minimal"]),
    st.sampled_from([s.name for s in parameter_sets(insecure=True) if s.limbs(s.top_level) > 17]),
)
def test_round_trip(rotations: set[tuple[int, int]], models: list[str], policy: str, name: str) -> None:
    plans = tuple(PlanEntry(plan=f"{i:064x}", model=model) for i, model in enumerate(models))
    written = sample(*rotations, name=name, plans=plans, policy=policy)
    read = Manifest.from_bytes(json.dumps(written.to_json()).encode())
    assert read == written
    assert read.params == parameter_set(name)


@given(st.data())
def test_a_mutated_manifest_raises_only_typed_errors(data: st.DataObject) -> None:
    good = bytearray(json.dumps(sample((1, 2)).to_json()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        Manifest.from_bytes(bytes(good))
    except FheinferError as error:
        assert "\n" not in str(error)


def _files(*names: str) -> dict[str, Any]:
    return {name: ENTRY.model_dump() for name in ("public.key", "relinearisation.key", *names)}


def _params(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = sample().to_json()["params"]
    return {"params": fields | changes}


@pytest.mark.parametrize(
    "change",
    [
        {"files": _files("../secret/secret.key")},
        {"files": _files("secret.key")},
        {"files": _files("rotation_01_2.key"), "rotations": [[1, 2]]},
        {"files": _files("to_dense.key")},
        {"files": {"public.key": ENTRY.model_dump()}},
        {"files": _files() | {"public.key": {"bytes": -1, "sha256": "0" * 64}}},
        {"files": _files("rotation_5_3.key")},
        {"rotations": [[5, 3]]},
        {"rotations": {"5": 3}},
        {"rotations": [5, 3]},
        {"rotations": [["5", 3]], "files": _files("rotation_5_3.key")},
        {"rotations": [[5, 30]], "files": _files("rotation_5_30.key")},
        {"rotations": [[1024, 3]], "files": _files("rotation_1024_3.key")},
        {"rotations": [[-1, 3]]},
        {"unknown": 1},
        {"key_id": "AB" * 16},
        {"key_id": KEY + "\n"},
        {"created": "yesterday"},
        {"format": "4"},
        {"policy": "auto"},
        {"plans": []},
        {"plans": [{"plan": "x", "model": ""}]},
        {"params": "1"},
        _params(log_n="11"),
        _params(log_n=10**9),
        _params(slots=500),
        _params(slots=0),
        _params(digits=10**6),
        _params(levels=-1),
        _params(chain="paired"),
        _params(first_bits=True),
        _params(name="../x"),
        _params(network="resnet20"),
    ],
)
def test_impossible_manifests_are_corrupt(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptArtifactError, match="damaged") as caught:
        Manifest.from_bytes(json.dumps(sample().to_json() | change).encode())
    assert "\n" not in str(caught.value)


def test_a_manifest_of_the_future_of_the_past_or_over_a_mebibyte(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for version in (manifests.FORMAT - 1, manifests.FORMAT + 1):
        path.write_text(json.dumps(sample().to_json() | {"format": version, "more": 1}))
        with pytest.raises(MismatchError, match=f"version {version} of the format"):
            Manifest.load(path)
    path.write_bytes(b" " * (manifests.MAX_BYTES + 1))
    with pytest.raises(CorruptArtifactError, match="larger"):
        Manifest.load(path)
    with pytest.raises(KeyStoreError, match="fheinfer keygen"):
        Manifest.load(tmp_path / "none" / "manifest.json")


def test_insecure_parameters_are_refused_unless_tests_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.dumps(sample().to_json()).encode()
    monkeypatch.delenv(ALLOW_INSECURE)
    with pytest.raises(PlanError, match="less than 128 bits"):
        Manifest.from_bytes(raw)
    Manifest.from_bytes(json.dumps(sample(name="1").to_json()).encode())


def test_the_identity_is_of_numbers_and_backend_and_not_of_names() -> None:
    one, relu = parameter_set("1"), parameter_set("relu")
    assert key_identity(one, "native") == key_identity(relu, "native") != key_identity(one, "openfhe")
    assert sample(name="1").identity == key_identity(one, "native") != sample().identity
    assert len(sample().identity) == 32


def test_file_names_say_kind_and_metadata() -> None:
    assert describe("rotation_12_3.key") == (Kind.ROTATION_KEY, {"rotation": 12, "limbs": 3})
    assert describe("to_dense.key") == (Kind.ENCAPSULATION_TO_DENSE, {})
    assert describe("secret.key") is None
    assert describe("rotation_012_3.key") is None


def test_keys_of_rotations_that_share_work_are_of_one_height() -> None:
    there = sample((1, 4), (1, 6), (2, 6), (1, 15), (3, 15), (9, 15))
    low = there.keys_for([(1, 3), (2, 3)], ["relinearisation.key"])
    assert low == ["relinearisation.key", "rotation_1_6.key", "rotation_2_6.key"]
    assert there.keys_for([(1, 3)], []) == ["rotation_1_4.key"]
    assert there.keys_for([(1, 14), (3, 14), (2, 5)], []) == [
        "rotation_1_15.key",
        "rotation_2_6.key",
        "rotation_3_15.key",
    ]
    # 9 has a key of CoeffToSlot only, which is no key for anything else.
    assert there.select([(1, 3), (9, 3)]).missing == ((9, 4),)
    with pytest.raises(MismatchError, match=r"for resnet20 and lack 3 .*keygen --add"):
        there.keys_for([(1, 5), (2, 5), (3, 5), (9, 5)], ["conjugation.key"])


def test_openfhe_takes_keys_of_any_height() -> None:
    there = sample((1, 4), (1, 9), (2, 15), name="insecure-tiny-openfhe", backend="openfhe")
    assert there.keys_for([(1, 3), (2, 3)], []) == ["rotation_1_4.key", "rotation_2_15.key"]
    assert there.select([(1, 10), (2, 10)]) == (((2, 15),), ((1, 10),))


rotations = st.sets(st.tuples(st.integers(0, 5), st.integers(1, 14)), max_size=12)


@given(rotations, rotations, st.sampled_from([None, 7]))
def test_what_is_missing_is_enough(there: set[tuple[int, int]], needs: set[tuple[int, int]], split: int | None) -> None:
    first = select(there, needs, split)
    assert set(first.use) <= there
    assert not set(first.missing) & there
    then = select(there | set(first.missing), needs, split)
    assert then.missing == ()
    for limbs in {limbs for _, limbs in needs}:
        group = {k for k, have in needs if have == limbs}
        serving = {
            height: {k for k, have in then.use if have == height}
            for height in {have for _, have in then.use}
            if height >= limbs and (split is None or (height > split) == (limbs > split))
        }
        if split is None:
            assert group <= set().union(*serving.values())
        else:  # one height serves all that share it, on the same side of the split
            assert any(group <= rotations for rotations in serving.values())
