"""The remote client where all goes well, and where keys are made, renewed and lost."""

from __future__ import annotations

import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import fheinfer
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import KeyStoreError, NotEnoughMemoryError, UsageError
from fheinfer.service.remembered import locked
from fheinfer.service.remote import RemoteModel
from tests.conftest import TINY
from tests.service.fake import URL, FakeService, problem
from tests.service.remotes import (
    NEAR,
    clear,
    compiled,
    fake,
    impatient,
    network,
    other_folder,
    plan_folder,
    remote,
    vectors,
)

__all__ = ["fake", "impatient", "other_folder", "plan_folder", "remote"]
Make = Callable[..., fheinfer.Remote]
FOLDER = Path("servers/127.0.0.1_8000")


def names(events: list[Any]) -> list[str]:
    """Kinds of events, each once where it comes several times in a row."""
    kinds = [event["event"] for event in events]
    return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]


def test_the_whole_way(remote: Make, fake: FakeService, plan_folder: Path, tmp_path: Path) -> None:
    events: list[Any] = []
    [x] = vectors(1)
    client = remote()
    found = client.infer(x, on_event=events.append)
    assert np.abs(found - clear(plan_folder, x)).max() < NEAR
    assert names(events) == ["keygen", "upload", "encrypt", "queued", "step", "result", "decrypt"]
    assert [event["fraction"] for event in events if event["event"] == "keygen"][-1] == 1
    uploads = [event for event in events if event["event"] == "upload"]
    assert [event["done"] for event in uploads] == sorted({event["done"] for event in uploads})
    assert uploads[-1]["done"] == uploads[-1]["total"] > 0
    queued, step = (next(event for event in events if event["event"] == kind) for kind in ("queued", "step"))
    assert queued["position"] == 1
    assert (step["index"], step["total"], step["seconds_left"]) == (1, 2, 0.5)
    assert fake.jobs == {}  # the service keeps nothing that is not needed any more

    files = {str(path.relative_to(tmp_path / FOLDER)) for path in (tmp_path / FOLDER).rglob("*") if path.is_file()}
    assert {"server.json", "first/client.json", "first/results.json", "first/keys/secret/secret.key"} <= files
    assert stat.S_IMODE((tmp_path / FOLDER / "first").stat().st_mode) == 0o700

    events.clear()
    fake.seen.clear()
    again = remote().infer(x, "first", events.append)
    assert np.abs(again - found).max() < NEAR
    assert names(events) == ["encrypt", "queued", "step", "result", "decrypt"]
    assert not [line for line in fake.seen if line.startswith("PUT") or "client.json" in line]


def test_several_inputs_and_outputs(remote: Make, fake: FakeService, tmp_path: Path) -> None:
    fake.serve("heads", compiled(tmp_path / "heads", network(3, ("kind", "price"))))
    xs = vectors(6)
    found = remote().infer(xs, "heads")
    assert {name: values.shape for name, values in found.items()} == {"kind": (6, 3), "price": (6, 1)}
    for i, x in enumerate(xs):
        expected = clear(tmp_path / "heads", x)
        assert all(np.abs(found[name][i] - expected[name]).max() < NEAR for name in found)
    one = remote().infer(xs[2], "heads")
    assert all(np.abs(one[name] - found[name][2]).max() < NEAR for name in found)


def test_an_image(remote: Make, fake: FakeService, tiny_plan_folder: Path, tiny_plan: Any, tiny_image: Any) -> None:
    fake.serve("tiny", tiny_plan_folder)
    found = remote().open("tiny").outputs(tiny_image)["fc"]
    assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, tiny_image), found).minimum > 3


def test_a_split_model(remote: Make, fake: FakeService, tiny_model: Any, tiny_image: Any, tmp_path: Path) -> None:
    plan = fheinfer.compile(tiny_model, TINY, client_until=tiny_model.graph.activations[0].name)
    plan.save(tmp_path / "split")
    fake.serve("split", tmp_path / "split")
    found = remote().infer(tiny_image, "split")
    expected = fheinfer.plain_outputs(tiny_model, tiny_image)
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    remote().open("split")  # with what is pinned
    fake.answer = lambda request, true: (
        httpx.Response(200, content=true.content + b" ") if request.url.path.endswith(".safetensors") else true
    )
    with pytest.raises(fheinfer.errors.UnreachableError, match="damaged answer"):
        remote().open("split", accept_plan=True)


