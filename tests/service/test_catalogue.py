"""The models of a service: copies that no change of the folder reaches, checked by their hashes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.cli import choices, serve
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, NotFoundError, StorageError
from fheinfer.model.model import Model
from fheinfer.service.catalogue import Catalogue
from fheinfer.service.store import DAY, Store


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def models(tmp_path: Path, tiny_plan_folder: Path) -> Path:
    shutil.copytree(tiny_plan_folder, tmp_path / "models" / "tiny")
    return tmp_path / "models"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store(tmp_path / "service.db", clock)


@pytest.fixture
def catalogue(models: Path, tmp_path: Path, store: Store) -> Catalogue:
    return Catalogue(models, tmp_path / "data", store, keep_plans=10 * DAY)


@pytest.fixture(scope="session")
def other_plan(tiny_model: Model) -> Plan:
    """Another plan for the same network: its last weights are others."""
    name = next(name for name in tiny_model.tensors if name.endswith("bias"))
    tensors = {**tiny_model.tensors, name: tiny_model.tensors[name] + 1}
    return fheinfer.compile(dataclasses.replace(tiny_model, tensors=tensors), "insecure-tiny")


def test_a_model_is_described_by_its_client_json(catalogue: Catalogue, models: Path, tiny_plan: Plan) -> None:
    (models / "tiny" / "about.json").write_text(json.dumps({"accuracy": 0.5, "description": "of noise"}))
    (models / ".hidden").mkdir()
    (models / "README").write_text("no folder")
    assert catalogue.refresh() == {}
    assert [info.name for info in catalogue.models()] == ["tiny"]
    info, spec = catalogue.model("tiny"), tiny_plan.client
    assert (info.plan, info.set, info.accuracy, info.description) == (spec.plan, "insecure-tiny", 0.5, "of noise")
    assert (tuple(info.input_shape), info.input_bytes) == (spec.input_shape, spec.input.bytes)
    assert info.seconds.keys() == info.memory.keys() == info.key_bytes.keys() == spec.keys.keys()
    assert catalogue.spec(info.plan) == spec
    copy = catalogue.folder(info.plan)
    assert fheinfer.load_plan(copy).identity == info.plan
    assert catalogue.file(info.plan, "client.json").read_bytes() == (models / "tiny" / "client.json").read_bytes()


def test_the_model_that_comes_with_it_has_its_accuracy(
    tmp_path: Path, tiny_plan_folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "plan_folder", lambda *_: tiny_plan_folder)  # what is told of it is the real model's
    catalogue = Catalogue(serve._shipped(tmp_path / "data"), tmp_path / "data", store)
    assert catalogue.refresh() == {}
    info = catalogue.model("turbo")
    assert (info.accuracy, info.description) == (0.908, "accuracy on 5,000 test images")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\0b", "x" * 5000, "", ".", "nothing"])
def test_a_path_is_no_name_of_a_model_or_plan(catalogue: Catalogue, name: str) -> None:
    catalogue.refresh()
    plan = catalogue.model("tiny").plan
    for ask in (catalogue.model, catalogue.spec, catalogue.folder, lambda name: catalogue.file(plan, name)):
        with pytest.raises(NotFoundError):
            ask(name)
    with pytest.raises(NotFoundError):
        catalogue.file(plan, "plan.safetensors")  # weights leave by no request
    with pytest.raises(NotFoundError):
        catalogue.file(plan, "client.safetensors")  # it has none


def test_a_running_plan_does_not_change_with_the_folder(catalogue: Catalogue, models: Path, other_plan: Plan) -> None:
    catalogue.refresh()
    old = catalogue.model("tiny").plan
    before = (catalogue.folder(old) / "plan.safetensors").read_bytes()
    with (models / "tiny" / "plan.safetensors").open("r+b") as file:  # in place, as `cp` writes
        file.write(bytes(100))
    assert (catalogue.folder(old) / "plan.safetensors").read_bytes() == before
    other_plan.save(models / "tiny")
    assert catalogue.refresh() == {}
    assert catalogue.model("tiny").plan == other_plan.identity != old
    assert (catalogue.folder(old) / "plan.safetensors").read_bytes() == before


def test_an_old_plan_stays_usable_for_its_time_and_while_a_job_needs_it(
    catalogue: Catalogue, models: Path, store: Store, clock: Clock, other_plan: Plan, tiny_keys: Path
) -> None:
    """Row "many queries copy the model": old plans are kept for clients that encrypted before an update."""
    catalogue.refresh()
    old = catalogue.model("tiny").plan
    account = store.account_of(store.add_token("anna", days=100))
    assert account is not None
    manifest = Manifest.load(tiny_keys / "server" / "manifest.json")
    store.put_key_set(account.id, manifest)
    job, _ = store.add_job(account.id, old, manifest.key_id, "1" * 64, "1" * 32, 1.0)
    other_plan.save(models / "tiny")
    catalogue.refresh()
    clock.now += 9 * DAY
    catalogue.expire()
    assert catalogue.spec(old).plan == old
    clock.now += 2 * DAY
    catalogue.expire()
    folder = catalogue.folder(old)  # for the job that waits
    store.fail_job(job.id, "BackendError", "no")
    catalogue.expire()
    assert not folder.exists()
    with pytest.raises(NotFoundError):
        catalogue.spec(old)
    assert catalogue.spec(other_plan.identity).plan == other_plan.identity


def test_a_plan_that_comes_back_or_has_another_name_is_kept(
    catalogue: Catalogue, models: Path, clock: Clock, tiny_plan: Plan, other_plan: Plan
) -> None:
    catalogue.refresh()
    other_plan.save(models / "tiny")
    tiny_plan.save(models / "second")
    catalogue.refresh()
    clock.now += 11 * DAY
    catalogue.expire()
    assert catalogue.model("second").plan == tiny_plan.identity
    tiny_plan.save(models / "tiny")
    shutil.rmtree(models / "second")
    catalogue.refresh()
    clock.now += 11 * DAY
    catalogue.expire()
    assert catalogue.folder(catalogue.model("tiny").plan).is_dir()
    assert [info.name for info in catalogue.models()] == ["tiny"]


def test_what_does_not_belong_together_is_refused_and_the_old_model_stays(
    catalogue: Catalogue, models: Path, other_plan: Plan
) -> None:
    catalogue.refresh()
    old = catalogue.model("tiny").plan
    other_plan.save(models / "tiny")
    plan = models / "tiny" / "plan.safetensors"
    data = bytearray(plan.read_bytes())
    data[-1] ^= 1
    plan.write_bytes(data)
    assert isinstance(catalogue.refresh()["tiny"], MismatchError)
    plan.unlink()
    assert isinstance(catalogue.refresh()["tiny"], InputError)
    (models / "tiny" / "client.json").write_text("{")
    assert isinstance(catalogue.refresh()["tiny"], CorruptArtifactError)
    assert catalogue.model("tiny").plan == old
    assert [path.name for path in catalogue.folder(old).parent.iterdir()] == [old]  # nothing half copied
    other_plan.save(models / "tiny")
    (models / "tiny" / "about.json").write_text('{"accuracy": 2}')
    assert isinstance(catalogue.refresh()["tiny"], CorruptArtifactError)


def test_a_missing_folder_of_models_says_what_to_do(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="fheinfer compile"):
        Catalogue(tmp_path / "none", tmp_path / "data", store).refresh()


def test_folders_that_are_no_model_are_told_and_the_others_served(
    catalogue: Catalogue, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models / "tiny", models / "My Model")
    shutil.copytree(models / "tiny", models / "shut")
    (models / "empty").mkdir()
    really = os.open

    def refuse(path: Any, *more: Any) -> int:
        if Path(path).parent.name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, *more)

    monkeypatch.setattr("fheinfer.storage.os.open", refuse)
    wrong = {name: str(error) for name, error in catalogue.refresh().items()}
    assert sorted(wrong) == ["My Model", "empty", "shut"]
    assert "rename it" in wrong["My Model"]
    assert "no client.json" in wrong["empty"]
    assert "ermission" in wrong["shut"]
    assert [info.name for info in catalogue.models()] == ["tiny"]


def test_the_folder_of_one_model_is_no_folder_of_models(models: Path, tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="name the folder that it is in"):
        Catalogue(models / "tiny", tmp_path / "data", store).refresh()


def test_a_full_disk_leaves_nothing_of_a_copy(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fheinfer.storage.os.fsync", full)
    assert isinstance(catalogue.refresh()["tiny"], StorageError)
    assert not list((tmp_path / "data" / "plans").iterdir())
    monkeypatch.undo()
    assert catalogue.refresh() == {}


def test_layers_that_the_client_computes_are_copied_unread(
    catalogue: Catalogue, models: Path, tiny_model: Model
) -> None:
    first, _, second = (node.name for node in tiny_model.graph.activations[:3])
    plan = fheinfer.compile(tiny_model, "insecure-tiny", client_until=first)
    plan.save(models / "split")
    assert catalogue.refresh() == {}
    info = catalogue.model("split")
    assert info.split
    layers = catalogue.file(info.plan, "client.safetensors")
    assert layers.read_bytes() == (models / "split" / "client.safetensors").read_bytes()
    assert fheinfer.ClientSpec.load(layers.parent) == plan.client
    fheinfer.compile(tiny_model, "insecure-tiny", client_until=second).save(models / "other")
    (models / "other" / "client.safetensors").write_bytes(layers.read_bytes())
    assert isinstance(catalogue.refresh()["other"], MismatchError)
