"""Jobs between the routes and the rest: what is checked before one is accepted, and how its owner sees it.

All of this is pure Python: an input is opened as a container, and its ciphertexts are parsed by a worker only.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass

from fheinfer import errors
from fheinfer.crypto.artifact import HEADER_BYTES, MAX_METADATA, request_id
from fheinfer.crypto.ciphertexts import body_bound, open_ciphertexts
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.manifest import FILE_NAME, Manifest
from fheinfer.errors import FheinferError, JobError, MismatchError, NotEnoughMemoryError, NotFoundError
from fheinfer.service.http.problems import problem
from fheinfer.service.http.service import Service
from fheinfer.service.protocol import JobInfo, Problem, Receipt
from fheinfer.service.store import Account, JobRow
from fheinfer.storage import atomic_write, make_folder, read_small, require_disk


class WorkerMemoryError(NotEnoughMemoryError):
    """More than any worker may take: waiting, which a service advises otherwise, makes no room."""

    retry_after = None


@dataclass(frozen=True)
class Admission:
    """A plan and keys of an account that serve it, found before a body is read.

    bound    bytes that an input for the plan may have
    seconds  that it is predicted to take
    """

    spec: ClientSpec
    key_id: str
    bound: int
    seconds: float


def admit(service: Service, account: Account, plan: str, key_id: str) -> Admission:
    """Asks all that can be asked before the input is there.

    Raises:
        ServiceError: the service stops.
        LimitError: too many jobs in a short time.
        NotFoundError: no such plan, or the account has no such keys.
        KeyStoreError, MismatchError: keys that are not complete, or do not serve the plan.
        NotEnoughMemoryError: no worker has the memory that this is predicted to take.
        StorageError: no room for input and result.
    """
    service.check_ready()
    spec = service.catalogue.spec(plan)
    quickest = min(needs.seconds for needs in spec.keys.values())
    service.submits.take(account.id, service.workers.slots / max(quickest, 1e-3))  # what workers do, they may be given
    manifest = Manifest.load(service.keys.usable(account.id, key_id, spec) / FILE_NAME)
    needs, limit = spec.keys[manifest.policy], service.settings.memory
    if limit is not None and needs.peak_memory > limit:
        raise WorkerMemoryError(
            f"{spec.model} takes {needs.peak_memory} bytes with {manifest.policy} keys, and a worker of this service "
            f"has {limit}; make keys of another kind, or ask the service's owner"
        )
    body = body_bound(spec.params, spec.input.ciphertexts, spec.input.level)
    require_disk(service.folders.job("next"), 2 * body + spec.output_bytes)
    return Admission(spec, key_id, body + HEADER_BYTES + MAX_METADATA, needs.seconds)


def submit(service: Service, account: Account, admission: Admission, body: memoryview) -> tuple[JobInfo, bool]:
    """Takes an input: the file first, then the job; and True where it is a new one.

    Raises:
        CorruptArtifactError, MismatchError: a damaged input, or one for another plan or key.
        LimitError: as many jobs as the account may have.
        NotFoundError: the keys were deleted meanwhile.
        StorageError: the disk is full or fails.
    """
    spec, key_id = admission.spec, admission.key_id
    found = open_ciphertexts(
        body, spec.params, spec.backend, key_id, count=spec.input.ciphertexts, level=spec.input.level
    )
    if found.metadata.get("role") != "input" or found.metadata.get("plan") != spec.plan:
        raise MismatchError(
            f"this ciphertext is no input for {spec.model} ({spec.plan[:8]}); encrypt again with the client.json of "
            "this plan"
        )
    job_id = secrets.token_hex(16)
    folder = service.folders.job(job_id)
    new = False
    try:
        make_folder(folder)
        atomic_write(service.folders.input(job_id), [body])
        row, new = service.store.add_job(
            account.id, spec.plan, key_id, request_id(body), job_id, seconds=admission.seconds
        )
    finally:
        if not new:
            shutil.rmtree(folder, ignore_errors=True)
    if new:
        service.changes.tell()
        service.dispatcher.wake()
    return info(service, row), new


def find(service: Service, account: Account, job_id: str) -> JobRow:
    """A job of an account.

    Raises:
        NotFoundError: it has none of that id.
    """
    row = service.store.job(account.id, job_id)
    if row is None:
        raise NotFoundError("this account has no such job, or not any more")
    return row


def info(service: Service, row: JobRow) -> JobInfo:
    """A job as its owner sees it."""
    position, progress = None, None
    if row.state == "queued":
        position = service.positions().get(row.id)
    elif row.state == "running":
        progress = service.dispatcher.progress(row.id)
    return JobInfo(
        id=row.id,
        plan=row.plan,
        key_id=row.key_id,
        request=row.request,
        state=row.state,
        created=row.created,
        position=position,
        step=progress.step if progress else 0,
        steps=progress.steps if progress else 0,
        seconds_left=progress.seconds_left if progress else None,
        started=row.started,
        finished=row.finished,
        expires=None if row.finished is None else row.finished + service.settings.keep_results,
        error=_error(row),
    )


def _error(row: JobRow) -> Problem | None:
    """Why a job failed; the dispatcher has removed folders of this machine from the message."""
    if row.state != "failed":
        return None
    kind, message = getattr(errors, row.kind or "", FheinferError), row.message or ""
    return problem(kind(message)).model_copy(update={"detail": message[:2000]})


def result(service: Service, row: JobRow) -> tuple[bytes, dict[str, str]]:
    """The result of a job, and its signed receipt as headers.

    Raises:
        JobError: it is not done, or never will be.
        NotFoundError: it is not here any more.
    """
    if row.state != "done" or row.result is None or row.result_bytes is None or row.finished is None:
        raise JobError(f"this job is {row.state}; only one that is done has a result")
    try:  # the plan is not asked: its time may be over, and the result's is not
        data = read_small(service.folders.result(row.id), row.result_bytes, "a result")
    except FileNotFoundError:
        raise NotFoundError("this account has no such job, or not any more") from None
    receipt = Receipt(
        job=row.id, request=row.request, result=row.result, plan=row.plan, key_id=row.key_id, finished=row.finished
    )
    return data, service.signer.headers(receipt)
