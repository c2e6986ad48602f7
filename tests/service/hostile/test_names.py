"""Tokens and names at every operation of the description, so that one that is added is attacked, too.

Threats: accounts; one client never sees that another exists. Issue: "an expired and a foreign token; a path in every
name".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from fheinfer.service.http.service import Service
from tests.service.conftest import Api
from tests.service.hostile.asking import Answer, Header, Request, ask, check
from tests.service.hostile.bodies import OTHER_IDS, Target

OPEN = {"/livez", "/readyz", "/v1/server"}
NAMES = [
    "..",
    "../../../../etc/passwd",
    "/etc/passwd",
    "....//....//etc/passwd",
    "..\\..\\x",
    "~",
    "\0",
    "0" * 32 + "\0",
    "0" * 32 + "\n",
    "0" * 32 + ".json",
    "A" * 10_000,
    "é" * 32,
    "\u202e" + "0" * 31,
    "\uff10" * 32,
    "0" * 31 + "\u0661",
    "tiny\u0000",
    "public.key/../../../signing.key",
    "signing.key",
    "'; DROP TABLE jobs; --",
    "{key_id}",
    "-1",
    "1e9999",
]
RAW = ["%2e%2e", "%2e%2e%2f%2e%2e%2fsigning.key", "%252e%252e", "%00", "%ff%fe", "%c0%ae%c0%ae", "..;", "%", "%zz"]
"""As they stand in the address."""


@pytest.fixture
def operations(http: httpx.Client) -> list[tuple[str, str, list[str], list[str]]]:
    """Method, path, and names in path and query of all operations."""
    found = []
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            places = [(p["in"], p["name"]) for p in operation.get("parameters", [])]
            inside, after = ([name for where, name in places if where == kind] for kind in ("path", "query"))
            found.append((method.upper(), path, inside, after))
    return found


def filled(path: str, values: dict[str, str], query: list[str]) -> str:
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return path + ("?" + "&".join(f"{name}={values[name]}" for name in query) if query else "")


@pytest.fixture
def right(target: Target) -> dict[str, str]:
    """A name for each place that exists, but of jobs and of an offset."""
    job = {"job_id": "0" * 32, "offset": "0"}
    return {"name": "public.key", "plan": target.plan, "key_id": target.key_id, "key": target.key_id, **job}


def seen(answer: Answer | None) -> tuple[int, bytes, dict[str, str]]:
    """All of an answer but the number of its request."""
    assert answer is not None
    return answer.status, answer.body, {k: v for k, v in answer.headers.items() if k != "x-request-id"}


def test_a_path_in_every_name(
    app: Any, operations: Any, target: Target, right: dict[str, str], service: Service
) -> None:
    names = [*RAW, *(quote(name, safe="") for name in NAMES), *(quote(name, safe="/") for name in NAMES)]
    secrets = (str(service.settings.data), "root:x:", "BEGIN PRIVATE KEY")
    token: Header = ("authorization", f"Bearer {target.token}")

    async def attack() -> int:
        count = 0
        for method, path, inside, after in operations:
            for place in inside + after:
                for name in names:
                    where = filled(path, {**right, place: name}, after)
                    body: tuple[tuple[Header, ...], tuple[bytes, ...]] = ((), ())
                    if method in ("PUT", "POST"):
                        body = (("content-length", "2"),), (b"{}",)
                    answer = await ask(app, Request(method, where, (token, *body[0]), body[1]))
                    check(answer, (method, where), secrets)
                    assert answer is not None
                    if place == "offset" and answer.status == 409:  # digits between blanks, and the wrong number
                        continue
                    listing = where.partition("?")[0].rstrip("/") in ("/v1/models", "/v1/keys", "/v1/jobs")
                    assert answer.status in (400, 404, 405) or listing, (method, where, answer)
                    count += 1
        return count

    assert asyncio.run(attack()) > 14 * len(names)


def wrong_tokens(service: Service, target: Target) -> Iterator[tuple[str, list[Header]]]:
    gone, late = service.store.add_token("gone"), service.store.add_token("late", days=0.01 / 86400)
    service.store.revoke("gone")
    time.sleep(0.02)
    good = target.token
    yield "none", []
    yield "of another service", [("authorization", "Bearer fi_" + "A" * 43)]
    yield "revoked", [("authorization", f"Bearer {gone}")]
    yield "expired", [("authorization", f"Bearer {late}")]
    for name, text in {
        "cut": good[:-1],
        "longer": good + "A",
        "other case": good.swapcase(),
        "quoted": f'"{good}"',
        "hashed": "0" * 64,
        "a list": f"{good},{good}",
        "odd bytes": "\udcff" * 46,
        "long": "fi_" + "A" * 20_000,
        "SQL": "fi_' OR '1'='1",
        "after a zero": "\0" + good,
    }.items():
        yield name, [("authorization", b"Bearer " + text.encode("utf-8", "surrogateescape"))]
    for scheme in ("Basic", "Token", "Bearer:", "Bearer\t", ""):
        yield f"scheme {scheme!r}", [("authorization", f"{scheme} {good}")]
    yield (
        "other headers",
        [("x-authorization", f"Bearer {good}"), ("cookie", f"token={good}"), ("proxy-authorization", f"Bearer {good}")],
    )
    yield "twice, a wrong one first", [("authorization", "Bearer x"), ("authorization", f"Bearer {good}")]
    yield "twice, a wrong one last", [("authorization", f"Bearer {good}"), ("authorization", "Bearer x")]
    yield (
        "two accounts",
        [("authorization", f"Bearer {good}"), ("authorization", f"Bearer {service.store.add_token('eve')}")],
    )


def test_one_answer_to_every_wrong_token(
    app: Any, operations: Any, target: Target, right: dict[str, str], service: Service
) -> None:
    """At every operation, whether what it names exists, does not, or is no name: nobody learns that without a token."""
    tokens = list(wrong_tokens(service, target))

    async def attack() -> set[str]:
        first: tuple[int, bytes, dict[str, str]] | None = None
        differ = set()
        for method, path, _, after in operations:
            if path in OPEN:
                continue
            for values in (right, dict.fromkeys(right, OTHER_IDS[0]), dict.fromkeys(right, "x%00")):
                where = filled(path, values, after)
                for name, headers in tokens if values is right else tokens[:2]:
                    found = seen(await ask(app, Request(method, where, tuple(headers))))
                    first = first or found
                    if found != first:
                        differ.add(f"{name} at {method} {where}: {found[0]}")
        assert first is not None
        assert first[0] == 401
        return differ

    assert not asyncio.run(attack())


def test_a_token_in_the_query_is_none(app: Any, target: Target) -> None:
    """It would be in logs of proxies."""

    async def attack() -> list[int]:
        names = ("token", "access_token", "authorization", "Authorization", "bearer")
        answers = [await ask(app, Request("GET", f"/v1/keys?{name}={target.token}")) for name in names]
        return [answer.status if answer else 0 for answer in answers]

    assert set(asyncio.run(attack())) == {401}


def test_what_is_anothers_is_like_what_is_not_there(
    app: Any, api: Api, other: Api, operations: Any, target: Target, right: dict[str, str]
) -> None:
    """At every operation with an id, byte for byte (threat: one client never sees that another exists)."""
    job = api("GET", "/v1/jobs").json()[0]["id"]
    bodies: list[bytes] = [b"", b"{}", target.encrypted, target.files["public.key"][:1000]]

    async def attack() -> int:
        count = 0
        for method, path, inside, after in operations:
            for place in {"key_id", "job_id", "key"} & {*inside, *after}:
                theirs = job if place == "job_id" else target.key_id
                for body in bodies if method in ("PUT", "POST") else [None]:
                    headers: list[Header] = [("authorization", f"Bearer {other.token}")]
                    if body is not None:
                        headers.append(("content-length", str(len(body))))
                    answers = []
                    for value in (theirs, *OTHER_IDS):
                        where = filled(path, {**right, place: value}, after)
                        asked = Request(method, where, tuple(headers), () if body is None else (body,))
                        answers.append(seen(await ask(app, asked)))
                    assert answers[0] == answers[1] == answers[2], (method, path, answers)
                    assert answers[0][0] in (400, 404), (method, path, answers)
                    count += 1
        return count

    assert asyncio.run(attack()) >= 14
    for listing in ("/v1/keys", "/v1/jobs"):
        assert other("GET", listing).json() == []
        assert len(api("GET", listing).json()) == 1
    assert api("GET", f"/v1/keys/{target.key_id}").json()["complete"]
