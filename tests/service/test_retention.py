"""What is kept how long, and what a start makes of what a killed service left."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.crypto.manifest import Manifest
from fheinfer.service.catalogue import Catalogue
from fheinfer.service.retention import Retention
from fheinfer.service.store import DAY, JobRow, Store
from fheinfer.service.uploads import KeyUploads
from fheinfer.storage import atomic_write, make_folder
from tests.service.small_keys import BASE, KEY_ID, Keys, send, small_keys, usable


class Clock:
    now = 2_000_000_000.0  # beyond the time of any file: those have the real one

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retention(tmp_path: Path, tiny_plan_folder: Path, clock: Clock) -> Retention:
    store = Store(tmp_path / "service.db", clock)
    shutil.copytree(tiny_plan_folder, tmp_path / "models" / "tiny")
    catalogue = Catalogue(tmp_path / "models", tmp_path, store)
    catalogue.refresh()
    return Retention(tmp_path, store, KeyUploads(tmp_path, store), catalogue, keep_results=DAY, keep_keys=10 * DAY)


@pytest.fixture
def keys(tiny_keys: Path) -> Keys:
    return small_keys(Manifest.load(tiny_keys / "server" / "manifest.json"), 1)


@pytest.fixture
def anna(retention: Retention, keys: Keys) -> str:
    account = retention.store.account_of(retention.store.add_token("anna", days=1000))
    assert account is not None
    send(retention.uploads, account.id, keys)
    return account.id


def submit(retention: Retention, account: str, number: int, encrypted: bytes = b"input", **other: Any) -> JobRow:
    folder = retention.folders.job(f"{number:032x}")
    make_folder(folder)
    atomic_write(folder / "input.ct", [encrypted])
    job = {"plan": "a" * 64, "key_id": KEY_ID, "request": f"{number:064x}", **other}
    return retention.store.add_job(account, job_id=folder.name, seconds=1.0, **job)[0]


def folders(retention: Retention) -> set[str]:
    return {path.name for path in (retention.data / "jobs").glob("*")}


def test_results_and_inputs_go_when_their_time_is_over(retention: Retention, anna: str, clock: Clock) -> None:
    """Row "sizes, times, names, key ids in the clear": retention rules."""
    old, new, waits = (submit(retention, anna, number) for number in range(3))
    retention.store.take_job(0, ())
    retention.store.finish_job(old.id, "1" * 64, 1)
    clock.now += 0.9 * DAY
    retention.store.fail_job(new.id, "BackendError", "no")
    assert retention.sweep() == []
    assert folders(retention) == {old.id, new.id, waits.id}
    clock.now += 0.2 * DAY
    retention.sweep()
    assert folders(retention) == {new.id, waits.id}
    assert retention.store.job(anna, old.id) is None
    clock.now += 5 * DAY
    retention.sweep()
    assert folders(retention) == {waits.id}  # a job that waits is kept, however long


def test_what_is_cancelled_or_unknown_goes(retention: Retention, anna: str) -> None:
    job = submit(retention, anna, 1)
    retention.store.cancel_job(anna, job.id)
    young, aged = retention.folders.job("f" * 32), retention.folders.job("e" * 32)
    for folder in (young, aged):
        folder.mkdir()
    os.utime(aged, (1_000_000, 1_000_000))
    gone = retention.folders.job("d" * 32)
    gone.symlink_to("nowhere")  # listed, and not there any more when it is looked at
    retention.sweep()
    gone.unlink()
    assert folders(retention) == {young.name}  # its job may be accepted in this moment
    retention.recover()
    assert folders(retention) == set()


def test_keys_that_no_job_used_go(retention: Retention, anna: str, clock: Clock, tmp_path: Path) -> None:
    clock.now += 9 * DAY
    job = submit(retention, anna, 1)  # uses them
    clock.now += 9 * DAY
    assert retention.sweep() == []
    clock.now += 2 * DAY
    assert retention.sweep() == []  # one waits for them
    retention.store.fail_job(job.id, "BackendError", "no")
    assert retention.sweep() == [(anna, KEY_ID)]
    assert usable(tmp_path, anna) == {}
    assert retention.uploads.statuses(anna) == []


def test_an_account_goes_with_its_keys_and_jobs(retention: Retention, anna: str, tmp_path: Path) -> None:
    done, runs, waits = (submit(retention, anna, number) for number in range(3))
    retention.store.take_job(0, ())
    retention.store.finish_job(done.id, "1" * 64, 1)
    taken = retention.store.take_job(0, ())
    assert taken is not None
    assert taken.id == runs.id
    [row] = retention.store.tokens()
    assert (row.jobs, row.key_bytes) == (3, retention.store.key_bytes(anna))
    assert retention.store.revoke("anna", delete=True) == 1
    assert retention.sweep() == [(anna, KEY_ID)]
    assert not retention.store.finish_job(runs.id, "1" * 64, 1)  # which its worker did not know
    assert (folders(retention), usable(tmp_path, anna)) == (set(), {})
    [row] = retention.store.tokens()
    assert (row.jobs, row.key_bytes, row.revoked is None) == (0, 0, False)
    assert waits.id not in retention.store.positions()


def test_what_its_owner_deletes_meanwhile_does_not_end_a_sweep(
    retention: Retention, anna: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobodys = [(anna, "0" * 32)]
    monkeypatch.setattr(retention.uploads, "stale", lambda before: nobodys)
    [row] = retention.store.key_sets()
    clock.now += 11 * DAY
    rows = [replace(row, key_id="1" * 32), row]
    monkeypatch.setattr(retention.store, "unused_key_sets", lambda before: rows)
    retention.sweep()
    assert retention.store.key_sets() == []


def test_uploads_that_nobody_goes_on_with_go(retention: Retention, anna: str, keys: Keys, tmp_path: Path) -> None:
    retention.uploads.delete(anna, KEY_ID)
    retention.uploads.begin(anna, KEY_ID, keys.manifest)
    retention.sweep()
    assert retention.store.key_bytes(anna)
    for path in (tmp_path / "uploads" / anna / KEY_ID, *(tmp_path / "uploads" / anna / KEY_ID).iterdir()):
        os.utime(path, (1_000_000, 1_000_000))
    retention.sweep()
    assert not retention.store.key_bytes(anna)
    assert not (tmp_path / "uploads" / anna / KEY_ID).exists()


def test_a_start_does_no_job_twice_and_loses_none(
    retention: Retention, anna: str, tiny_client: fheinfer.Client, tiny_session: Any, tiny_image: Any, tmp_path: Path
) -> None:
    """Running jobs wait again, unless their result is whole; without an input they fail."""
    encrypted = tiny_client.encrypt(tiny_image)
    result, request = tiny_session.evaluate(encrypted), hashlib.sha256(encrypted).hexdigest()
    manifest = tiny_session.keys.manifest
    retention.store.put_key_set(anna, manifest)
    make_folder(tmp_path / "keys" / anna)
    shutil.copytree(tiny_session.keys._source, tmp_path / "keys" / anna / manifest.key_id)
    mine = {"plan": tiny_session.plan.identity, "key_id": manifest.key_id}
    done = submit(retention, anna, 1, encrypted, request=request, **mine)
    cut = submit(retention, anna, 2, encrypted, request="2" * 64, **mine)
    foreign = submit(retention, anna, 3, encrypted, request="3" * 64, **mine)
    lost = submit(retention, anna, 4, encrypted, request="4" * 64, **mine)
    waits = submit(retention, anna, 5, encrypted, request="5" * 64, **mine)
    for _ in range(4):
        retention.store.take_job(0, ())
    (retention.folders.job(done.id) / "result.ct").write_bytes(result)
    (retention.folders.job(cut.id) / "result.ct").write_bytes(result[:-1])
    (retention.folders.job(foreign.id) / "result.ct").write_bytes(result)
    (retention.folders.job(lost.id) / "input.ct").unlink()
    for _ in range(2):
        retention.recover()
        states = {job.id: job.state for job in retention.store.jobs(anna)}
        assert states == {
            done.id: "done", cut.id: "queued", foreign.id: "queued", lost.id: "failed", waits.id: "queued",
        }  # fmt: skip
    row = retention.store.job(anna, done.id)
    assert row is not None
    assert (row.result, row.result_bytes) == (hashlib.sha256(result).hexdigest(), len(result))
    for job in (cut, foreign):
        assert not (retention.folders.job(job.id) / "result.ct").exists()


def test_jobs_of_keys_that_are_gone_are_cancelled(retention: Retention, anna: str, tmp_path: Path) -> None:
    job = submit(retention, anna, 1)
    shutil.rmtree(tmp_path / "keys")
    retention.recover()
    assert [row.state for row in retention.store.jobs(anna)] == ["cancelled"]
    assert job.id not in folders(retention)


def test_no_moment_of_a_kill_loses_or_half_writes_anything(
    process: Callable[..., Any], tiny_keys: Path, tmp_path: Path
) -> None:
    """SIGKILL at every single thing that the service does to the disk; see `kill_points`."""
    here = Path(__file__).parents[2]
    result = process(
        python=f"import sys; sys.path.insert(0, {str(here)!r}); sys.argv[1:] = "
        f"[{str(tmp_path)!r}, {str(tiny_keys / 'server' / 'manifest.json')!r}]; "
        "from tests.service import kill_points; kill_points.main()"
    )
    assert result.code == 0, result.err
    assert int(result.out) > 50


def test_what_is_left_of_an_abandoned_extension_goes(
    retention: Retention, anna: str, keys: Keys, tmp_path: Path
) -> None:
    retention.uploads.delete(anna, KEY_ID)
    send(retention.uploads, anna, keys.only(*BASE))
    (tmp_path / "keys" / anna / KEY_ID / "rotation_2_4.key").write_bytes(keys.files["rotation_2_4.key"])
    retention.recover()
    assert {path.name for path in (tmp_path / "keys" / anna / KEY_ID).iterdir()} == {*BASE, "manifest.json"}
