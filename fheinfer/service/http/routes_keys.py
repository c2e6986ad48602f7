"""Keys of an account: a manifest, then its files in pieces, each verified before anything uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import fastapi
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from fheinfer.crypto.manifest import MAX_BYTES
from fheinfer.service.http.auth import Caller, Running
from fheinfer.service.http.bodies import received
from fheinfer.service.protocol import CHUNK_BYTES, KEY_FILE, KEY_ID, PREFIX, KeyFile, KeyStatus

KeyPath = Annotated[str, fastapi.Path(pattern=KEY_ID, description="A key id: 32 hexadecimal digits.")]
FilePath = Annotated[str, fastapi.Path(pattern=KEY_FILE, description="A file of the manifest.")]
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
router = APIRouter(prefix=PREFIX, tags=["keys"])


def upload_slot(account: Caller, service: Running) -> Iterator[None]:
    """Holds one of the bodies that an account may send at the same time, until the answer is sent."""
    with service.uploads.held(account.id):
        yield


@router.get("/keys", summary="List keys")
def key_sets(account: Caller, service: Running) -> list[KeyStatus]:
    return service.keys.statuses(account.id)


@router.get("/keys/{key_id}", summary="Say how much of the keys is here")
def key_set(key_id: KeyPath, account: Caller, service: Running) -> KeyStatus:
    return service.keys.status(account.id, key_id)


@router.put(
    "/keys/{key_id}",
    summary="Begin an upload, or extend keys, by their manifest.json",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}},
    responses={201: {"model": KeyStatus, "description": "An upload has begun"}},
    dependencies=[Depends(upload_slot)],
)
async def begin(key_id: KeyPath, request: Request, response: Response, account: Caller, service: Running) -> KeyStatus:
    async with received(request, MAX_BYTES, service.settings.data) as body:
        status, new = await run_in_threadpool(service.keys.begin, account.id, key_id, bytes(body))
    response.status_code = 201 if new else 200
    return status


@router.put(
    "/keys/{key_id}/files/{name}",
    summary="Send the bytes of a file from an offset on",
    description=(
        f"At most {CHUNK_BYTES} bytes at a time. The offset is what the service has of the file; the problem of a "
        "wrong one (409) says it as `received`. The last byte has the file verified; a wrong one is deleted (400)."
    ),
    openapi_extra={"requestBody": {"required": True, "content": _BINARY}},
    dependencies=[Depends(upload_slot)],
)
async def append(
    key_id: KeyPath,
    name: FilePath,
    request: Request,
    account: Caller,
    service: Running,
    offset: Annotated[int, Query(ge=0, lt=1 << 48)] = 0,
) -> KeyFile:
    async with received(request, CHUNK_BYTES, service.settings.data) as body:
        return await run_in_threadpool(service.keys.append, account.id, key_id, name, offset, bytes(body))


@router.delete("/keys/{key_id}", summary="Delete keys; jobs that wait for them are cancelled", status_code=204)
def delete_keys(key_id: KeyPath, account: Caller, service: Running) -> None:
    service.delete_keys(account.id, key_id)
