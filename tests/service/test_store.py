"""Accounts, tokens, quotas and the queue: what the service knows survives, and is fair."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import LimitError, NotFoundError, UsageError
from fheinfer.service import key_sets, queue
from fheinfer.service.store import BURST, DAY, JobRow, Store

PLAN = "a" * 64


def sha(number: int) -> str:
    return f"{number:064x}"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    made = Store(tmp_path / "service.db", clock)
    yield made
    made.close()


@pytest.fixture(scope="session")
def manifest(tiny_keys: Path) -> Manifest:
    return Manifest.load(tiny_keys / "server" / "manifest.json")


def account(store: Store, name: str = "anna") -> str:
    found = store.account_of(store.add_token(name))
    assert found is not None
    return found.id


def with_keys(store: Store, manifest: Manifest, name: str = "anna") -> str:
    found = account(store, name)
    store.put_key_set(found, manifest)
    store.complete_key_set(found, manifest)
    return found


def submit(store: Store, owner: str, manifest: Manifest, number: int) -> JobRow:
    job, new = store.add_job(owner, PLAN, manifest.key_id, sha(number), f"{number:032x}", 1.0)
    assert new
    return job


def test_tokens_open_their_account_until_they_expire_or_are_revoked(store: Store, clock: Clock) -> None:
    first, second = store.add_token("anna"), store.add_token("anna", days=2)
    other = store.add_token("bob", operator=True, max_jobs=3)
    anna, bob = store.account_of(first), store.account_of(other)
    assert anna is not None
    assert bob is not None
    assert store.account_of(second) == anna
    assert (anna.name, anna.operator, bob.operator, bob.max_jobs) == ("anna", False, True, 3)
    assert anna.id != bob.id
    for wrong in ("", "fi_", first[:-1], first + "x", first.swapcase(), "\ud800", "x" * 10_000):
        assert store.account_of(wrong) is None
    clock.now += 2 * DAY
    assert store.account_of(second) is None
    assert store.account_of(first) == anna
    one, other_one = store.tokens()[:2]
    assert store.revoke("anna", other_one.id) == 1
    assert [row.revoked is None for row in store.tokens()] == [True, False, True]
    for name, token in (("bob", one.id), ("anna", "")):
        with pytest.raises(NotFoundError, match="no such token"):
            store.revoke(name, token or "00000000")
    assert store.revoke("anna") == 1
    assert store.account_of(first) is None
    assert store.account_of(other) == bob
    assert [(row.name, row.revoked is None) for row in store.tokens()] == [("anna", False)] * 2 + [("bob", True)]
    with pytest.raises(NotFoundError):
        store.revoke("nobody")


def test_only_the_hash_of_a_token_is_on_the_disk(store: Store, tmp_path: Path) -> None:
    token = store.add_token("anna")
    store.close()
    files = list(tmp_path.iterdir())
    assert not [
        path for path in files if token.encode() in path.read_bytes() or token[3:].encode() in path.read_bytes()
    ]
    assert (tmp_path / "service.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", "../x", "/etc/passwd", "a\0b", "a\n", "x" * 65, ".hidden", "a/b", "ä"])
def test_a_path_is_no_name_of_an_account(store: Store, name: str) -> None:
    with pytest.raises(UsageError):
        store.add_token(name)
    assert store.tokens() == []


def test_an_account_does_not_become_an_operators_by_a_second_token(store: Store) -> None:
    store.add_token("anna")
    with pytest.raises(UsageError, match="another name"):
        store.add_token("anna", operator=True)
    for days in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            store.add_token("anna", days=days)


def test_keys_count_by_what_their_manifest_claims(store: Store, manifest: Manifest) -> None:
    store.add_token("anna", max_key_bytes=2 * manifest.total_bytes)
    anna = account(store)
    others = [manifest.model_copy(update={"key_id": f"{n:032x}"}) for n in range(3)]
    for one in others[:2]:
        assert not store.put_key_set(anna, one).complete
    with pytest.raises(LimitError, match="delete keys"):
        store.put_key_set(anna, others[2])
    assert store.put_key_set(anna, others[0]).bytes == manifest.total_bytes  # again: counted once
    assert store.key_bytes(anna) == 2 * manifest.total_bytes
    store.delete_key_set(anna, others[1].key_id)
    store.put_key_set(anna, others[2])
    with pytest.raises(NotFoundError):
        store.delete_key_set(anna, others[1].key_id)


def test_an_account_has_so_many_key_sets(store: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sets, "MAX_KEY_SETS", 2)
    anna = account(store)
    for n in range(2):
        store.put_key_set(anna, manifest.model_copy(update={"key_id": f"{n:032x}"}))
    with pytest.raises(LimitError, match="at most 2"):
        store.put_key_set(anna, manifest)


def test_keys_that_claim_more_are_not_complete_until_it_is_there(store: Store, manifest: Manifest) -> None:
    anna = with_keys(store, manifest)
    assert store.put_key_set(anna, manifest).complete
    entry = manifest.files["public.key"]
    more = manifest.model_copy(update={"files": {**manifest.files, "to_sparse.key": entry, "to_dense.key": entry}})
    assert not store.put_key_set(anna, more).complete


def test_two_accounts_with_the_same_key_id_do_not_see_each_other(store: Store, manifest: Manifest) -> None:
    """Row "a key id is public and chosen by the client"."""
    anna, bob = with_keys(store, manifest), account(store, "bob")
    assert store.key_set(bob, manifest.key_id) is None
    with pytest.raises(NotFoundError):
        store.delete_key_set(bob, manifest.key_id)
    with pytest.raises(NotFoundError):
        store.add_job(bob, PLAN, manifest.key_id, sha(1), "1" * 32, 1.0)
    store.put_key_set(bob, manifest)
    job = submit(store, anna, manifest, 1)
    assert store.job(bob, job.id) is None
    assert store.cancel_job(bob, job.id) is None
    assert store.jobs(bob) == []
    assert store.delete_key_set(bob, manifest.key_id) == []
    assert store.job(anna, job.id) == job
    same, new = store.add_job(anna, PLAN, manifest.key_id, sha(1), "2" * 32, 1.0)
    assert (same, new) == (job, False)


def test_a_job_goes_its_way(store: Store, manifest: Manifest) -> None:
    anna = with_keys(store, manifest)
    first, second = submit(store, anna, manifest, 1), submit(store, anna, manifest, 2)
    assert (store.position(first.id), store.position(second.id)) == (1, 2)
    taken = store.take_job(0, ())
    assert taken is not None
    assert (taken.id, taken.state, taken.attempts) == (first.id, "running", 1)
    assert store.position(first.id) is None
    assert store.requeue_job(first.id)
    assert store.position(first.id) == 1
    assert (again := store.take_job(0, ())) is not None
    assert again.attempts == 2
    assert store.finish_job(first.id, sha(9), 17)
    assert not store.finish_job(first.id, sha(8), 18)
    assert not store.fail_job(first.id, "BackendError", "late")
    done = store.job(anna, first.id)
    assert done is not None
    assert (done.state, done.result, done.result_bytes) == ("done", sha(9), 17)
    assert store.fail_job(second.id, "BackendError", "x" * 5000)
    assert store.counts() == {"done": 1, "failed": 1}
    assert store.take_job(0, ()) is None


def test_an_input_is_a_job_once_even_where_it_failed(store: Store, manifest: Manifest) -> None:
    """Row "chosen ciphertexts": nothing is tried again with the same ciphertext. A cancelled one may come again."""
    anna = with_keys(store, manifest)
    job = submit(store, anna, manifest, 1)
    store.fail_job(job.id, "BackendError", "no")
    assert store.add_job(anna, PLAN, manifest.key_id, sha(1), "2" * 32, 1.0)[0].id == job.id
    other = submit(store, anna, manifest, 2)
    assert store.cancel_job(anna, other.id) == other
    assert store.add_job(anna, PLAN, manifest.key_id, sha(2), "3" * 32, 1.0)[1]


def test_cancelled_jobs_stay_cancelled_and_others_are_forgotten(store: Store, manifest: Manifest) -> None:
    anna = with_keys(store, manifest)
    job = submit(store, anna, manifest, 1)
    store.take_job(0, ())
    assert (was := store.cancel_job(anna, job.id)) is not None
    assert was.state == "running"
    assert not store.finish_job(job.id, sha(9), 1)
    assert not store.requeue_job(job.id)
    assert (now := store.job(anna, job.id)) is not None
    assert now.state == "cancelled"
    assert store.cancel_job(anna, job.id) == now
    assert store.job(anna, job.id) is None


def test_jobs_of_an_account_are_limited(store: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    anna, bob = with_keys(store, manifest), with_keys(store, manifest, "bob")
    store.add_token("anna", max_jobs=2)
    jobs = [submit(store, anna, manifest, n) for n in range(2)]
    with pytest.raises(LimitError, match="wait for one"):
        submit(store, anna, manifest, 3)
    assert not store.add_job(anna, PLAN, manifest.key_id, sha(1), "2" * 32, 1.0)[1]  # the same again is no new one
    submit(store, bob, manifest, 4)
    monkeypatch.setattr(queue, "MAX_KEPT_JOBS", 2)
    for job in jobs:
        store.fail_job(job.id, "BackendError", "no")
    with pytest.raises(LimitError, match="delete results"):
        submit(store, anna, manifest, 5)
    store.cancel_job(anna, jobs[0].id)  # deletes it
    gone = submit(store, anna, manifest, 5)
    store.cancel_job(anna, gone.id)
    submit(store, anna, manifest, 6)


def test_cancelled_jobs_are_remembered_up_to_a_number(
    store: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that submits and cancels does not make the list of its jobs, nor the database, longer and longer."""
    monkeypatch.setattr(queue, "MAX_KEPT_JOBS", 3)
    anna, bob = with_keys(store, manifest), with_keys(store, manifest, "bob")
    others = submit(store, bob, manifest, 99)
    store.cancel_job(bob, others.id)
    jobs = [submit(store, anna, manifest, 0)]
    for number in range(1, 9):
        jobs.append(submit(store, anna, manifest, number))
        store.cancel_job(anna, jobs[-1].id)
    last = submit(store, anna, manifest, 9)
    assert [job.id for job in store.jobs(anna)] == [job.id for job in (jobs[0], *jobs[-3:], last)]
    assert [job.id for job in store.jobs(bob)] == [others.id]


