"""What the store does when the process is killed, the disk is full, or others use it at the same time."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import MismatchError, StorageError
from fheinfer.service.store import Store

PLAN, ROOT = "a" * 64, Path(__file__).parents[2]


@pytest.fixture
def manifest(tiny_keys: Path) -> Manifest:
    return Manifest.load(tiny_keys / "server" / "manifest.json")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "service.db")
    yield made
    made.close()


def anna(store: Store, manifest: Manifest) -> str:
    account = store.account_of(store.add_token("anna", max_jobs=1000))
    assert account is not None
    store.put_key_set(account.id, manifest)
    return account.id


ADD_JOBS = """
import sys
from pathlib import Path
from fheinfer.service.store import Store
store = Store(Path(sys.argv[1]))
for number in range(1000):
    job, new = store.add_job(sys.argv[2], "a" * 64, sys.argv[3], f"{number:064x}", f"{number:032x}", 1.0)
    print(job.id, flush=True)
"""


@pytest.mark.parametrize("answers", [1, 3, 20])
def test_no_accepted_job_is_lost_by_a_kill(store: Store, manifest: Manifest, tmp_path: Path, answers: int) -> None:
    """SIGKILL while jobs are added: those that were answered are there, in order, and at most one more."""
    account = anna(store, manifest)
    child = subprocess.Popen(
        [sys.executable, "-c", ADD_JOBS, str(tmp_path / "service.db"), account, manifest.key_id],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None
    told = [child.stdout.readline().strip() for _ in range(answers)]
    time.sleep(0.0007 * answers)  # somewhere in what comes next
    child.send_signal(signal.SIGKILL)
    told += child.stdout.read().split()
    child.wait()
    child.stdout.close()
    found = [job.id for job in store.all_jobs("queued")]
    assert found[: len(told)] == told
    assert len(found) <= len(told) + 1
    assert store._database._sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_database_is_a_typed_error_and_changes_nothing(store: Store, manifest: Manifest) -> None:
    account = anna(store, manifest)
    sql = store._database._sql
    pages = sql.execute("PRAGMA page_count").fetchone()[0]
    sql.execute(f"PRAGMA max_page_count = {pages + 1}")
    added = 0

    def fill() -> None:
        nonlocal added
        while added < 1000:
            store.add_job(account, PLAN, manifest.key_id, f"{added:064x}", f"{added:032x}", 1.0)
            added += 1

    with pytest.raises(StorageError, match="disk is full"):
        fill()
    assert 0 < added < 1000
    assert len(store.jobs(account)) == added
    assert (job := store.take_job(0, ())) is not None
    assert store.finish_job(job.id, "1" * 64, 1)
    sql.execute("PRAGMA max_page_count = 100000")
    store.add_job(account, PLAN, manifest.key_id, "f" * 64, "f" * 32, 1.0)


def test_a_disk_that_takes_no_more_is_a_typed_error_and_changes_nothing(
    store: Store, manifest: Manifest, tmp_path: Path
) -> None:
    account = anna(store, manifest)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "service.db-wal").stat().st_size + 100, limits[1]))
    try:
        with pytest.raises(StorageError) as caught:
            store.add_job(account, PLAN, manifest.key_id, "1" * 64, "1" * 32, 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert store.jobs(account) == []
    assert store.add_job(account, PLAN, manifest.key_id, "1" * 64, "1" * 32, 1.0)[1]


def test_threads_take_every_job_once(store: Store, manifest: Manifest) -> None:
    store._database._sql.execute("PRAGMA synchronous = OFF")
    account = anna(store, manifest)
    jobs = [f"{number:032x}" for number in range(60)]

    def add(job_id: str) -> None:
        for _ in range(2):  # the same request twice is one job
            store.add_job(account, PLAN, manifest.key_id, job_id * 2, job_id, 1.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, jobs))
    taken: list[str] = []

    def take(worker: int) -> None:
        while job := store.take_job(worker, {manifest.key_id}):
            taken.append(job.id)
            assert store.finish_job(job.id, "1" * 64, 1)

    threads = [threading.Thread(target=take, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == jobs


def test_tokens_are_added_while_the_service_runs(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "service.db")  # `fheinfer serve token add`
    token = other.add_token("bob")
    other.close()
    assert store.account_of(token) is not None


def test_files_that_are_no_database_or_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="restore it"):
        Store(path)
    path.unlink()
    Store(path).close()
    sql = sqlite3.connect(path)
    sql.execute("PRAGMA user_version = 99")
    sql.close()
    with pytest.raises(MismatchError, match="version 99"):
        Store(path)
    with pytest.raises(StorageError):
        Store(tmp_path / "missing" / "service.db")
    with pytest.raises(StorageError):
        Store(tmp_path)


def test_two_processes_may_make_the_same_database(tmp_path: Path) -> None:
    made: list[Store] = []
    threads = [threading.Thread(target=lambda: made.append(Store(tmp_path / "service.db"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    token = made[0].add_token("anna")
    assert all(store.account_of(token) for store in made)
    for store in made:
        store.close()


def test_the_modules_of_the_http_process_import_no_client_and_no_evaluator(process: Callable[..., Any]) -> None:
    """Row "native parsers run in the worker, not in the process that holds others' sessions"."""
    result = process(python="import fheinfer.service.retention, fheinfer.service.receipts, sys; print(*sys.modules)")
    assert result.code == 0, result.err
    apart = ("client", "server", "worker", "runtime", "compiler", "evaluating", "service.remote", "service.uploading")
    loaded = {name for name in result.out.split() if name.startswith("fheinfer.")}
    assert not {n for n in loaded for a in apart if n == f"fheinfer.{a}" or n.startswith(f"fheinfer.{a}.")}
    assert "safetensors" not in result.out.split()
