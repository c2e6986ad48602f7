"""A service's files and rows when it is killed (SIGKILL) at the n-th thing that it does to the disk, for every n.

`python -m tests.service.kill_points FOLDER MANIFEST`: forks a process for each n, which works until it is killed; then
starts again on what is left, checks it, and goes on to the end. Prints how many points there were.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fheinfer.crypto.manifest import Manifest
from fheinfer.service.catalogue import Catalogue
from fheinfer.service.database import Database
from fheinfer.service.retention import Retention
from fheinfer.service.store import Store
from fheinfer.service.uploads import KeyUploads
from fheinfer.storage import atomic_write, make_folder
from tests.service.small_keys import BASE, KEY_ID, small_keys, usable

PLAN = "a" * 64
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
REAL = small_keys(Manifest.load(Path(sys.argv[2])), 1)


class Service:
    """What an HTTP process does, without HTTP. `told` is what its clients were answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "service.db")
        self.store._database._sql.execute("PRAGMA synchronous = OFF")  # a kill loses nothing of it: the system lives
        self.uploads = KeyUploads(folder, self.store)
        catalogue = Catalogue(folder / "models", folder, self.store)
        self.retention = Retention(folder, self.store, self.uploads, catalogue)
        self.retention.recover()
        self.account = self.store.tokens()[0].account

    def work(self, tell: Callable[[str], object]) -> None:
        """Keys, a job, more keys, another job that ends, and the first that is cancelled."""
        self.upload(BASE, tell)
        first = self.submit("1" * 64, tell)
        self.upload(tuple(REAL.files), tell)
        second = self.submit("2" * 64, tell)
        while job := self.store.take_job(0, ()):
            atomic_write(self.retention.folders.job(job.id) / "block.ct", [b"checkpoint"])
            if job.id == second:
                self.store.finish_job(job.id, "3" * 64, 1)
                tell(f"done {job.id}")
        self.store.cancel_job(self.account, first)
        self.retention.delete_files(first)
        tell(f"deleted {first}")

    def upload(self, names: tuple[str, ...], tell: Callable[[str], object]) -> None:
        for file in self.uploads.begin(self.account, KEY_ID, REAL.only(*names).manifest)[0].files:
            received = file.received
            while received < file.bytes:
                piece = REAL.files[file.name][received : received + 250]
                received = self.uploads.append(self.account, KEY_ID, file.name, received, piece).received
                tell(f"received {file.name} {received}")
        tell(f"keys {len(names)}")

    def submit(self, request: str, tell: Callable[[str], object]) -> str:
        job_id = secrets.token_hex(16)
        make_folder(self.retention.folders.job(job_id))
        atomic_write(self.retention.folders.job(job_id) / "input.ct", [request.encode()])
        job, new = self.store.add_job(self.account, PLAN, KEY_ID, request, job_id, 1.0)
        if not new:
            self.retention.delete_files(job_id)
        tell(f"job {job.id}")
        return job.id

    def check(self, told: list[str]) -> None:
        """What was answered holds, and nothing half written is there."""
        found = usable(self.folder, self.account)
        assert found in ({}, REAL.only(*BASE).files, REAL.files), found.keys()
        row = self.store.key_set(self.account, KEY_ID)
        received = {file.name: file.received for file in self.uploads.status(self.account, KEY_ID).files} if row else {}
        jobs = {job.id: job for job in self.store.jobs(self.account)}
        gone = {line.split()[1] for line in told if line.startswith("deleted")}
        for what, name, *rest in map(str.split, told):
            if what == "received":
                assert received[name] >= int(rest[0]), (name, received)
            elif what == "keys":
                assert len(found) >= int(name), (name, len(found))
            elif what == "job" and name not in gone:
                job = jobs[name]
                assert job.state in ("queued", "done", "cancelled"), job
                assert job.state == "cancelled" or job.attempts == (job.state == "done"), job
                if job.state == "queued":
                    assert (self.retention.folders.job(name) / "input.ct").read_bytes().decode() == job.request
            elif what == "done":
                assert jobs[name].state == "done"
        folders = {path.name for path in (self.folder / "jobs").glob("*")}
        assert folders <= jobs.keys()
        assert not [path for path in self.folder.rglob("*.tmp") if "plans" not in path.parts]


def forked(work: Callable[[], None]) -> int:
    """Exit status of a process that does this."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitpid(child, 0)[1]


def killed(folder: Path, point: int, answers: IO[str]) -> None:
    """Works until the `point`-th event."""
    left = point

    def step(event: str = "", arguments: tuple[Any, ...] = ()) -> None:
        nonlocal left
        if not event or event in EVENTS or (event == "open" and arguments[2] & WRITES):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    whole, transaction = os.pwrite, Database.transaction

    def pwrite(fd: int, data: Any, offset: int) -> int:
        half = whole(fd, data[: len(data) // 2], offset)
        step()
        return half + whole(fd, data[half:], offset + half)

    def around(database: Database) -> Any:
        step()
        return transaction(database)

    service = Service(folder)
    os.pwrite = pwrite
    service.store._transaction = lambda: around(service.store._database)
    sys.addaudithook(step)
    service.work(lambda line: answers.write(f"{line}\n"))


def main() -> None:
    """Every point, until one is beyond the end of the work."""
    base, point = Path(sys.argv[1]), 0
    os.fsync = lambda fd: None
    empty = Store(base / "service.db")
    empty.add_token("anna")
    empty.close()
    while True:
        point += 1
        folder = base / str(point)
        folder.mkdir()
        shutil.copy(base / "service.db", folder)
        with (base / f"{point}.txt").open("w", buffering=1) as answers:
            status = forked(lambda: killed(folder, point, answers))  # noqa: B023 - done before the next
        assert status in (0, signal.SIGKILL), (point, status)
        told = (base / f"{point}.txt").read_text().splitlines()

        def again() -> None:
            service = Service(folder)  # noqa: B023
            service.check(told)  # noqa: B023
            service.work(lambda line: None)
            assert usable(folder, service.account) == REAL.files  # noqa: B023
            states = [job.state for job in service.store.jobs(service.account)]
            assert set(states) <= {"done", "cancelled"}, states
            assert not list((folder / "uploads" / service.account).iterdir())  # noqa: B023

        assert forked(again) == 0, (point, told[-3:])
        shutil.rmtree(folder)
        if status == 0:
            print(point)
            return


if __name__ == "__main__":
    main()