def test_step_by_step(remote: Make, plan_folder: Path) -> None:
    [x] = vectors(1)
    model = remote().open()
    with pytest.raises(UsageError, match="prepare"):
        model.encrypt(x)
    model.prepare()
    encrypted = model.encrypt(x)
    job = model.submit(encrypted)
    assert model.submit(encrypted).id == job.id
    assert model.follow(job.id).state == "done"
    result = model.result(job.id, encrypted)
    found = model.decrypt(result, encrypted)
    assert np.abs(found["kind"] - clear(plan_folder, x)).max() < NEAR
    with pytest.raises(fheinfer.errors.JobError, match="fetched already"):
        model.result(job.id, encrypted)
    model.delete(job.id)
    model.delete(job.id)


def test_models_and_their_names(remote: Make, fake: FakeService, other_folder: Path) -> None:
    client = remote()
    assert [info.name for info in client.models()] == ["first"]
    assert client.open() is client.open("first")
    fake.serve("second", other_folder)
    with pytest.raises(UsageError, match="name one of first, second"):
        client.open()
    for name in ("../first", "first\n", "", "a/b", "x" * 65, "."):
        seen = len(fake.seen)
        with pytest.raises(UsageError, match="no name of a model"):
            client.open(name)
        assert len(fake.seen) == seen
    with pytest.raises(fheinfer.errors.NotFoundError):
        client.open("third")
    fake.models.clear()
    with pytest.raises(fheinfer.errors.NotFoundError, match="no model"):
        client.open()


# Keys: made once, renewed, lost.


def test_new_keys_after_so_many_results(remote: Make, fake: FakeService, plan_folder: Path, tmp_path: Path) -> None:
    """Threat "chosen ciphertexts and IND-CPA-D": new keys after a set number of results."""
    xs = vectors(5)
    used: list[set[str]] = []
    for x in xs:
        remote(renew_after=2).infer(x)
        used.append(set(fake.keys))
    assert [len(keys) for keys in used] == [1] * 5  # replaced ones are deleted at the service
    first, second, third = (next(iter(used[i])) for i in (0, 2, 4))
    assert used == [{first}, {first}, {second}, {second}, {third}]
    assert len({first, second, third}) == 3
    fake.keys.clear()
    found = remote(renew_after=2).infer(vectors(5, 1))  # in one call, too
    assert np.abs(found[4] - clear(plan_folder, vectors(5, 1)[4])).max() < NEAR
    assert fake.seen.count(f"DELETE /v1/keys/{third}") == 1
    with pytest.raises(UsageError, match="1 or more"):
        remote(renew_after=0)


def test_replaced_keys_stay_while_a_job_needs_them(remote: Make, fake: FakeService) -> None:
    model = remote(renew_after=1).open()
    [x, y] = vectors(2)
    model.outputs(x)
    [old] = fake.keys
    encrypted = model.encrypt(y)
    job = model.submit(encrypted)
    fake.jobs[job.id] = job.model_copy(update={"state": "running"})
    remote(renew_after=1).infer(x)
    assert len(fake.keys) == 2
    fake.jobs[job.id] = job
    assert model.decrypt(model.result(job.id, encrypted), encrypted)["kind"].shape == (3,)
    remote(renew_after=1).infer(x)
    assert old not in fake.keys
    assert len(fake.keys) == 1


def test_keys_that_the_service_lost_are_uploaded_again(remote: Make, fake: FakeService) -> None:
    model = remote().open()
    [x] = vectors(1)
    before = model.outputs(x)
    [key_id] = fake.keys
    parts = iter([True])

    def forget(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        if request.method == "POST" and next(parts, False):
            fake.keys.clear()
            return problem(409, "KeyStoreError", "keys are missing")
        return true

    fake.answer = forget
    assert np.abs(model.outputs(x)["kind"] - before["kind"]).max() < NEAR
    assert set(fake.keys) == {key_id}
    fake.answer = lambda request, true: (
        problem(409, "KeyStoreError", "keys are missing") if request.method == "POST" else true
    )
    with pytest.raises(KeyStoreError, match="keys are missing"):  # and not for ever
        model.outputs(x)


def test_two_clients_at_once_make_keys_once(remote: Make, fake: FakeService, plan_folder: Path) -> None:
    xs, found = vectors(4), {}
    models = [remote().open() for _ in xs]

    def run(i: int) -> None:
        found[i] = models[i].outputs(xs[i])["kind"]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake.keys) == 1
    for i, x in enumerate(xs):
        assert np.abs(found[i] - clear(plan_folder, x)).max() < NEAR
    assert models[0].folder.results(next(iter(fake.keys))) == 4