def test_deleted_keys_cancel_what_waits_for_them(store: Store, manifest: Manifest) -> None:
    anna = with_keys(store, manifest)
    running, waiting = submit(store, anna, manifest, 1), submit(store, anna, manifest, 2)
    store.take_job(0, ())
    assert [job.id for job in store.delete_key_set(anna, manifest.key_id)] == [waiting.id]
    assert [job.state for job in store.jobs(anna)] == ["running", "cancelled"]
    assert store.finish_job(running.id, sha(9), 1)


def test_what_ran_waits_again_after_a_start_and_the_attempt_does_not_count(
    store: Store, manifest: Manifest, tmp_path: Path
) -> None:
    anna = with_keys(store, manifest)
    jobs = [submit(store, anna, manifest, n) for n in range(3)]
    for _ in range(5):  # more often than a job is tried
        assert (taken := store.take_job(0, ())) is not None
        assert (taken.id, taken.attempts) == (jobs[0].id, 1)
        store.close()
        store = Store(tmp_path / "service.db")
        assert store.recover() == 1
    assert [job.id for job in store.all_jobs("queued")] == [job.id for job in jobs]
    store.close()


def drain(store: Store, workers: int, keep: bool) -> list[tuple[str, str]]:
    """(account, job) in the order in which they start; with `keep` each worker has the keys of its last job."""
    order: list[tuple[str, str]] = []
    loaded: dict[int, str] = {}
    while job := store.take_job(len(order) % workers, {loaded.get(len(order) % workers, "")} if keep else ()):
        loaded[len(order) % workers] = job.key_id
        order.append((job.account, job.id))
        store.finish_job(job.id, sha(0), 0)
    return order


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 3), keep=st.booleans())
def test_twenty_accounts_wait_alike(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, seed: int, workers: int, keep: bool
) -> None:
    """200 jobs of 20 accounts in random order: their mean waits are within a factor of two of each other."""
    store = Store(tmp_path_factory.mktemp("store") / "service.db")
    store._database._sql.execute("PRAGMA synchronous = OFF")
    keys = [manifest.model_copy(update={"key_id": f"{n:032x}"}) for n in range(20)]
    owners = [with_keys(store, one, f"client{n}") for n, one in enumerate(keys)]
    jobs = [n for n in range(20) for _ in range(10)]
    random.Random(seed).shuffle(jobs)
    for number, n in enumerate(jobs):
        submit(store, owners[n], keys[n], number)
    expected = sorted(store.positions(), key=store.positions().__getitem__)
    order = drain(store, workers, keep)
    store.close()
    assert len(order) == len(set(order)) == 200
    assert keep or [job for _, job in order] == expected
    waits = [statistics.mean(at for at, (who, _) in enumerate(order, 1) if who == owner) for owner in owners]
    assert max(waits) <= 2 * min(waits)
    for n, owner in enumerate(owners):
        assert [job for who, job in order if who == owner] == [f"{i:032x}" for i, m in enumerate(jobs) if m == n]
        gap: Counter[str] = Counter()
        for who, _ in order[: max(at for at, (who, _) in enumerate(order) if who == owner)]:
            gap[who] += 1
            if who == owner:
                gap.clear()
            assert max(gap.values(), default=0) <= (BURST if keep else 1)


def test_a_late_account_does_not_wait_for_a_long_queue(store: Store, manifest: Manifest) -> None:
    anna, bob = with_keys(store, manifest), with_keys(store, manifest, "bob")
    store.add_token("anna", max_jobs=100)
    for number in range(60):
        submit(store, anna, manifest, number)
    assert store.take_job(0, ()) is not None
    late = submit(store, bob, manifest, 99)
    assert store.position(late.id) == 1
    for _ in range(BURST - 1):  # the keys of anna are loaded, and bob's have the same key id: she goes on
        assert (job := store.take_job(0, {manifest.key_id})) is not None
        assert job.account == anna
    assert (job := store.take_job(0, {manifest.key_id})) is not None
    assert job.account == bob
