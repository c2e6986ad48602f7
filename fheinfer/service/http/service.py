"""A service that runs: its folder under lock, what it is made of, and the order in which it starts and stops."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event, Lock, Thread

import structlog

from fheinfer.errors import FheinferError, ServiceError
from fheinfer.service.catalogue import Catalogue
from fheinfer.service.dispatcher import Dispatcher
from fheinfer.service.folders import Folders
from fheinfer.service.http.changes import Changes
from fheinfer.service.http.limits import Buckets, Rate, Slots
from fheinfer.service.http.metrics import Metrics
from fheinfer.service.protocol import ServerInfo
from fheinfer.service.receipts import FILE_NAME as SIGNING_KEY
from fheinfer.service.receipts import Signer
from fheinfer.service.retention import Retention
from fheinfer.service.store import DAY, Store
from fheinfer.service.store import FILE_NAME as DATABASE
from fheinfer.service.uploads import KeyUploads
from fheinfer.service.workers import Workers
from fheinfer.storage import PRIVATE, PRIVATE_FOLDER, make_folder, shown, storage_errors

GRACE = 8.0
"""Seconds that running jobs get for a checkpoint when the service stops."""
TIDY_SECONDS = 60.0
"""From one look at the folder of models, and at what has to be deleted, to the next."""
REQUESTS, SUBMITS, REFUSED = Rate(100, 1000), Rate(1, 200), Rate(0.2, 20)
_log = structlog.get_logger()


@dataclass(frozen=True)
class Settings:
    """What a service is told when it starts.

    models        folder of models: see `catalogue`
    data          folder of everything that it keeps
    memory        bytes that each worker may take; None for what is free
    keep_results  seconds from the end of a job to the deletion of its files
    keep_keys     seconds from the last use of keys to their deletion
    keep_plans    seconds that a plan stays usable after it was replaced
    behind_proxy  whether X-Forwarded-For says where requests come from
    requests, submits, refused   rates of an account's requests and jobs, and of an address's wrong tokens
    uploads, streams             bodies and event streams of an account at the same time
    """

    models: Path
    data: Path
    memory: int | None = None
    keep_results: float = DAY
    keep_keys: float = 30 * DAY
    keep_plans: float = 30 * DAY
    behind_proxy: bool = False
    requests: Rate = REQUESTS
    submits: Rate = SUBMITS
    refused: Rate = REFUSED
    uploads: int = 4
    streams: int = 50


class Service:
    """Made by `running`, for as long as its folder is locked. Safe to use from several threads."""

    def __init__(self, settings: Settings, store: Store, workers: Workers) -> None:
        data = settings.data
        self.settings, self.store, self.workers = settings, store, workers
        self.folders = Folders(data)
        self.catalogue = Catalogue(
            settings.models, data, store, keep_plans=settings.keep_plans, worker_memory=settings.memory
        )
        self.keys = KeyUploads(data, store)
        self.changes = Changes()
        self.metrics = Metrics(self._gauges)
        self.dispatcher = Dispatcher(store, workers, self.folders, self._changed, self.metrics.job)
        self.signer = Signer(data / SIGNING_KEY)
        self.info = ServerInfo(version=_version(), signing_key=self.signer.public)
        self.requests = Buckets(settings.requests, "requests")
        self.submits = Buckets(settings.submits, "jobs in a short time")
        self.refused = Buckets(settings.refused, "wrong tokens from this address")
        self.uploads = Slots(settings.uploads, 64, "bodies")
        self.streams = Slots(settings.streams, 400, "event streams")
        self.retention = Retention(
            data,
            store,
            self.keys,
            self.catalogue,
            keep_results=settings.keep_results,
            keep_keys=settings.keep_keys,
        )
        self.stopping = False
        self._running: set[str] = set()
        self._positions: tuple[int, dict[str, int]] = (-1, {})
        self._stop_lock, self._ended = Lock(), Event()
        self._tidier = Thread(target=self._tidy, name="fheinfer-tidy", daemon=True)
        self._wrong: dict[str, str] = {}

    def start(self) -> None:
        """Recovers what the last run left, reads the models, then takes jobs.

        Raises:
            InputError: no folder of models, or that of one model.
            StorageError: the disk is full or fails.
        """
        self.retention.recover()
        self._refresh()
        self.dispatcher.start()
        self._tidier.start()

    def stop(self) -> None:
        """Takes no more jobs; running ones write checkpoints and wait for the next start. Again, it does nothing."""
        with self._stop_lock:
            if not self.stopping:
                self.stopping = True
                self._ended.set()
                self.dispatcher.stop(GRACE)
                self.changes.tell()
                if self._tidier.ident is not None:
                    self._tidier.join(GRACE)

    def check_ready(self) -> None:
        """Asks whether jobs are taken.

        Raises:
            ServiceError: the service stops.
            StorageError: its database cannot be used.
        """
        if self.stopping:
            raise ServiceError("the service is stopping; try again in a while")
        self.store.counts()

    def delete_keys(self, account: str, key_id: str) -> None:
        """Deletes keys of an account from disk and memory, and the jobs that wait for them.

        Raises:
            NotFoundError: it has none of that id.
            StorageError: the disk fails.
        """
        jobs = self.keys.delete(account, key_id)
        for job in jobs:
            self.retention.delete_files(job.id)
        if jobs:
            self.changes.tell()
        self.workers.forget(key_id)

    def positions(self) -> dict[str, int]:
        """Place in the queue by job; asked of the store once for all that follow a queue that has not changed."""
        version, found = self._positions
        if version != self.changes.queue:
            version = self.changes.queue
            found = self.store.positions()
            self._positions = version, found
        return found

    def _changed(self, job_id: str) -> None:
        """Tells those who follow a job that makes progress; where one begins or ends, all."""
        runs = self.dispatcher.progress(job_id) is not None
        if runs and job_id in self._running:
            self.changes.tell(job_id)
            return
        (self._running.add if runs else self._running.discard)(job_id)
        self.changes.tell()

    def _refresh(self) -> None:
        wrong = {name: str(error) for name, error in self.catalogue.refresh().items()}
        limit, found = self.settings.memory, self.catalogue.models()
        for info in found:
            least = min(info.memory.values())
            if limit is not None and least > limit:
                wrong.setdefault(
                    info.name, f"takes {least} bytes, and a worker has {limit}: no job of it is taken; raise --memory"
                )
        if not found:
            wrong["*"] = (
                f"{shown(self.settings.models)} holds no model; `fheinfer compile MODEL -o FOLDER/NAME` makes one"
            )
        for name, message in wrong.items():
            if self._wrong.get(name) != message:
                _log.warning("model not served", model=name, message=message)
        self._wrong = wrong

    def _tidy(self) -> None:
        while not self._ended.wait(TIDY_SECONDS):
            for work in (self._refresh, self._sweep):  # without models, too, results go when their time is over
                try:
                    work()
                except FheinferError as error:
                    _log.error("cannot tidy up", kind=type(error).__name__, message=str(error))
                except Exception:  # a bug, which must not end the thread
                    _log.exception("cannot tidy up")

    def _sweep(self) -> None:
        for _, key_id in self.retention.sweep():
            self.workers.forget(key_id)

    def _gauges(self) -> dict[str, tuple[str, float]]:
        jobs = self.store.counts()
        return {
            "jobs_queued": ("Jobs that wait.", jobs.get("queued", 0)),
            "jobs_running": ("Jobs that run.", jobs.get("running", 0)),
            "jobs_done": ("Jobs that are done and kept.", jobs.get("done", 0)),
            "jobs_failed": ("Jobs that failed and are kept.", jobs.get("failed", 0)),
            "key_sets": ("Key sets on disk, uploads included.", len(keys := self.store.key_sets())),
            "key_bytes": ("Bytes of all keys, as their manifests say.", sum(row.bytes for row in keys)),
            "models": ("Models that are served.", len(self.catalogue.models())),
            "workers": ("Workers.", self.workers.slots),
            "worker_memory_bytes": ("Resident bytes of all workers.", self.workers.memory()),
            "stopping": ("1 while the service stops.", self.stopping),
        }


@contextmanager
def running(settings: Settings, make_workers: Callable[[], Workers]) -> Iterator[Service]:
    """A service on its data folder, started; stopped at the end.

    Raises:
        ServiceError: another service runs on the same data.
        InputError, ArtifactError, KeyStoreError, StorageError: models or data that cannot be used.
    """
    make_folder(settings.data, PRIVATE_FOLDER)
    with ExitStack() as stack:
        stack.enter_context(_locked(settings.data))
        store = Store(settings.data / DATABASE)
        stack.callback(store.close)
        workers = make_workers()
        stack.callback(workers.close, 0.0)
        service = Service(settings, store, workers)
        stack.callback(service.stop)
        service.start()
        yield service


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """The kernel lets go of it when the process ends, however that happens."""
    path = data / "lock"
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"another service runs on {shown(data)}; stop it, or give this one another --data"
            ) from None
        yield
    finally:
        os.close(fd)


def _version() -> str:
    try:
        return version("fheinfer")
    except PackageNotFoundError:
        return "unknown"
