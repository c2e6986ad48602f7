"""Tokens (threats: accounts; one client never sees that another exists)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from fheinfer.service.http.app import create_app
from fheinfer.service.http.limits import Rate
from fheinfer.service.http.service import Settings, running
from fheinfer.service.store import Store
from tests.service.conftest import Api, ThreadWorkers

NOBODY = "fi_" + "A" * 43


def asked(http: httpx.Client, authorization: str | None, path: str = "/v1/models") -> httpx.Response:
    return http.get(path, headers=[] if authorization is None else [(b"Authorization", authorization.encode())])


def body_of(answer: httpx.Response) -> dict[str, Any]:
    """What an answer says, all of it but the number of the request and the time."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "date")}
    return {"status": answer.status_code, "body": answer.json(), "headers": headers}


def test_everything_wrong_with_a_token_has_the_same_answer(http: httpx.Client, api: Api, service: Any) -> None:
    assert asked(http, f"Bearer {api.token}").status_code == 200
    gone = service.store.add_token("gone")
    service.store.revoke("gone")
    expired = service.store.add_token("late", days=0.01 / 86400)
    time.sleep(0.02)
    missing = body_of(asked(http, None))
    assert missing["status"] == 401
    assert missing["body"]["kind"] == "TokenError"
    assert missing["headers"]["www-authenticate"] == "Bearer"
    wrong = [f"Bearer {token}" for token in (NOBODY, gone, expired, api.token[:-1], api.token + "x", "", "fi_", "\xe9")]
    wrong += [f"Basic {api.token}", api.token, f"Bearer  {api.token} {api.token}", "Bearer"]
    for authorization in wrong:
        assert body_of(asked(http, authorization)) == missing, authorization


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("GET", f"/v1/plans/{'0' * 64}/client.json"),
        ("GET", f"/v1/plans/{'0' * 64}/client.safetensors"),
        ("GET", "/v1/keys"),
        ("GET", f"/v1/keys/{'0' * 32}"),
        ("PUT", f"/v1/keys/{'0' * 32}"),
        ("PUT", f"/v1/keys/{'0' * 32}/files/public.key"),
        ("DELETE", f"/v1/keys/{'0' * 32}"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("GET", f"/v1/jobs/{'0' * 32}"),
        ("GET", f"/v1/jobs/{'0' * 32}/events"),
        ("GET", f"/v1/jobs/{'0' * 32}/result"),
        ("DELETE", f"/v1/jobs/{'0' * 32}"),
        ("GET", "/metrics"),
    ],
)
def test_nothing_is_told_without_a_token(http: httpx.Client, method: str, path: str) -> None:
    assert http.request(method, path).status_code == 401


def test_the_table_above_has_every_route(http: httpx.Client) -> None:
    routes = http.get("/openapi.json").json()["paths"]
    opened = {"/livez", "/readyz", "/v1/server"}
    count = sum(len(methods) for path, methods in routes.items() if path not in opened)
    mark = next(m for m in test_nothing_is_told_without_a_token.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert count == len(mark.args[1])


def test_metrics_are_for_operators(http: httpx.Client, api: Api, service: Any) -> None:
    refused = asked(http, f"Bearer {api.token}", "/metrics")
    assert body_of(refused) == body_of(asked(http, None, "/metrics"))
    boss = service.store.add_token("boss", operator=True)
    assert asked(http, f"Bearer {boss}", "/metrics").status_code == 200


def test_wrong_tokens_are_limited_by_address_and_right_ones_are_not(settings: Settings, tmp_path: Path) -> None:
    limited = replace(settings, refused=Rate(0.001, 3), behind_proxy=True)
    with running(limited, ThreadWorkers) as service, TestClient(create_app(service)) as http:
        here, there = {"X-Forwarded-For": "1.2.3.4, 192.0.2.1"}, {"X-Forwarded-For": "192.0.2.1, 1.2.3.4"}
        for _ in range(3):
            assert http.get("/v1/models", headers=here).status_code == 401
        refused = http.get("/v1/models", headers=here)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 1000
        assert http.get("/v1/models", headers=there).status_code == 401  # the last address is what the proxy saw
        token = service.store.add_token("alice")
        assert http.get("/v1/models", headers={**here, "Authorization": f"Bearer {token}"}).status_code == 200


def test_a_token_is_revoked_while_the_service_runs(api: Api, settings: Settings) -> None:
    assert api("GET", "/v1/models").status_code == 200
    store = Store(settings.data / "service.db")  # as `fheinfer serve token revoke` does
    store.revoke("alice")
    store.close()
    assert api("GET", "/v1/models").status_code == 401
