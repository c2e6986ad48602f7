"""A service that lies, and a network that breaks: what the remote client believes, and what it says."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import fheinfer
from fheinfer import errors
from fheinfer.crypto.client_spec import MAX_BYTES
from fheinfer.errors import (
    BackendError,
    CorruptArtifactError,
    JobError,
    LimitError,
    MismatchError,
    NotFoundError,
    PlanError,
    StorageError,
    TokenError,
    UnreachableError,
    UntrustedServerError,
    UsageError,
)
from fheinfer.service import uploading
from fheinfer.service.receipts import Signer
from tests.service.fake import TOKEN, URL, FakeService, problem
from tests.service.remotes import NEAR, clear, fake, impatient, other_folder, plan_folder, remote, vectors

__all__ = ["fake", "impatient", "other_folder", "plan_folder", "remote"]
Make = Callable[..., fheinfer.Remote]
Answer = Callable[[httpx.Request, httpx.Response], httpx.Response]
OTHER = "fi_" + "o" * 43


def on(path: str, other: Callable[[httpx.Response], httpx.Response], method: str = "GET") -> Answer:
    """Another answer to requests whose path ends so."""

    def answer(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        return other(true) if request.method == method and request.url.path.endswith(path) else true

    return answer


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# What is pinned.


def test_another_plan_under_the_same_name(
    remote: Make, fake: FakeService, plan_folder: Path, other_folder: Path
) -> None:
    """Threat "replay, confusion": a plan that changed under the same name is a new plan."""
    [x] = vectors(1)
    old = remote().infer(x)
    [key_id] = fake.keys
    fake.serve("first", other_folder)
    for _ in range(2):
        with pytest.raises(UntrustedServerError, match=r"another plan as first.*accept it by --accept-plan"):
            remote().open("first")
    new = remote().open("first", accept_plan=True).infer(x)
    assert np.abs(old - clear(plan_folder, x)).max() < NEAR
    assert np.abs(new - clear(other_folder, x)).max() < NEAR
    assert set(fake.keys) == {key_id}  # the same keys serve both
    assert np.abs(remote().infer(x) - new).max() < NEAR
    fake.serve("first", plan_folder)
    with pytest.raises(UntrustedServerError, match="another plan"):
        remote().open("first")


def test_a_plan_that_changes_while_a_client_is_there(remote: Make, fake: FakeService, other_folder: Path) -> None:
    client = remote()
    client.open("first")
    fake.serve("first", other_folder)
    with pytest.raises(UntrustedServerError, match="another plan"):
        client.open("first")


def test_another_signing_key(remote: Make, fake: FakeService, tmp_path: Path) -> None:
    remote().open()
    fake.signer = Signer(tmp_path / "other.key")
    for _ in range(2):
        with pytest.raises(UntrustedServerError, match="signs with another key"):
            remote().models()
    (tmp_path / "servers" / "127.0.0.1_8000" / "server.json").unlink()
    assert len(remote().models()) == 1
    (tmp_path / "servers" / "127.0.0.1_8000" / "server.json").write_text("{}")
    with pytest.raises(CorruptArtifactError, match=r"server.json: damaged"):
        remote().models()


@pytest.mark.parametrize("field, value", [("protocol", 2), ("container", 1), ("client", 3), ("keys", 5)])
def test_another_version(remote: Make, fake: FakeService, field: str, value: int) -> None:
    fake.answer = on("/server", lambda true: httpx.Response(200, json={**true.json(), field: value}))
    with pytest.raises(MismatchError, match=r"runs fheinfer 0\.4, which has other formats"):
        remote().models()


def test_a_client_json_that_must_not_be_used(
    remote: Make, fake: FakeService, plan_folder: Path, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = (plan_folder / "client.json").read_bytes()
    cases: list[tuple[bytes, type[Exception], str]] = [
        ((other_folder / "client.json").read_bytes(), UntrustedServerError, "of another plan"),
        (b"{", CorruptArtifactError, "damaged"),
        (true[:-20], CorruptArtifactError, "damaged"),
        (json.dumps({**json.loads(true), "more": 1}).encode(), CorruptArtifactError, "damaged"),
        (json.dumps({**json.loads(true), "format": 3}).encode(), MismatchError, "version 3"),
        (true + b" " * MAX_BYTES, UnreachableError, "more than 4194304 bytes"),
        (true.replace(b'"scale": ', b'"scale": -'), CorruptArtifactError, "damaged"),
    ]
    for content, kind, says in cases:

        def lie(request: httpx.Request, true: httpx.Response, content: bytes = content) -> httpx.Response:
            if request.url.path.endswith("client.json"):
                return httpx.Response(200, content=content)
            if request.url.path.endswith("/models"):
                return httpx.Response(200, json=[info | {"client": digest(content)} for info in true.json()])
            if request.url.path.endswith("/models/first"):
                return httpx.Response(200, json=true.json() | {"client": digest(content)})
            return true

        fake.answer = lie
        with pytest.raises(kind, match=says) as caught:
            remote().open()
        assert "\n" not in str(caught.value)
    fake.answer = on("client.json", lambda response: httpx.Response(200, content=true.replace(b"1", b"2", 1)))
    with pytest.raises(UnreachableError, match="damaged answer"):  # a digit that changed on the way
        remote().open()
    fake.answer = lambda request, response: response
    monkeypatch.delenv("FHEINFER_ALLOW_INSECURE")
    with pytest.raises(PlanError, match="less than 128 bits"):
        remote().open()
    monkeypatch.setenv("FHEINFER_ALLOW_INSECURE", "1")
    assert remote().open().spec.plan == json.loads(true)["plan"]


# Results.


def lies(fake: FakeService, tmp_path: Path) -> Iterator[tuple[str, Callable[[httpx.Response, str], httpx.Response]]]:
    """Answers in place of a result, by name; each gets the true one and the id of the job."""
    results, jobs = fake.results, fake.jobs
    stranger = Signer(tmp_path / "stranger.key")

    def signed(job: str, result: bytes, **changes: str) -> httpx.Response:
        return fake.signed(jobs[job], result, {name.removeprefix("of_"): text for name, text in changes.items()})

    def by_stranger(true: httpx.Response, job: str) -> httpx.Response:
        mine, fake.signer = fake.signer, stranger
        try:
            return signed(job, true.content)
        finally:
            fake.signer = mine

    def without(true: httpx.Response, name: str) -> httpx.Response:
        kept = [(key, value) for key, value in true.headers.items() if key != name.lower()]
        return httpx.Response(200, content=true.content, headers=kept)

    def replaced(true: httpx.Response, name: str, value: str) -> httpx.Response:
        return httpx.Response(200, content=true.content, headers={**dict(true.headers), name: value})

    def first() -> str:
        return next(iter(results))

    yield "the result of the first request", lambda true, job: signed(job, results[first()])
    yield "the first request's answer, receipt and all", lambda true, job: signed(first(), results[first()])
    yield "a receipt of the first request", lambda true, job: signed(job, true.content, of_request="0" * 64)
    yield "a receipt of another job", lambda true, job: signed(job, true.content, of_job="0" * 32)
    yield "a receipt of another result", lambda true, job: signed(job, true.content, of_result="0" * 64)
    yield "a receipt of another plan", lambda true, job: signed(job, true.content, of_plan="0" * 64)
    yield "a receipt of other keys", lambda true, job: signed(job, true.content, of_key_id="0" * 32)
    yield "a receipt by a stranger", by_stranger
    yield "no receipt", lambda true, job: without(true, "Fheinfer-Receipt")
    yield "no signature", lambda true, job: without(true, "Fheinfer-Signature")
    yield "no base64", lambda true, job: replaced(true, "Fheinfer-Signature", "!" * 88)
    yield "no JSON", lambda true, job: replaced(true, "Fheinfer-Receipt", "AAAA")
    yield (
        "a changed result",
        lambda true, job: httpx.Response(
            200, content=true.content[:-1] + bytes([true.content[-1] ^ 1]), headers=true.headers
        ),
    )
    yield "garbage, signed", lambda true, job: signed(job, os.urandom(1000))
    yield "nothing, signed", lambda true, job: signed(job, b"")
    yield "too much", lambda true, job: signed(job, true.content + bytes(1 << 20))
    yield "noise in a container, signed", lambda true, job: signed(job, _noise(true.content))
    yield "large values, signed", lambda true, job: signed(job, _larger(true.content))


def _noise(result: bytes) -> bytes:
    """A container that is whole, with other numbers in it."""
    body = bytearray(result)
    for i in range(len(body) - 4000, len(body)):
        body[i] ^= 1 << (i % 3)
    return _with_checksum(bytes(body))


def _larger(result: bytes) -> bytes:
    """The same ciphertext, whose name of the request is kept, with residues moved around."""
    return _with_checksum(result[:-256] + result[-128:] + result[-256:-128])


def _with_checksum(body: bytes) -> bytes:
    digest = hashlib.sha256(body[:72])
    digest.update(body[104:])
    return body[:72] + digest.digest() + body[104:]


def test_whatever_is_wrong_with_a_result_is_one_error(
    remote: Make, fake: FakeService, plan_folder: Path, tmp_path: Path
) -> None:
    """Threats "files have a checksum, no signature", "replay, confusion" and "chosen ciphertexts": the same message,
    nothing shown, no result asked for again, and the job gone as after a good one."""
    model = remote().open()
    [first, x] = vectors(2)
    model.prepare()
    encrypted = model.encrypt(first)
    model.submit(encrypted)
    said = set()
    cases = list(lies(fake, tmp_path))
    for name, lie in cases:
        fake.seen.clear()

        def answer(request: httpx.Request, true: httpx.Response, lie: Any = lie) -> httpx.Response:
            *_, job, last = request.url.path.split("/")
            return lie(true, job) if last == "result" else true

        fake.answer = answer
        with pytest.raises(UntrustedServerError) as caught:
            model.outputs(x)
        said.add(str(caught.value))
        assert caught.value.__cause__ is None, name
        assert caught.value.__suppress_context__ or caught.value.__context__ is None, name
        asked = [line.split("/")[-1] if "result" in line else line.split()[0] for line in fake.seen]
        assert asked[-4:] == ["POST", "GET", "result", "DELETE"], name
        assert len(fake.jobs) == 1, name
    assert len(said) == 1
    assert "docs/how-to/remote.md" in said.pop()
    fake.answer = lambda request, true: true
    assert np.abs(model.outputs(x)["kind"] - clear(plan_folder, x)).max() < NEAR


def test_results_count_before_they_are_decrypted(remote: Make, fake: FakeService) -> None:
    """A service that makes clients fail gets no more answers out of a key than one that does not."""
    model = remote().open()
    [x] = vectors(1)
    fake.answer = on("/result", lambda true: fake.signed(next(iter(fake.jobs.values())), b"garbage"))
    for _ in range(3):
        with pytest.raises(UntrustedServerError):
            model.outputs(x)
    assert model.folder.results(next(iter(fake.keys))) == 3


def test_results_of_two_requests_that_wait_at_once_are_not_swapped(
    remote: Make, fake: FakeService, plan_folder: Path
) -> None:
    model = remote().open()
    xs = {str(i): x for i, x in enumerate(vectors(3))}

    def swapped(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        *_, job, last = request.url.path.split("/")
        if last != "result":
            return true
        other = next(key for key in fake.results if key != job)
        return fake.signed(fake.jobs.get(other, fake.jobs[job]), fake.results[other])

    fake.answer = swapped
    with pytest.raises(UntrustedServerError):
        list(model.evaluate(xs))
    assert fake.jobs == {}  # those that waited are cancelled
    fake.answer = lambda request, true: true
    for one in model.evaluate(xs):
        assert np.abs(one.outputs["kind"] - clear(plan_folder, xs[one.name])).max() < NEAR
        assert one.sizes["input"] > one.sizes["result"] > 0


@pytest.mark.parametrize("field, value", [("plan", "0" * 64), ("key_id", "0" * 32), ("request", "0" * 64)])
def test_a_service_that_took_something_else(remote: Make, fake: FakeService, field: str, value: str) -> None:
    fake.answer = on("/jobs", lambda true: httpx.Response(202, json={**true.json(), field: value}), "POST")
    with pytest.raises(UntrustedServerError, match="took another request"):
        remote().infer(vectors(1)[0])


# Jobs that fail, and streams that break.


def test_jobs_that_end_otherwise(remote: Make, fake: FakeService) -> None:
    failed = {"title": "failed", "status": 500, "detail": "the worker died\ntwice", "kind": "BackendError"}
    for state, error, kind in (("failed", failed, BackendError), ("cancelled", None, JobError)):

        def other(request: httpx.Request, true: httpx.Response, state: str = state, error: Any = error) -> Any:
            *_, job, last = request.url.path.split("/")
            if last != "events":
                return true
            now = json.loads(fake.jobs[job].model_dump_json()) | {"state": state, "error": error}
            return httpx.Response(200, content=f"data: {json.dumps(now)}\n\n".encode())

        fake.answer = other
        with pytest.raises(kind) as caught:
            remote().infer(vectors(1)[0])
        assert "\n" not in str(caught.value)
        assert fake.jobs == {}


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b": nothing\n\n",
        b"data: {\n\n",
        b"data: " + b"x" * 200_000,
        b"event: job\ndata: {}\n\n",
        "another job",
        "not found",
        "broken",
    ],
)
def test_without_events_the_service_is_asked(
    remote: Make, fake: FakeService, plan_folder: Path, stream: bytes | str
) -> None:
    waits = {"left": 5}

    def answer(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        *_, job, last = request.url.path.split("/")
        if last == "events" and stream == "broken":
            raise httpx.ReadError("gone")
        if last == "events" and stream == "another job":
            other = fake.jobs[job].model_copy(update={"id": "0" * 32})
            return httpx.Response(200, content=f"data: {other.model_dump_json()}\n\n".encode())
        if last == "events":
            return httpx.Response(200, content=stream) if isinstance(stream, bytes) else problem(503, "x", "no stream")
        if job == "jobs" and request.method == "GET" and waits["left"]:
            waits["left"] -= 1
            return httpx.Response(200, json={**true.json(), "state": "running", "step": 5 - waits["left"], "steps": 9})
        return true

    fake.answer = answer
    events: list[Any] = []
    [x] = vectors(1)
    found = remote().infer(x, on_event=events.append)
    assert np.abs(found - clear(plan_folder, x)).max() < NEAR
    assert [event["index"] for event in events if event["event"] == "step"] == [1, 2, 3, 4, 5]
    assert sum("events" in line for line in fake.seen) == 3


# Uploads.


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "CHUNK_BYTES", 100_000)


def uploads(fake: FakeService) -> int:
    return sum(line.startswith("PUT") and "/files/" in line for line in fake.seen)


def test_an_upload_that_was_stopped_goes_on(
    remote: Make, fake: FakeService, plan_folder: Path, small_chunks: None
) -> None:
    """Threat "keys of 0.3 to 1.3 GB": resumable. Ctrl-C at every chunk; nothing is sent twice."""
    chunks, stops = 0, 0

    def stop(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        nonlocal chunks
        if request.method == "PUT" and "/files/" in request.url.path and true.status_code == 200:
            chunks += 1
            if chunks % 3 == 0:
                raise KeyboardInterrupt
        return true

    fake.answer = stop
    [x] = vectors(1)
    while True:
        try:
            found = remote().infer(x)
            break
        except KeyboardInterrupt:
            stops += 1
    assert np.abs(found - clear(plan_folder, x)).max() < NEAR
    assert stops > 3
    assert len(fake.keys) == 1
    sizes = [len(file) for file in next(iter(fake.keys.values())).files.values()]
    assert uploads(fake) == sum(-(-size // 100_000) for size in sizes)


def test_an_upload_over_connections_that_break(
    remote: Make, fake: FakeService, plan_folder: Path, small_chunks: None
) -> None:
    """Every third request breaks before the service has it, every third after that: then it names the offset."""
    count = 0

    def breaking(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        if count % 3 == 1 and count > 3:
            raise httpx.ConnectError("refused")
        answer = fake._handle(request)
        if count % 3 == 2 and count > 3:
            raise httpx.ReadError("reset")
        return answer

    [x] = vectors(1)
    found = remote(transport=httpx.MockTransport(breaking)).infer(x)
    assert np.abs(found - clear(plan_folder, x)).max() < NEAR
    assert len(fake.keys) == 1


def test_files_that_arrive_damaged_are_sent_again(
    remote: Make, fake: FakeService, plan_folder: Path, small_chunks: None
) -> None:
    left = 2

    def damage(request: httpx.Request) -> httpx.Response:
        nonlocal left
        if request.method == "PUT" and request.url.path.endswith("public.key") and left:
            left -= 1
            content = bytes([request.content[0] ^ 1]) + request.content[1:]
            request = httpx.Request(request.method, request.url, content=content, headers=request.headers)
        return fake._handle(request)

    [x] = vectors(1)
    assert np.abs(remote(transport=httpx.MockTransport(damage)).infer(x) - clear(plan_folder, x)).max() < NEAR
    left = 1 << 30
    fake.keys.clear()
    with pytest.raises(CorruptArtifactError, match=r"public\.key arrived damaged"):
        remote(transport=httpx.MockTransport(damage)).infer(x)


@pytest.mark.parametrize("received", [0, 7, 1 << 40])
def test_a_service_that_takes_no_keys(remote: Make, fake: FakeService, received: int) -> None:
    def answer(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        if request.method == "PUT" and "/files/" in request.url.path:
            return problem(409, "MismatchError", "another offset", received=received)
        return true

    fake.answer = answer
    with pytest.raises(UnreachableError, match="it does not take"):
        remote().infer(vectors(1)[0])
    assert uploads(fake) < 10


def test_a_service_that_names_other_files(remote: Make, fake: FakeService) -> None:
    def answer(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        if request.method != "PUT" or "/files/" in request.url.path:
            return true
        status = true.json()
        status["files"][0]["name"] = "secret.key"
        return httpx.Response(200, json=status)

    fake.answer = answer
    with pytest.raises(MismatchError, match="takes other keys"):
        remote().infer(vectors(1)[0])
    assert uploads(fake) == 0


@pytest.mark.parametrize("damage", ["sha256", "bytes"])
def test_a_manifest_that_arrived_damaged(remote: Make, fake: FakeService, plan_folder: Path, damage: str) -> None:
    """The service would refuse every file, for ever: all of it is sent anew, once."""
    left = 1

    def damaging(request: httpx.Request) -> httpx.Response:
        nonlocal left
        if request.method == "PUT" and "/files/" not in request.url.path and left:
            left -= 1
            manifest = json.loads(request.content)
            entry = manifest["files"]["public.key"]
            entry[damage] = "0" * 64 if damage == "sha256" else entry["bytes"] + 1
            request = httpx.Request("PUT", request.url, content=json.dumps(manifest), headers=request.headers)
        return fake._handle(request)

    [x] = vectors(1)
    assert np.abs(remote(transport=httpx.MockTransport(damaging)).infer(x) - clear(plan_folder, x)).max() < NEAR
    assert sum(line.startswith("DELETE /v1/keys") for line in fake.seen) == 1


def test_keys_over_the_quota(remote: Make, fake: FakeService) -> None:
    fake.answer = on("", lambda true: problem(429, "LimitError", "3 MB of keys, and this client may have 2 MB"), "PUT")
    with pytest.raises(LimitError, match="may have 2 MB"):
        remote().infer(vectors(1)[0])


# Answers in general.


def test_redirects_are_not_followed(remote: Make, fake: FakeService) -> None:
    for status in (301, 302, 303, 307, 308):
        elsewhere = httpx.Response(status, headers={"location": "http://127.0.0.1:9/v1/models"})
        fake.answer = on("/models", lambda true, elsewhere=elsewhere: elsewhere)  # type: ignore[misc]
        fake.seen.clear()
        with pytest.raises(UnreachableError, match="not followed"):
            remote().models()
        assert fake.seen == ["GET /v1/server", "GET /v1/models"]


class Endless(httpx.SyncByteStream):
    def __init__(self) -> None:
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.sent += 1 << 16
            yield b" " * (1 << 16)


@pytest.mark.parametrize("status", [200, 400])
def test_answers_without_an_end_are_cut_off(remote: Make, fake: FakeService, status: int) -> None:
    stream = Endless()
    fake.answer = on("/models", lambda true: httpx.Response(status, stream=stream))
    with pytest.raises(UnreachableError, match="more than"):
        remote().models()
    assert stream.sent < 8 << 20


def test_a_result_without_an_end_is_cut_off(remote: Make, fake: FakeService) -> None:
    stream = Endless()
    fake.answer = on("/result", lambda true: httpx.Response(200, stream=stream, headers=true.headers))
    with pytest.raises(UntrustedServerError):
        remote().infer(vectors(1)[0])
    assert stream.sent < 1 << 20


def test_an_answer_that_drips_is_given_up(remote: Make, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fheinfer.service.connection.ANSWER_SECONDS", 0.0)
    fake.answer = on("/models", lambda true: httpx.Response(200, stream=Endless()))
    with pytest.raises(UnreachableError, match="does not end"):
        remote().models()


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"<html>", b"[{}]", b'[{"name": "../x"}]', b"[" * 100_000])
def test_answers_that_are_none(remote: Make, fake: FakeService, body: bytes) -> None:
    fake.answer = on("/models", lambda true: httpx.Response(200, content=body))
    with pytest.raises(UnreachableError, match="a damaged answer") as caught:
        remote().models()
    assert "\n" not in str(caught.value)
    assert fake.seen.count("GET /v1/models") > 1


def test_compressed_answers_are_refused(remote: Make, fake: FakeService) -> None:
    packed = httpx.Response(200, stream=Endless(), headers={"content-encoding": "gzip"})
    fake.answer = on("/models", lambda true: packed)
    with pytest.raises(UnreachableError, match="compressed"):
        remote().models()


def test_errors_keep_their_type(remote: Make, fake: FakeService) -> None:
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    for kind in (*kinds, "Nonsense", "annotations", "__builtins__"):
        fake.answer = on("/models", lambda true, kind=kind: problem(400, kind, "x\ny"))  # type: ignore[misc]
        with pytest.raises(kinds.get(kind, errors.ServiceError)) as caught:
            remote().models()
        assert type(caught.value) is kinds.get(kind, errors.ServiceError)
        assert str(caught.value) == rf"{URL}: x\ny"
    for status, type_ in ((404, NotFoundError), (401, TokenError), (507, StorageError), (500, UnreachableError)):
        fake.answer = on("/models", lambda true, status=status: httpx.Response(status, content=b"<html>"))  # type: ignore[misc]
        with pytest.raises(type_, match=f"status {status} without a reason"):
            remote().models()


def test_a_busy_service_is_waited_for(remote: Make, fake: FakeService) -> None:
    stopping = problem(503, "ServiceError", "stopping")
    stopping.headers["retry-after"] = "0"
    busy = [
        httpx.Response(503, headers={"retry-after": "0"}, content=b"{}"),
        stopping,
        httpx.Response(502, content=b"<html>bad gateway"),
    ]
    fake.answer = lambda request, true: busy.pop() if busy and "models" in request.url.path else true
    assert len(remote().models()) == 1
    fake.answer = on("/models", lambda true: problem(503, "NotEnoughMemoryError", "no worker has the memory"))
    fake.seen.clear()
    with pytest.raises(errors.NotEnoughMemoryError, match="no worker"):  # waiting, of which it says nothing, is no help
        remote().models()
    assert fake.seen.count("GET /v1/models") == 1
    late = problem(429, "LimitError", "too many requests")
    late.headers["retry-after"] = "3600"
    fake.answer = on("/models", lambda true: late)
    fake.seen.clear()
    with pytest.raises(LimitError, match="too many requests"):
        remote().models()
    assert fake.seen.count("GET /v1/models") == 1


def test_a_service_that_is_not_there(tmp_path: Path, impatient: None) -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        fheinfer.Remote("http://127.0.0.1:9", keys=tmp_path).models()
    assert list(tmp_path.iterdir()) == []


# Addresses and tokens.


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "http://192.168.0.1:8000",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://0.0.0.0",
        "http://[::2]",
    ],
)
def test_plain_http_is_for_this_machine(url: str) -> None:
    """Threat "files have a checksum, no signature": TLS."""
    with pytest.raises(UsageError, match="without TLS anybody on the way could read the token"):
        fheinfer.Remote(url, TOKEN)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "example.org:443",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "https://",
        "https://a b",
        "https://user:secret@example.org",
        "https://example.org/path",
        "https://example.org?x=1",
        "https://example.org/#x",
        "https://example.org:0",
        "https://example.org:99999",
        "https://x:y",
        "https://../x",
        "https://a\nb",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="write https://HOST") as caught:
        fheinfer.Remote(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url, folder",
    [
        ("https://Example.ORG", "example.org_443"),
        ("https://example.org:8443/", "example.org_8443"),
        ("http://localhost", "localhost_80"),
        ("http://[::1]:8000", "::1_8000"),
        ("http://127.9.9.9:1", "127.9.9.9_1"),
    ],
)
def test_addresses_and_their_folders(fake: FakeService, url: str, folder: str, tmp_path: Path) -> None:
    fheinfer.Remote(url, TOKEN, keys=tmp_path, transport=fake.transport).models()
    assert (tmp_path / folder / "server.json").exists()


@pytest.mark.parametrize("token", ["x", TOKEN + "\n", TOKEN + "x", "fi_" + "ü" * 43, TOKEN[:-1] + " "])
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(TokenError, match="no token") as caught:
        fheinfer.Remote(URL, token)
    assert token not in str(caught.value)


def test_the_token_of_the_environment(fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def models(token: str | None = None) -> int:
        return len(fheinfer.Remote(URL, token, keys=tmp_path, transport=fake.transport).models())

    monkeypatch.delenv("FHEINFER_TOKEN", raising=False)
    with pytest.raises(TokenError, match="wants a token"):
        models()
    monkeypatch.setenv("FHEINFER_TOKEN", TOKEN)
    assert models() == 1
    with pytest.raises(TokenError, match=r"wrong, expired or revoked.*--token-file, or set FHEINFER_TOKEN"):
        models(OTHER)


def test_no_proxy_gets_the_token_without_tls(tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = fheinfer.Remote("http://127.0.0.1:9", TOKEN, keys=tmp_path)
    assert client._connection._http._mounts == {}


def test_the_token_is_nowhere(
    remote: Make, fake: FakeService, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Threat "sizes, times, names, key ids in the clear": in no log, error or file, whatever the service says."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.DEBUG)
    client = remote()
    client.infer(vectors(1)[0])
    said = [repr(client), str(vars(client)), repr(client._connection), repr(client.open())]
    fake.answer = on("/models", lambda true: problem(400, "UsageError", f"the token {TOKEN} is not good"))
    with pytest.raises(UsageError) as refused:
        client.models()
    fake.answer = on("/models", lambda true: httpx.Response(302, headers={"location": f"http://x/{TOKEN}"}))
    with pytest.raises(UnreachableError) as elsewhere:
        client.models()
    fake.answer = lambda request, true: (_ for _ in ()).throw(httpx.ReadError(f"while sending {TOKEN}"))
    with pytest.raises(UnreachableError) as broken:
        client.models()
    for caught in (refused, elsewhere, broken):
        said += [str(caught.value), str(caught.getrepr(style="short"))]
        assert caught.value.__cause__ is None
    assert not [text for text in (*said, caplog.text) if TOKEN in text]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
