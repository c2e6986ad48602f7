"""A full disk, many connections, and a worker that dies again and again (issue: "typed answers, the service goes on").

Threats: anonymous uploads fill the disk; time limits that really stop a worker; operations.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from fheinfer.compiler.plan import Plan
from fheinfer.crypto.manifest import Manifest
from fheinfer.service.http.service import Service, Settings, running
from fheinfer.service.workers import LocalWorkers
from tests.service.conftest import PATIENCE, Api, Serving
from tests.service.hostile.asking import KINDS

ROOM = 48 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with little room, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    if "small_disk" not in request.fixturenames:
        return settings
    return replace(settings, data=request.getfixturevalue("small_disk") / "data")


def fill(folder: Path, left: int) -> None:
    """Leaves so many bytes of room."""
    disk = os.statvfs(folder)
    with suppress(OSError), (folder / "filler").open("wb") as file:
        file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - left)))


def no_room(answer: Any) -> bool:
    """Whether an answer is a typed refusal for lack of room."""
    assert answer.status_code in (200, 201, 202, 204, 507), answer.text
    if answer.status_code == 507:
        assert answer.json()["kind"] == "StorageError"
        assert "/" not in answer.json()["detail"]
    return bool(answer.status_code == 507)


@pytest.mark.parametrize("left", [0, 100_000])
def test_a_full_disk(
    left: int,
    small_disk: Path,
    api: Api,
    workers: Any,
    tiny_plan: Plan,
    tiny_keys: Path,
    tiny_client: Any,
    tiny_image: Any,
) -> None:
    """While keys arrive, while a job is submitted, and while its result is written."""
    server, requests = tiny_keys / "server", [tiny_client.encrypt(tiny_image) for _ in range(3)]
    manifest = (server / "manifest.json").read_bytes()
    key_id = Manifest.from_bytes(manifest).key_id
    at = f"/v1/keys/{key_id}"
    fill(small_disk, left)
    assert no_room(api("PUT", at, content=manifest))  # said before the first byte
    (small_disk / "filler").unlink()
    assert not no_room(api("PUT", at, content=manifest))
    fill(small_disk, left)
    name = "rotation_1009_19.key"
    data = (server / name).read_bytes()
    assert no_room(api("PUT", f"{at}/files/{name}", content=data))
    for method, path in (
        ("GET", at),
        ("GET", "/v1/keys"),
        ("GET", "/v1/models"),
        ("GET", "/readyz"),
        ("GET", "/v1/jobs"),
    ):
        assert api(method, path).status_code == 200, path
    (small_disk / "filler").unlink()
    assert api.upload(server) == key_id
    fill(small_disk, min(left, 100_000))
    assert no_room(api.submit(requests[0], tiny_plan.identity, key_id))
    assert api("GET", "/v1/jobs").json() == []
    (small_disk / "filler").unlink()

    workers.go.clear()  # it has been taken, and nothing of its result is written
    job = api.submit(requests[1], tiny_plan.identity, key_id).json()["id"]
    while api("GET", f"/v1/jobs/{job}").json()["state"] != "running":
        time.sleep(0.02)
    fill(small_disk, min(left, 8192))
    workers.go.set()
    time.sleep(1.0)
    state = api("GET", f"/v1/jobs/{job}").json()
    (small_disk / "filler").unlink()
    if state["state"] == "failed":
        assert state["error"]["kind"] == "StorageError", state
    done = api.finished(job)
    assert done["state"] == "done" or done["error"]["kind"] == "StorageError", done
    last = api.submit(requests[2], tiny_plan.identity, key_id).json()["id"]
    assert api.finished(last)["state"] == "done"
    result = api("GET", f"/v1/jobs/{last}/result").content
    assert tiny_client.decrypt(result, request=requests[2]).shape == (10,)


def test_200_connections_at_once(serving: Serving) -> None:
    """Most of them idle, or in the middle of a head or a body: others are served meanwhile, and they are closed."""
    host, port = serving.url.removeprefix("http://").split(":")
    api = serving.api()
    beginnings = (
        b"",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: ",
        b"PUT /v1/keys/" + b"0" * 32 + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"PUT /v1/keys/%b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 1000\r\n\r\n{"
        % (b"0" * 32, serving.token.encode()),
    )
    before = psutil.Process(serving.process.pid).memory_info().rss
    peers = []
    try:
        for number in range(200):
            peers.append(socket.create_connection((host, int(port)), timeout=30))
            peers[-1].sendall(beginnings[number % len(beginnings)])
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: api("GET", "/v1/models").status_code, range(50)))
        assert set(statuses) == {200}
        assert time.monotonic() - began < 60
        assert psutil.Process(serving.process.pid).memory_info().rss - before < 64 << 20
        refused = api("PUT", f"/v1/keys/{'0' * 32}", content=b"{}")  # the account has all the bodies it may send
        assert (refused.status_code, refused.json()["kind"]) == (429, "LimitError")
    finally:
        for peer in peers:
            peer.close()
    deadline = time.monotonic() + PATIENCE
    while api("PUT", f"/v1/keys/{'0' * 32}", content=b"{}").status_code == 429:
        assert time.monotonic() < deadline, "bodies that broke off are counted for ever"
        time.sleep(0.05)
    assert api("GET", "/v1/models").status_code == 200


class TestWorkers:
    """A worker that is killed again and again."""

    @pytest.fixture
    def workers(self) -> LocalWorkers:
        return LocalWorkers(1, threads=1)

    @pytest.fixture
    def service(self, settings: Settings, workers: LocalWorkers) -> Iterator[Service]:
        with running(settings, lambda: workers) as found:
            yield found

    def test_a_worker_that_is_killed_again_and_again(
        self,
        api: Api,
        other: Api,
        workers: LocalWorkers,
        tiny_plan: Plan,
        tiny_keys: Path,
        tiny_client: Any,
        tiny_image: Any,
    ) -> None:
        """A job ends after three tries, typed, and the service takes others."""
        api.upload(tiny_keys / "server")
        key_id = other.upload(tiny_keys / "server")
        over = threading.Event()

        def kill() -> None:
            while not over.wait(0.02):
                process = workers._slots[0].process
                if process is not None and workers._slots[0].task is not None:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            jobs = [
                api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()["id"] for _ in range(2)
            ]
            lost = [api.finished(job) for job in jobs]
        finally:
            over.set()
            killer.join(PATIENCE)
        assert [job["state"] for job in lost] == ["failed"] * 2
        assert {job["error"]["kind"] for job in lost} == {"WorkerLostError"} <= KINDS
        encrypted = tiny_client.encrypt(tiny_image)
        job = other.submit(encrypted, tiny_plan.identity, key_id).json()["id"]
        assert other.finished(job)["state"] == "done"
        result = other("GET", f"/v1/jobs/{job}/result").content
        assert tiny_client.decrypt(result, request=encrypted).shape == (10,)
