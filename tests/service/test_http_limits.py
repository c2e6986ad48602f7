"""What a client may ask for: rates, sizes and times (threats: disk, memory, many queries, endless bodies)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import Request
from starlette.testclient import TestClient

from fheinfer.compiler.plan import Plan
from fheinfer.errors import LimitError
from fheinfer.service.http import bodies, limits, watch
from fheinfer.service.http.app import create_app
from fheinfer.service.http.limits import Buckets, Rate, Slots
from fheinfer.service.http.service import Service, Settings, running
from fheinfer.service.protocol import CHUNK_BYTES
from tests.service.conftest import Api, ThreadWorkers


def test_a_bucket_empties_and_fills() -> None:
    now = [0.0]
    bucket = Buckets(Rate(2.0, 3), "requests", lambda: now[0])
    for _ in range(3):
        bucket.take("a")
    with pytest.raises(LimitError, match="too many requests; wait 1 s") as caught:
        bucket.take("a")
    assert caught.value.retry_after == pytest.approx(0.5)  # type: ignore[attr-defined]
    bucket.take("b")  # another key has its own
    now[0] = 0.5
    bucket.take("a")
    with pytest.raises(LimitError):
        bucket.take("a")
    now[0] = 100.0
    for _ in range(3):  # no more than the burst
        bucket.take("a")
    with pytest.raises(LimitError):
        bucket.take("a")
    now[0] += 0.2
    bucket.take("a", 10.0)  # at least as many a second


def test_a_bucket_remembers_so_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 10)
    bucket = Buckets(Rate(0.001, 1), "requests")
    for key in range(1000):
        bucket.take(key)
    assert len(bucket._levels) == 10
    with pytest.raises(LimitError):
        bucket.take(999)


def test_slots_are_given_back_and_forgotten() -> None:
    slots = Slots(1, 2, "bodies")
    with slots.held("a"), slots.held("b"):
        with pytest.raises(LimitError, match="bodies"), slots.held("a"):
            pass
        with pytest.raises(LimitError), slots.held("c"):
            pass
    with pytest.raises(RuntimeError), slots.held("a"):
        raise RuntimeError
    with slots.held("a"):
        pass
    assert not slots._held


@pytest.fixture
def limited(settings: Settings) -> Iterator[Service]:
    few = replace(settings, requests=Rate(0.001, 3), submits=Rate(0.001, 0.5))
    with running(few, ThreadWorkers) as found:
        yield found


def test_requests_of_an_account_are_limited(limited: Service) -> None:
    with TestClient(create_app(limited)) as http:
        one, two = (Api(http, limited.store.add_token(name)) for name in ("alice", "bob"))
        assert [one("GET", "/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = one("GET", "/v1/models")
        assert refused.json()["kind"] == "LimitError"
        assert int(refused.headers["Retry-After"]) > 0
        assert two("GET", "/v1/models").status_code == 200


def test_submits_of_an_account_are_limited(limited: Service, tiny_plan: Plan) -> None:
    with TestClient(create_app(limited)) as http:
        one = Api(http, limited.store.add_token("alice"))
        assert one.submit(b"x", tiny_plan.identity, "0" * 32).status_code == 429


def test_as_many_jobs_as_the_workers_do_are_taken(settings: Settings, tiny_plan: Plan) -> None:
    seconds = min(needs.seconds for needs in tiny_plan.client.keys.values())
    few = replace(settings, submits=Rate(0.001, 1))
    with running(few, ThreadWorkers) as limited, TestClient(create_app(limited)) as http:
        one = Api(http, limited.store.add_token("alice"))
        assert one.submit(b"x", tiny_plan.identity, "0" * 32).status_code == 404  # no such keys
        time.sleep(seconds + 0.05)
        assert one.submit(b"x", tiny_plan.identity, "0" * 32).status_code == 404


def test_jobs_of_an_account_are_limited(
    api: Api,
    service: Service,
    workers: ThreadWorkers,
    tiny_keys: Path,
    tiny_plan: Plan,
    tiny_client: Any,
    tiny_image: Any,
) -> None:
    workers.go.clear()
    service.store.add_token("alice", max_jobs=2)
    key_id = api.upload(tiny_keys / "server")
    answers = [api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[2].headers["Retry-After"]
    assert len(list((service.settings.data / "jobs").iterdir())) == 2  # nothing of the third is left


def test_keys_of_an_account_are_limited(api: Api, service: Service, tiny_keys: Path) -> None:
    service.store.add_token("alice", max_key_bytes=1000)
    raw = (tiny_keys / "server" / "manifest.json").read_bytes()
    key_id = raw.split(b'"key_id": "')[1][:32].decode()
    refused = api("PUT", f"/v1/keys/{key_id}", content=raw)
    assert (refused.status_code, refused.json()["kind"]) == (429, "LimitError")
    assert "Retry-After" not in refused.headers  # a client would wait for nothing
    assert api("GET", "/v1/keys").json() == []


def routes_with_bodies(tiny_plan: Plan, key_id: str) -> list[tuple[str, str, int]]:
    submit = f"/v1/jobs?plan={tiny_plan.identity}&key={key_id}"
    return [
        ("PUT", f"/v1/keys/{key_id}", 1 << 20),
        ("PUT", f"/v1/keys/{key_id}/files/public.key", CHUNK_BYTES),
        ("POST", submit, tiny_plan.client.input.bytes * 4 + (1 << 18)),
    ]


def test_bodies_say_their_length_and_keep_to_a_bound(api: Api, tiny_keys: Path, tiny_plan: Plan) -> None:
    key_id = api.upload(tiny_keys / "server")
    for method, path, bound in routes_with_bodies(tiny_plan, key_id):
        unknown = api(method, path, content=iter([b"x" * 100]))  # in chunks, without a length
        assert (unknown.status_code, unknown.json()["kind"]) == (411, "UsageError"), path
        large = api(method, path, content=b"x" * (bound + 1))
        assert (large.status_code, large.json()["kind"]) == (413, "LimitError"), path
        for length in (b"-1", b"1e3", b"0x10", "\u0662".encode(), b"\xb2", b"1" * 30):
            wrong = api(method, path, content=b"", headers={"Content-Length": length})
            assert wrong.status_code == 411, (path, length)
    assert api("GET", f"/v1/keys/{key_id}").json()["complete"]


def test_bodies_of_an_account_at_the_same_time_are_limited(api: Api, service: Service, tiny_keys: Path) -> None:
    account = service.store.account_of(api.token)
    assert account is not None
    with service.uploads.held(account.id), service.uploads.held(account.id):
        with service.uploads.held(account.id), service.uploads.held(account.id):
            refused = api("PUT", f"/v1/keys/{'0' * 32}", content=b"{}")
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert api("PUT", f"/v1/keys/{'0' * 32}", content=b"{}").status_code == 400


def test_what_is_sent_does_not_pile_up(api: Api, service: Service) -> None:
    """Bodies that are refused leave nothing on the disk."""
    before = sorted(service.settings.data.rglob("*"))
    for size in (0, 1, 1 << 20):
        assert api("PUT", f"/v1/keys/{'0' * 32}", content=b"x" * size).status_code == 400
        assert api("PUT", f"/v1/keys/{'0' * 32}/files/public.key", content=b"x" * size).status_code == 404
    assert sorted(service.settings.data.rglob("*")) == before


def test_a_limit_of_memory_refuses_what_no_worker_can_do(
    settings: Settings, tiny_keys: Path, tiny_plan: Plan, tiny_client: Any, tiny_image: Any
) -> None:
    with (
        running(replace(settings, memory=1 << 20), ThreadWorkers) as service,
        TestClient(create_app(service)) as http,
    ):
        api = Api(http, service.store.add_token("alice"))
        assert api("GET", "/v1/models").json()[0]["worker_memory"] == 1 << 20
        key_id = api.upload(tiny_keys / "server")
        refused = api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id)
    assert (refused.status_code, refused.json()["kind"]) == (503, "NotEnoughMemoryError")
    assert "a worker of this service has 1048576" in refused.json()["detail"]
    assert "Retry-After" not in refused.headers  # a client would wait for nothing


def arriving(folder: Path, *pieces: bytes | float, length: int) -> bytes:
    """What `received` makes of a body whose pieces arrive after the pauses between them; then nothing comes."""
    waiting = list(pieces)

    async def receive() -> dict[str, Any]:
        while waiting and isinstance(waiting[0], float):
            await asyncio.sleep(waiting.pop(0))  # type: ignore[arg-type]
        if not waiting:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": waiting.pop(0), "more_body": True}

    async def read() -> bytes:
        headers = [(b"content-length", str(length).encode())]
        async with bodies.received(Request({"type": "http", "headers": headers}, receive), length, folder) as body:
            return bytes(body)

    return asyncio.run(read())


def test_a_body_that_stops_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "GAP_SECONDS", 0.1)
    with pytest.raises(LimitError, match="did not arrive in time"):
        arriving(tmp_path, b"x", length=1 << 20)


def test_a_body_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "GAP_SECONDS", 0.1)
    monkeypatch.setattr(bodies, "SLOWEST", 1000)
    drips: list[bytes | float] = [b"x", 0.05] * 200
    began = time.monotonic()
    with pytest.raises(LimitError, match="did not arrive in time"):
        arriving(tmp_path, *drips, length=200)
    assert time.monotonic() - began < 5


def test_a_body_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="more than the 3 bytes"):
        arriving(tmp_path, b"xx", b"xx", length=3)


def test_a_client_that_does_not_read_its_answer_is_left(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    monkeypatch.setattr(watch, "READ_SECONDS", 0.1)
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # as uvicorn does while its buffer is full

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/livez", "headers": [], "query_string": b"", "state": {}}
    with structlog.testing.capture_logs() as lines:
        asyncio.run(create_app(service)(scope, receive, send))
    assert sent == ["http.response.start", "http.response.body"]
    assert [line["status"] for line in lines if line["event"] == "request"] == [watch.GONE]
