"""What surrounds every request: its number, its log line, its figures, the headers of every answer, the last catch."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fheinfer.service.http import problems
from fheinfer.service.http.metrics import Metrics

REQUEST_HEADER = "X-Request-Id"
GONE = 499
"""The status that is logged of a client that went away, which gets no answer."""
READ_SECONDS = 60.0
"""That a client may take to read what was sent before more is: then its connection is closed."""
_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store", "referrer-policy": "no-referrer"}
_log = structlog.get_logger()


class Watch:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, began, status = secrets.token_hex(8), time.perf_counter(), 0
        # Parts of files are not offered: what Starlette says of impossible ones is no problem document.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"range"]

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {**_HEADERS, REQUEST_HEADER.lower(): number}
                there = {name.lower() for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in extra.items() if k.encode() not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            try:
                async with asyncio.timeout(READ_SECONDS):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = GONE
        except Exception:
            _log.exception("unexpected error", request=number)
            if status:  # half an answer: only the end of the connection says that it is none
                raise
            await problems.unexpected()(scope, receive, sending)
        finally:
            self._tell(scope, number, status, time.perf_counter() - began)

    def _tell(self, scope: MutableMapping[str, Any], number: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "-")
        self._metrics.request(scope["method"], route, status, seconds)
        _log.info(
            "request",
            request=number,
            account=scope.get("state", {}).get("account"),
            method=scope["method"][:16],
            route=route,
            status=status,
            seconds=round(seconds, 4),
        )
