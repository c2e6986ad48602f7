"""What is deleted, and when; and what rows and files say at the start, after a service that was killed."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fheinfer.errors import ArtifactError, InputError, NotFoundError, PlanError
from fheinfer.service.catalogue import Catalogue
from fheinfer.service.folders import Folders, check_result
from fheinfer.service.store import DAY, JobRow, Store
from fheinfer.service.uploads import KeyUploads
from fheinfer.storage import remove_leftovers, storage_errors

JOBS = "jobs"
UNKNOWN = 3600.0
"""Seconds after which the folder of a job that nobody knows of is deleted: one that is being submitted is younger."""


@dataclass(frozen=True)
class Retention:
    """Keeps DATA from growing: `recover` at the start, before anything else runs, and `sweep` now and then.

    A job has the folder `data`/jobs/<job id>/ with its input, its result, and a checkpoint where it was stopped.

    keep_results  seconds that a job, its input and its result are kept after its end
    keep_keys     seconds that keys are kept after their last job
    keep_uploads  seconds that an upload is kept after its last byte
    """

    data: Path
    store: Store
    uploads: KeyUploads
    catalogue: Catalogue
    keep_results: float = DAY
    keep_keys: float = 90 * DAY
    keep_uploads: float = 2 * DAY

    @property
    def folders(self) -> Folders:
        """Where the files are."""
        return Folders(self.data)

    def recover(self) -> None:
        """Makes rows and files agree, whatever moment the service was killed at. No accepted job is lost or done twice.

        Raises:
            StorageError: the disk is full or fails.
        """
        for folder in (self.data / JOBS).glob("*"):
            remove_leftovers(folder)
        self._delete_unknown(0.0)
        for job in self.store.all_jobs("running", "queued"):
            found = self._result(job)
            if found is not None:
                self.store.finish_job(job.id, *found)
            elif not self.folders.input(job.id).is_file():
                self.store.fail_job(job.id, "StorageError", "the encrypted input is gone; submit it again")
        self.store.recover()
        for job in self.uploads.recover():
            self.delete_files(job.id)
        self.catalogue.expire()

    def sweep(self) -> list[tuple[str, str]]:
        """Deletes what was kept long enough. Returns (account, key id) of deleted keys: workers may have them loaded.

        Raises:
            StorageError: the disk is full or fails.
        """
        now = self.store.now()
        old = self.store.expired_jobs(now - self.keep_results)
        self.store.forget_jobs(job.id for job in old)
        for job in [*old, *self.store.all_jobs("cancelled")]:
            self.delete_files(job.id)
        self._delete_unknown(UNKNOWN)
        for account, key_id in self.uploads.stale(time.time() - self.keep_uploads):
            with suppress(NotFoundError):  # their owner has deleted them meanwhile
                self.uploads.abandon(account, key_id)
        unused = [(row.account, row.key_id) for row in self.store.unused_key_sets(now - self.keep_keys)]
        for account, key_id in unused:
            with suppress(NotFoundError):
                self.uploads.delete(account, key_id)
        self.catalogue.expire()
        return unused

    def delete_files(self, job_id: str) -> None:
        """Deletes input, result and checkpoint of a job."""
        shutil.rmtree(self.folders.job(job_id), ignore_errors=True)

    def _result(self, job: JobRow) -> tuple[str, int] | None:
        """SHA-256 and bytes of a job's result, where it is whole and its own; None of any other, which is deleted."""
        with suppress(ArtifactError, InputError, PlanError):
            return check_result(self.folders, job)
        path = self.folders.result(job.id)
        with storage_errors(path), suppress(FileNotFoundError):
            path.unlink()
        return None

    def _delete_unknown(self, age: float) -> None:
        """Deletes folders without a job that nobody wrote to for `age` seconds."""
        before, known = time.time() - age, {job.id for job in self.store.all_jobs()}
        with storage_errors(self.data / JOBS):
            for path in (self.data / JOBS).glob("*"):
                with suppress(FileNotFoundError):  # its job was refused meanwhile
                    if path.name not in known and path.stat().st_mtime <= before:
                        shutil.rmtree(path, ignore_errors=True)
