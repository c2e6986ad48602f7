"""A path, or anything else that is no name, in every place of a name."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.service.conftest import Api

HOSTILE = [
    "..",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\x",
    ".",
    "",
    " ",
    "%2e%2e%2f",
    "\0",
    "x\0.key",
    "\n",
    "0" * 32 + "\n",
    "public.key\n",
    "A" * 100_00,
    "é" * 32,
    "0" * 31 + "\u0660",
    "signing.key/../public.key",
    "service.db",
    "{key_id}",
    "'; DROP TABLE jobs; --",
]
PLACES = [
    ("GET", "/v1/models/{}"),
    ("GET", "/v1/plans/{}/client.json"),
    ("GET", "/v1/plans/{}/client.safetensors"),
    ("GET", "/v1/keys/{}"),
    ("PUT", "/v1/keys/{}"),
    ("DELETE", "/v1/keys/{}"),
    ("PUT", "/v1/keys/{}/files/public.key"),
    ("PUT", "/v1/keys/00000000000000000000000000000000/files/{}"),
    ("PUT", "/v1/keys/00000000000000000000000000000000/files/public.key?offset={}"),
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}/events"),
    ("GET", "/v1/jobs/{}/result"),
    ("DELETE", "/v1/jobs/{}"),
    ("POST", "/v1/jobs?plan={}&key=00000000000000000000000000000000"),
    ("POST", f"/v1/jobs?plan={'0' * 64}&key={{}}"),
]


@pytest.mark.parametrize("method, place", PLACES)
def test_only_names_are_names(api: Api, method: str, place: str) -> None:
    for name in HOSTILE:
        for encoded in {quote(name, safe=""), quote(name, safe="/")}:
            answer = api(method, place.format(encoded), content=b"{}" if method in ("PUT", "POST") else None)
            if answer.status_code == 200:  # an empty name, or one with dots, is another path
                assert answer.request.url.path.rstrip("/") in ("/v1/models", "/v1/keys", "/v1/jobs"), (name, encoded)
            else:
                assert answer.status_code in (400, 404, 405), (name, answer.text)
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert "Traceback" not in answer.text
                assert "/tmp" not in answer.text
