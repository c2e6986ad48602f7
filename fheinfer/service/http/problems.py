"""Errors as problem documents (RFC 9457): their status, and what a client may know of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fheinfer import errors
from fheinfer.errors import (
    CorruptArtifactError,
    FheinferError,
    InputError,
    JobError,
    KeyStoreError,
    LimitError,
    MismatchError,
    NotEnoughMemoryError,
    NotFoundError,
    PlanError,
    RangeError,
    ServiceError,
    StorageError,
    TokenError,
    UsageError,
)
from fheinfer.service.protocol import Problem

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 10
"""What a client is told to wait where nothing better is known."""
_STATUS: dict[type[FheinferError], int] = {
    CorruptArtifactError: 400,
    UsageError: 400,
    InputError: 400,
    PlanError: 400,
    RangeError: 400,
    TokenError: 401,
    NotFoundError: 404,
    MismatchError: 409,
    KeyStoreError: 409,
    JobError: 409,
    LimitError: 429,
    NotEnoughMemoryError: 503,
    ServiceError: 503,
    StorageError: 507,
}
_TITLES = {
    400: "Bad request",
    401: "Not authorised",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    411: "Length required",
    413: "Too large",
    429: "Too many",
    500: "Internal error",
    503: "Not available",
    507: "No room",
}
_OURS: dict[type[FheinferError], str] = {
    StorageError: "the service cannot write what it has to keep, most likely for lack of room; try again later",
    NotEnoughMemoryError: "the service has too little memory for this now; try again later",
}
"""What is said of errors whose own message is for the service's owner: it names folders of that machine."""
_log = structlog.get_logger()


class NoLengthError(UsageError):
    """A body without Content-Length."""

    status = 411


class TooLargeError(LimitError):
    """A body of more bytes than there can be."""

    status = 413


class SlowBodyError(LimitError):
    """A body that does not come."""

    status = 408


class RateError(LimitError):
    """More than a limit allows; in `retry_after` seconds there is room again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def status_of(error: FheinferError) -> int:
    """The HTTP status of an error; 500 of one that no request should cause."""
    own = getattr(error, "status", None)
    return own if own is not None else next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def problem(error: FheinferError) -> Problem:
    """An error as its document, with the type that a remote client raises."""
    status = status_of(error)
    kind = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    detail = "something went wrong in the service" if status == 500 else _OURS.get(type(error), str(error))
    return Problem(
        title=_TITLES[status],
        status=status,
        detail=detail[:2000],
        kind=kind.__name__,
        received=getattr(error, "received", None),
    )


def answer(error: FheinferError) -> JSONResponse:
    """An error as a response. Errors of the service itself are logged, whose messages clients do not get."""
    found = problem(error)
    headers: dict[str, str] = {}
    if found.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    wait: float | None = getattr(error, "retry_after", RETRY_SECONDS)
    if found.status in (429, 503) and wait is not None:
        headers["Retry-After"] = str(max(1, round(wait)))
    if found.status >= 500:
        _log.error("service error", kind=found.kind, status=found.status, message=str(error))
    return respond(found, headers)


def respond(found: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem document as a response."""
    return JSONResponse(found.model_dump(exclude_none=True), found.status, headers, media_type=MEDIA_TYPE)


def unexpected() -> JSONResponse:
    """What is said of an error that nobody thought of: nothing."""
    return answer(FheinferError("unexpected"))


def install(app: FastAPI, data: Path) -> None:
    """Makes every error of the application a problem document, none of which names the folder `data`."""

    def ours(request: Request, error: Any) -> JSONResponse:
        error.args = (str(error).replace(f"{data}/", ""),)
        return answer(error)

    def invalid(request: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return answer(UsageError(f"{where}: {first['msg']}"))

    def http(request: Request, error: Any) -> JSONResponse:
        if error.status_code == 404:
            return answer(NotFoundError("no such path; /docs has them all"))
        title = _TITLES.get(error.status_code, "Bad request")
        found = Problem(title=title, status=error.status_code, detail=str(error.detail), kind="UsageError")
        methods = app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", ""), {})
        allow = {"Allow": ", ".join(sorted(name.upper() for name in methods))} if methods else {}
        return respond(found, {**(error.headers or {}), **allow})

    app.add_exception_handler(FheinferError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
