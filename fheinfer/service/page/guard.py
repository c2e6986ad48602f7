"""Who may use the local page: the browser that was given its token, and no page of another origin in that browser."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer."""


class Guard:
    """ASGI middleware that answers only requests of the page itself.

    Host and Origin have to be the address that was printed, so that no name of somebody else that leads to this machine
    (DNS rebinding) and no page of somebody else is served; the cookie has to be that which the token was exchanged for.

    Args:
        port: of 127.0.0.1 that this is served on.
        token: what `/?token=` has to say for the cookie.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app, self._token = app, token
        self._host = f"127.0.0.1:{port}"
        self._origin = f"http://{self._host}"
        self._cookie, self._value = f"fheinfer-{port}", secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(scope)
        await (self._app if answer is None else answer)(scope, receive, with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """What is answered in place of the page; None where the request may pass."""
        headers = Headers(scope=scope)
        if headers.get("host") != self._host:
            return _page(403, f"Open this page as {self._origin}, the address that was printed.")
        reading = scope["method"] in ("GET", "HEAD")
        origin = headers.get("origin")
        if origin != self._origin and not (reading and origin is None):
            return _page(403, "This page answers only itself, and this request comes from another one.")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if scope["path"] == "/" and reading and given:
            return self._exchange(given[0])
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _page(403, "This page answers only itself, and this request comes from another one.")
        if not _same(HTTPConnection(scope).cookies.get(self._cookie, ""), self._value):
            return _page(401, "Open the whole address that `fheinfer app` printed; its end is the key to this page.")
        return None

    def _exchange(self, token: str) -> Response:
        """The cookie for the token. A refresh, and no redirect: browsers send a strict cookie after the former wherever
        the address was opened from, and it takes the place of the address with the token."""
        if not _same(token, self._token):
            return _page(401, "This address is of an earlier start; open the one that `fheinfer app` printed last.")
        response = _page(200, 'Opening the page. <a href="/">Go on</a> if nothing happens.')
        response.headers["Refresh"] = "0; url=/"
        response.set_cookie(self._cookie, self._value, httponly=True, samesite="strict", path="/")
        return response


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _page(status: int, text: str) -> Response:
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>fheinfer</title>'
    body = f'{head}<link rel="icon" href="/icon.svg"><p>{text}</p></html>'
    return HTMLResponse(body, status)