def test_a_lock_is_waited_for(remote: Make) -> None:
    model = remote().open()
    done = threading.Event()

    def run() -> None:
        model.prepare()
        done.set()

    thread = threading.Thread(target=run)
    with locked(model.folder.folder / ".keys.lock"):
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    assert done.is_set()


def test_a_client_that_was_killed_while_it_replaced_keys(remote: Make, fake: FakeService) -> None:
    model = remote(renew_after=1).open()
    [x] = vectors(1)
    model.outputs(x)
    [old] = fake.keys
    keys = model.folder.keys
    keys.rename(keys.with_name("keys.old-0123abcd"))  # moved aside, and then the process was gone
    assert remote().open().outputs(x)["kind"].shape == (3,)
    assert not list(keys.parent.glob("keys.old-*"))
    assert old not in fake.keys
    assert len(fake.keys) == 1


def test_a_passphrase_seals_all_keys_that_are_made(remote: Make, tmp_path: Path) -> None:
    [x] = vectors(1)
    for _ in range(3):
        remote(passphrase="open", renew_after=1).infer(x)
        with pytest.raises(KeyStoreError, match="passphrase"):
            remote(passphrase="other", renew_after=1).infer(x)
        with pytest.raises(KeyStoreError, match="passphrase"):
            remote(renew_after=1).infer(x)  # not replaced by keys without one
    shutil.rmtree(tmp_path / FOLDER / "first" / "keys" / "secret")
    with pytest.raises(KeyStoreError, match="secret key is gone"):
        remote().infer(x)


def test_a_bad_input_costs_nothing(remote: Make, fake: FakeService) -> None:
    for bad, kind in ((np.zeros(3), "InputError"), (np.full(6, np.nan), "InputError"), (np.full(6, 9.0), "RangeError")):
        with pytest.raises(getattr(fheinfer.errors, kind)):
            remote().infer(bad)
    assert fake.keys == {}


def test_a_limit_of_jobs_is_no_reason_to_sleep(remote: Make, fake: FakeService, plan_folder: Path) -> None:
    """A service that lets one job wait gets one after another, and none of its pauses are slept."""

    def one_job(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", "/v1/jobs") and len(fake.jobs) > 1:
            del fake.jobs[true.json()["id"]]
            refused = problem(429, "LimitError", "too many jobs wait")
            refused.headers["retry-after"] = "30"
            return refused
        return true

    fake.answer = one_job
    found = remote(patience=20).infer(vectors(5))
    assert np.abs(found - np.stack([clear(plan_folder, x) for x in vectors(5)])).max() < NEAR
    assert fake.jobs == {}


def test_keys_are_of_a_kind_that_the_workers_have_the_memory_for(
    remote: Make, fake: FakeService, tiny_plan_folder: Path
) -> None:
    def policy() -> str:
        [found] = fake.keys.values()
        return Manifest.model_validate_json(found.manifest).policy

    fake.models = {"tiny": tiny_plan_folder}
    fake.folders = {ClientSpec.load(tiny_plan_folder).plan: tiny_plan_folder}
    needs = {kind: need.peak_memory for kind, need in ClientSpec.load(tiny_plan_folder).keys.items()}
    assert needs["minimal"] < needs["fast"]
    fake.worker_memory = needs["minimal"] - 1
    with pytest.raises(NotEnoughMemoryError, match=r"a worker there has .* MB .* ask its owner"):
        remote().open().prepare()
    assert fake.keys == {}
    fake.worker_memory = needs["minimal"]
    with pytest.raises(NotEnoughMemoryError, match="with fast keys; make others by --rotations auto"):
        remote(rotations="fast").open().prepare()
    remote().open().prepare()
    assert policy() == "minimal"
    fake.worker_memory = None
    remote().open().prepare()
    assert policy() == "minimal"  # those that are there do
    remote(rotations="fast").open().prepare()
    assert policy() == "fast"
    fake.worker_memory = needs["minimal"]
    remote().open().prepare()
    assert policy() == "minimal"


def test_a_plan_under_another_set_gets_keys_of_its_own(
    remote: Make, fake: FakeService, tiny_plan_folder: Path, tiny_image: Any
) -> None:
    remote().infer(vectors(1)[0])
    [old] = fake.keys
    fake.serve("first", tiny_plan_folder)
    model = remote().open("first", accept_plan=True)
    assert model.outputs(tiny_image)["fc"].shape == (10,)
    assert old not in fake.keys
    assert ClientSpec.load(model.folder.folder).plan == model.info.plan
    assert isinstance(model, RemoteModel)
    assert model.info.name == "first"
    assert remote().url == URL
