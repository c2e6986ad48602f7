"""Keys from a client.json, for one plan after another, on disk and in memory."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer.crypto.keygen as module
from fheinfer import _core
from fheinfer.client import Client
from fheinfer.crypto import passphrase
from fheinfer.crypto.artifact import Artifact
from fheinfer.crypto.ciphertexts import open_ciphertexts
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.key_writer import KeyAdder
from fheinfer.crypto.keygen import add_keys, generate, keygen, missing_keys, new_secret
from fheinfer.crypto.keystore import KeySet, ServerKeys
from fheinfer.crypto.manifest import FileEntry, Manifest
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import KeyStoreError, MismatchError, UsageError
from tests.crypto.specs import LOW, SHAPE, TINY, TURBO, spec
from tests.crypto.test_keystore import tree

OTHER, THIRD = "b" * 64, "c" * 64
HIGH: Rotations = ((1, 19), (3, 19))
"""Of CoeffToSlot: above the levels that a bootstrap returns."""


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "LOG2_N", 10)


def evaluates(keys: Path | KeySet, wanted: ClientSpec, secret: bytes | None = None) -> None:
    """Rotates with every key there."""
    client = Client(keys, wanted, secret=secret)
    server = ServerKeys(keys / "server" if isinstance(keys, Path) else keys)
    context = wanted.key_backend.context(wanted.params)
    x = np.random.default_rng(0).uniform(-1, 1, SHAPE)
    (slots,) = client.decrypt_slots(client.encrypt(x))
    for rotation, limbs in wanted.keys["fast"].rotations:
        evaluator = wanted.key_backend.evaluator(context, server.key_id, _core.KeyPolicy.fast)
        for name, body in server.read_all(server.manifest.keys_for([(rotation, limbs)], [])):
            evaluator.add_rotation_key(rotation, body)
            assert name.startswith(f"rotation_{rotation}_")
        assert isinstance(evaluator, _core.NativeEvaluator)
        level = min(wanted.input.level, limbs - 1)
        y = evaluator.rotate(evaluator.drop_to(evaluator.read(_body(client, x, wanted)), level), rotation)
        turned = client._required_secret().decrypt(evaluator.write(y), wanted.params.slots)
        assert np.abs(np.asarray(turned) - np.roll(slots, -rotation)).max() < 1e-5


def _body(client: Client, x: NDArray[np.float64], wanted: ClientSpec) -> memoryview:
    (body,) = open_ciphertexts(client.encrypt(x), wanted.params, wanted.backend, client.key_id).bodies
    return body


def test_keys_are_those_the_plan_needs_and_say_so(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    manifest = keygen(spec(), tmp_path / "k", policy="fast", progress=lambda done, total: told.append((done, total)))
    assert manifest == Manifest.load(tmp_path / "k" / "server" / "manifest.json")
    assert (manifest.rotations, manifest.bootstraps, manifest.policy) == (LOW, False, "fast")
    assert [(entry.plan, entry.model) for entry in manifest.plans] == [("a" * 64, "tests")]
    assert told == [(i, 5) for i in range(1, 6)]
    assert missing_keys(spec(), manifest) == []
    evaluates(tmp_path / "k", spec())


def test_a_plan_that_bootstraps_gets_the_keys_for_it(tmp_path: Path) -> None:
    wanted = spec(rotations=LOW + HIGH, bootstraps=True)
    manifest = keygen(wanted, tmp_path / "k")
    assert manifest.bootstraps
    assert {"conjugation.key", "to_sparse.key", "to_dense.key"} <= manifest.files.keys()
    assert "conjugation.key" in keygen(spec(TURBO), tmp_path / "turbo").files  # two inputs in one ciphertext


def test_keys_are_added_under_the_same_secret_and_those_that_serve_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    old = keygen(spec(), folder, policy="fast")
    before = tree(folder)
    second = spec(plan=OTHER, rotations=((1, 3), (7, 3), (1, 19), (3, 19)), bootstraps=True)
    # 1 is served by a taller key, 7 gets the height of those there; high keys have a height of their own.
    new = ["rotation_7_4.key", "rotation_1_19.key", "rotation_3_19.key"]
    assert missing_keys(second, old) == ["conjugation.key", "to_sparse.key", "to_dense.key", *new]
    manifest = add_keys(second, folder)
    assert manifest == Manifest.load(folder / "server" / "manifest.json")
    assert [entry.plan for entry in manifest.plans] == ["a" * 64, OTHER]
    assert manifest.rotations == ((1, 4), (1, 19), (2, 4), (3, 19), (5, 4), (7, 4))
    assert manifest.bootstraps
    after = tree(folder)
    assert {name: after[name] for name in before if "manifest" not in name} == {
        name: data for name, data in before.items() if "manifest" not in name
    }
    evaluates(folder, spec(rotations=((1, 4), (7, 4))))
    assert add_keys(second, folder) == manifest
    assert tree(folder) == after


def test_a_plan_that_lacks_nothing_is_entered_without_the_secret(tmp_path: Path) -> None:
    secret = new_secret(spec())
    keygen(spec(), tmp_path / "k", secret=secret)
    manifest = add_keys(spec(plan=OTHER), tmp_path / "k")
    assert [entry.plan for entry in manifest.plans] == ["a" * 64, OTHER]


def test_taller_keys_come_beside_shorter_ones(tmp_path: Path) -> None:
    old = keygen(spec(), tmp_path / "k")
    assert missing_keys(spec(rotations=((1, 6), (2, 3))), old) == ["rotation_1_6.key"]
    openfhe = spec(f"{TINY}-openfhe", rotations=((1, 5), (2, 7)))
    other = keygen(openfhe, tmp_path / "openfhe")
    # OpenFHE's keys each have a height of their own.
    needs = spec(f"{TINY}-openfhe", rotations=((1, 6), (2, 3), (3, 4)))
    assert missing_keys(needs, other) == ["rotation_3_4.key", "rotation_1_6.key"]
    assert add_keys(needs, tmp_path / "openfhe").rotations == ((1, 5), (1, 6), (2, 7), (3, 4))


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_an_addition_that_is_cut_off_leaves_the_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    folder = tmp_path / "k"
    old, second = keygen(spec(), folder), spec(plan=OTHER, rotations=((7, 3), (8, 3), (9, 3)))
    add, calls = KeyAdder.add, [0]

    def killed(self: KeyAdder, name: str, container: Artifact) -> FileEntry:
        calls[0] += 1
        if calls[0] > stop_after:
            raise KeyboardInterrupt
        return add(self, name, container)

    monkeypatch.setattr(KeyAdder, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        add_keys(second, folder)
    monkeypatch.undo()
    monkeypatch.setenv("FHEINFER_ALLOW_INSECURE", "1")
    assert Manifest.load(folder / "server" / "manifest.json") == old
    evaluates(folder, spec())
    assert len(add_keys(second, folder).rotations) == 6


def test_keys_of_other_parameters_or_another_backend_are_not_added_to(tmp_path: Path) -> None:
    keygen(spec(), tmp_path / "k", policy="minimal")
    before = tree(tmp_path)
    for other in (spec(TURBO), spec(f"{TINY}-openfhe")):
        with pytest.raises(MismatchError, match="another folder"):
            add_keys(other, tmp_path / "k")
    fast_only = spec(plan=OTHER, keys={"fast": spec().keys["fast"]})
    with pytest.raises(MismatchError, match=r"minimal keys .*fast ones"):
        add_keys(fast_only, tmp_path / "k")
    with pytest.raises(KeyStoreError, match="fheinfer keygen"):
        add_keys(spec(), tmp_path / "none")
    assert tree(tmp_path) == before


def test_a_secret_from_a_vault_never_touches_the_disk(tmp_path: Path) -> None:
    secret = new_secret(spec())
    manifest = keygen(spec(), tmp_path / "k", secret=secret)
    more = spec(plan=OTHER, rotations=((7, 3),))
    with pytest.raises(KeyStoreError, match="no such secret key"):
        add_keys(more, tmp_path / "k")
    add_keys(more, tmp_path / "k", secret=secret)
    body = secret[128:]
    assert len(body) == 2048
    assert [p.name for p in (tmp_path / "k").iterdir()] == ["server"]
    assert not any(body[:64] in data for data in tree(tmp_path).values())
    evaluates(tmp_path / "k", spec(rotations=((7, 3),)), secret)
    assert generate(spec(), secret=secret).secret is None
    assert generate(spec(), secret=secret).manifest.key_id == manifest.key_id
    with pytest.raises(MismatchError, match="another key"):
        add_keys(spec(plan=THIRD, rotations=((9, 3),)), tmp_path / "k", secret=new_secret(spec()))
    with pytest.raises(MismatchError, match="another parameter set"):
        keygen(spec(), tmp_path / "other", secret=new_secret(spec(TURBO)))
    assert not (tmp_path / "other").exists()


def test_a_passphrase_is_asked_for_again_where_the_secret_is_used(tmp_path: Path) -> None:
    keygen(spec(), tmp_path / "k", passphrase="correct horse")
    assert b'"scrypt"' in (tmp_path / "k" / "secret" / "secret.key").read_bytes()
    more = spec(plan=OTHER, rotations=((7, 3),))
    with pytest.raises(KeyStoreError, match="has a passphrase"):
        add_keys(more, tmp_path / "k")
    with pytest.raises(KeyStoreError, match="does not open"):
        add_keys(more, tmp_path / "k", passphrase="wrong")
    add_keys(more, tmp_path / "k", passphrase="correct horse")
    sealed = new_secret(spec(), passphrase=b"vault")
    with pytest.raises(KeyStoreError, match="has a passphrase"):
        keygen(spec(), tmp_path / "v", secret=sealed)
    keygen(spec(), tmp_path / "v", secret=sealed, passphrase=b"vault")


def test_keys_in_memory_do_the_same(tmp_path: Path) -> None:
    keys = generate(spec(), policy="fast")
    assert keys.secret is not None
    evaluates(keys, spec())
    keys.save(tmp_path / "k")
    evaluates(tmp_path / "k", spec())
    assert KeySet.load(tmp_path / "k") == keys
    add_keys(spec(plan=OTHER, rotations=((7, 3),)), tmp_path / "k")


def test_force_and_policies(tmp_path: Path) -> None:
    first = keygen(spec(), tmp_path / "k")
    with pytest.raises(KeyStoreError, match="--force"):
        keygen(spec(), tmp_path / "k")
    assert keygen(spec(), tmp_path / "k", force=True).key_id != first.key_id
    with pytest.raises(UsageError, match="no rotation keys of the kind"):
        keygen(spec(), tmp_path / "other", policy="huge")
    assert not (tmp_path / "other").exists()


def test_keys_say_nothing_of_set_names(tmp_path: Path) -> None:
    keygen(spec(), tmp_path / "k")
    path = tmp_path / "k" / "server" / "manifest.json"
    found = json.loads(path.read_text())
    found["params"]["name"] = "renamed"
    path.write_text(json.dumps(found))
    assert ServerKeys(tmp_path / "k" / "server", identity=spec().identity).manifest.set_name == "renamed"
    evaluates(tmp_path / "k", spec())


ALLOWED = (
    "fheinfer.crypto",
    "fheinfer.errors",
    "fheinfer.packing",
    "fheinfer._core",
    "fheinfer.leftovers",
    "fheinfer.machine",
    "fheinfer.progress",
    "fheinfer.storage",
    "fheinfer.tensor_file",
)


def test_clients_and_keygen_reach_no_model_compiler_or_server() -> None:
    root, seen, waiting = Path(module.__file__).parents[1], set(), ["fheinfer.client", "fheinfer.crypto.keygen"]
    while waiting:
        name = waiting.pop()
        path = root.parent / (name.replace(".", "/") + ".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    outside = {name for name in seen if not name.startswith(ALLOWED)} - {"fheinfer.client"}
    assert not outside
    assert "fheinfer.crypto.secret" in seen


def test_memory_is_asked_for_by_the_size_of_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked for 3 GiB whatever the set, and turbo's keys take 271 MB to make."""
    monkeypatch.setattr(module, "usable_threads", lambda: 2)
    turbo, first = (module.needed_memory(parameter_set(name), "native") for name in ("turbo", "1"))
    assert 271e6 < turbo < 400 << 20
    assert turbo < first < 700 << 20
    assert module.needed_memory(parameter_set("1-openfhe"), "openfhe") == 3 << 30
    monkeypatch.setattr(module, "usable_threads", lambda: 32)
    assert module.needed_memory(parameter_set("1"), "native") > 2 * first
