"""Who asks: bearer tokens. Whatever is wrong with a token, the answer is the same one."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fheinfer.errors import TokenError
from fheinfer.service.http.service import Service
from fheinfer.service.protocol import TOKEN_PATTERN
from fheinfer.service.store import Account

_bearer = HTTPBearer(auto_error=False, description="A token that `fheinfer serve token add NAME` printed.")
_token = re.compile(TOKEN_PATTERN)


def service_of(request: Request) -> Service:
    """The service that answers a request."""
    found: Service = request.app.state.service
    return found


Running = Annotated[Service, Depends(service_of)]


def caller(
    request: Request, service: Running, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Account:
    """The account of the token of a request, within its rate.

    Raises:
        TokenError: no token, or none that is valid; after some of them from one address LimitError.
        LimitError: too many requests.
    """
    alone = len(request.headers.getlist("authorization")) == 1  # of two, a proxy in between may have read the other
    token = credentials.credentials if credentials and alone else ""
    account = service.store.account_of(token) if _token.fullmatch(token) else None
    if account is None:
        service.refused.take(address(request, service.settings.behind_proxy))
        raise refusal()
    request.state.account = account.id
    service.requests.take(account.id)
    return account


Caller = Annotated[Account, Depends(caller)]


def operator(account: Caller) -> Account:
    """The same, of an operator.

    Raises:
        TokenError: somebody else's token.
    """
    if not account.operator:
        raise refusal()
    return account


def refusal() -> TokenError:
    """The one answer to every token that does not do."""
    return TokenError("this needs a valid token: `Authorization: Bearer fi_...`")


def address(request: Request, behind_proxy: bool) -> str:
    """Where a request comes from: of IPv6 the network (/64), behind a proxy what the proxy says last."""
    found = request.client.host if request.client else ""
    if behind_proxy:
        found = request.headers.get("x-forwarded-for", found).rpartition(",")[2].strip()
    try:
        parsed = ipaddress.ip_address(found)
    except ValueError:
        return ""
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
