"""A service without HTTP, for tests: clients of the small network, their jobs, and what they get back."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.service.dispatcher import Dispatcher
from fheinfer.service.folders import Folders
from fheinfer.service.store import JobRow, Store
from fheinfer.service.workers import Task, Workers
from fheinfer.storage import atomic_write

F64 = NDArray[np.float64]


class Person:
    """A client with an account and keys of its own."""

    def __init__(self, keys: Path, plan: Plan, account: str) -> None:
        self.keys, self.plan, self.account = keys, plan, account
        self.key_id = ServerKeys(keys / "server").key_id
        self.client = fheinfer.Client(keys, plan.client)

    def image(self, seed: int) -> F64:
        return np.random.default_rng(seed).uniform(-1, 1, self.plan.client.input_shape)

    def check(self, result: bytes, request: bytes, image: F64) -> None:
        """That this result is the one of this input."""
        found, clear = self.client.decrypt(result, request=request), fheinfer.run_slots(self.plan, image)
        assert fheinfer.precision_bits(clear, found).minimum > 12


class Service:
    """Store, folders and people; `serve` adds workers."""

    def __init__(self, data: Path, plan: Plan, plan_folder: Path) -> None:
        self.folders, self.plan = Folders(data), plan
        self.folders.job("").mkdir(parents=True)
        self.store = Store(data / "service.db")
        self.inputs: dict[str, tuple[Person, bytes, F64]] = {}
        shutil.copytree(plan_folder, self.folders.plan(plan.identity))

    def person(self, keys: Path, name: str = "somebody") -> Person:
        """An account with these keys, which are copied to it."""
        account = self.store.account_of(self.store.add_token(name))
        assert account is not None
        person = Person(keys, self.plan, account.id)
        shutil.copytree(keys / "server", self.folders.keys(account.id, person.key_id))
        self.store.put_key_set(account.id, ServerKeys(keys / "server").manifest)
        self.store.complete_key_set(account.id, ServerKeys(keys / "server").manifest)
        return person

    def submit(self, person: Person, seed: int = 0, plan: str = "") -> str:
        """A job with an image of that seed."""
        job, image = secrets.token_hex(16), person.image(seed)
        encrypted = person.client.encrypt(image)
        self.folders.job(job).mkdir()
        atomic_write(self.folders.input(job), [encrypted])
        request = hashlib.sha256(encrypted).hexdigest()
        row, new = self.store.add_job(person.account, plan or self.plan.identity, person.key_id, request, job, 0.1)
        assert new
        self.inputs[row.id] = person, encrypted, image
        return row.id

    def row(self, job: str) -> JobRow:
        found = self.store.job(self.inputs[job][0].account, job)
        assert found is not None
        return found

    def check(self, job: str) -> None:
        """That it is done, with the right result."""
        person, encrypted, image = self.inputs[job]
        row, result = self.row(job), self.folders.result(job).read_bytes()
        assert (row.state, row.message) == ("done", None)
        assert (row.result, row.result_bytes) == (hashlib.sha256(result).hexdigest(), len(result))
        person.check(result, encrypted, image)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def finished(service: Service, jobs: Sequence[str]) -> bool:
    return all(service.row(job).state in ("done", "failed", "cancelled") for job in jobs)


__all__ = ["Dispatcher", "Person", "Service", "Task", "Workers", "finished", "wait_for"]
