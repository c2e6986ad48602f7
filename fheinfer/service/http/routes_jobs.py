"""Jobs: an encrypted input to submit, its progress to follow, its result to fetch, and all of it to delete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import fastapi
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from fheinfer.errors import NotFoundError
from fheinfer.service.http import jobs
from fheinfer.service.http.auth import Caller, Running
from fheinfer.service.http.bodies import received
from fheinfer.service.http.events import events
from fheinfer.service.http.routes_keys import upload_slot
from fheinfer.service.http.routes_models import BINARY, PLAN
from fheinfer.service.protocol import JOB_ID, KEY_ID, PREFIX, RECEIPT_HEADER, SIGNATURE_HEADER, JobInfo

JobPath = Annotated[str, fastapi.Path(pattern=JOB_ID, description="A job id: 32 hexadecimal digits.")]
_STREAM = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
_HEADERS = {name: {"schema": {"type": "string"}} for name in (RECEIPT_HEADER, SIGNATURE_HEADER)}
router = APIRouter(prefix=PREFIX, tags=["jobs"])


def stream_slot(account: Caller, service: Running) -> Iterator[None]:
    """Holds one of the event streams of an account until it has ended."""
    with service.streams.held(account.id):
        yield


@router.post(
    "/jobs",
    summary="Submit an encrypted input",
    description="The same input under the same plan and keys is the same job (200).",
    status_code=202,
    responses={200: {"model": JobInfo, "description": "The job that has this input already"}},
    openapi_extra={"requestBody": {"required": True, "content": BINARY["content"]}},
    dependencies=[Depends(upload_slot)],
)
async def submit(
    request: Request,
    response: Response,
    account: Caller,
    service: Running,
    plan: Annotated[str, Query(pattern=PLAN)],
    key: Annotated[str, Query(pattern=KEY_ID)],
) -> JobInfo:
    admission = await run_in_threadpool(jobs.admit, service, account, plan, key)
    async with received(request, admission.bound, service.settings.data) as body:
        found, new = await run_in_threadpool(jobs.submit, service, account, admission, body)
    response.status_code = 202 if new else 200
    return found


@router.get("/jobs", summary="List jobs")
def all_jobs(account: Caller, service: Running) -> list[JobInfo]:
    return [jobs.info(service, row) for row in service.store.jobs(account.id)]


@router.get("/jobs/{job_id}", summary="Describe a job")
def job(job_id: JobPath, account: Caller, service: Running) -> JobInfo:
    return jobs.info(service, jobs.find(service, account, job_id))


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    description="Server-sent events named `job`, each with a job as its data: the present state, then every change.",
    response_class=StreamingResponse,
    responses={200: _STREAM},
    dependencies=[Depends(stream_slot)],
)
async def job_events(job_id: JobPath, account: Caller, service: Running) -> StreamingResponse:
    def look() -> JobInfo | None:
        row = service.store.job(account.id, job_id)
        return None if row is None else jobs.info(service, row)

    await run_in_threadpool(jobs.find, service, account, job_id)
    stream = events(job_id, look, service.changes, lambda: service.stopping)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.get(
    "/jobs/{job_id}/result",
    summary="Fetch the encrypted result, with its signed receipt in the headers",
    response_class=Response,
    responses={200: {**BINARY, "headers": _HEADERS}},
)
def job_result(job_id: JobPath, account: Caller, service: Running) -> Response:
    data, headers = jobs.result(service, jobs.find(service, account, job_id))
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.delete("/jobs/{job_id}", summary="Cancel a job and delete its files", status_code=204)
def delete_job(job_id: JobPath, account: Caller, service: Running) -> None:
    if service.dispatcher.cancel(account.id, job_id) is None:
        raise NotFoundError("this account has no such job, or not any more")
