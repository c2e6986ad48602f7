"""A service to talk to: in this process where that will do (`service`, `api`), or a real one (`serving`)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

import fheinfer
from fheinfer.crypto.manifest import Manifest
from fheinfer.evaluating import Event
from fheinfer.service.http.app import create_app
from fheinfer.service.http.service import Service, Settings, running
from fheinfer.service.store import FILE_NAME as DATABASE
from fheinfer.service.store import Store
from fheinfer.service.workers import StoppedError, Task
from fheinfer.storage import atomic_write

MODEL = "tiny"
PATIENCE = 60.0


@pytest.fixture(scope="session")
def models(tiny_plan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one, `tiny`. Do not change it: copy the folder."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_plan_folder, folder / MODEL)
    return folder


class ThreadWorkers:
    """A worker in this process, in the thread that asks: what a service computes is real, and starts at once.

    `hold` keeps it from beginning until `go` is set.
    """

    slots = 1

    def __init__(self) -> None:
        self.server = fheinfer.Server()
        self.go = threading.Event()
        self.go.set()
        self.closed = False
        self.forgotten: list[str] = []

    def loaded(self, slot: int) -> frozenset[str]:
        return frozenset()

    def run(self, slot: int, task: Task, on_event: Callable[[Event], None]) -> None:
        while not self.go.wait(0.02):
            if self.closed:
                raise StoppedError
        session = self.server.session(task.plan, task.keys)
        on_event({"event": "plan", "seconds": [1.0] * len(session.plan.steps)})
        result = session.evaluate(
            task.input.read_bytes(),
            observer=lambda done: on_event(
                {"event": "step", "index": done.index, "total": done.total, "seconds": done.seconds}
            ),
        )
        atomic_write(task.output, [result])

    def cancel(self, slot: int, task_id: str) -> None:
        pass

    def forget(self, key_id: str) -> None:
        self.forgotten.append(key_id)

    def close(self, grace: float) -> None:
        self.closed = True

    def memory(self) -> int:
        return 0


@dataclass
class Api:
    """A client of the service's HTTP API under one token."""

    client: httpx.Client
    token: str

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def upload(self, server_folder: Path) -> str:
        """Uploads those keys that are not there yet, and says their id."""
        raw = (server_folder / "manifest.json").read_bytes()
        manifest = Manifest.from_bytes(raw)
        at = f"/v1/keys/{manifest.key_id}"
        begun = self("PUT", at, content=raw)
        assert begun.status_code in (200, 201), begun.text
        for name in [file["name"] for file in begun.json()["files"] if file["received"] == 0]:
            answer = self("PUT", f"{at}/files/{name}", content=(server_folder / name).read_bytes())
            assert answer.status_code == 200, answer.text
        assert self("GET", at).json()["complete"]
        return manifest.key_id

    def submit(self, encrypted: bytes, plan: str, key_id: str) -> httpx.Response:
        return self("POST", "/v1/jobs", params={"plan": plan, "key": key_id}, content=encrypted)

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job, once it is in a final state."""
        deadline = threading.Event()
        timer = threading.Timer(PATIENCE, deadline.set)
        timer.start()
        try:
            while not deadline.is_set():
                found: dict[str, Any] = self("GET", f"/v1/jobs/{job_id}").json()
                if found["state"] in ("done", "failed", "cancelled"):
                    return found
                deadline.wait(0.05)
        finally:
            timer.cancel()
        raise AssertionError(f"job {job_id} is not done after {PATIENCE:.0f} s: {found}")


@pytest.fixture
def workers() -> ThreadWorkers:
    return ThreadWorkers()


@pytest.fixture
def settings(models: Path, tmp_path: Path) -> Settings:
    return Settings(models=models, data=tmp_path / "data")


@pytest.fixture
def service(settings: Settings, workers: ThreadWorkers) -> Iterator[Service]:
    with running(settings, lambda: workers) as found:
        yield found


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with TestClient(create_app(service)) as client:
        yield client


@pytest.fixture
def api(service: Service, http: httpx.Client) -> Api:
    """The API under the token of an account."""
    return Api(http, service.store.add_token("alice"))


@pytest.fixture
def other(service: Service, http: httpx.Client) -> Api:
    """The API under the token of another account."""
    return Api(http, service.store.add_token("bob"))


@dataclass
class Serving:
    """A real `fheinfer serve`: its address, a token, and the process."""

    url: str
    token: str
    data: Path
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def api(self, token: str | None = None) -> Api:
        return Api(httpx.Client(base_url=self.url, timeout=PATIENCE), token or self.token)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and gives the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    @property
    def logged(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        return [json.loads(line) for line in self.log]


@contextmanager
def serve(data: Path, *options: object, name: str = "client", python: str | None = None) -> Iterator[Serving]:
    """`fheinfer serve --data DATA OPTIONS` on a free port, with a token of an account `name`; killed at the end.

    `python` is run instead of the command line.
    """
    data.mkdir(mode=0o700, exist_ok=True)
    store = Store(data / DATABASE)
    token = store.add_token(name)
    store.close()
    here = str(Path(fheinfer.__file__).parent.parent)
    program = ["-c", python] if python else ["-m", "fheinfer"]
    process = subprocess.Popen(
        [sys.executable, *program, "serve", "--port", "0", "--data", str(data), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=data,
        env={**os.environ, "PYTHONPATH": here},
    )
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        url = process.stdout.readline().strip() if process.stdout else ""
        assert url, f"fheinfer serve ended with {process.wait(10)}: {''.join(log)}"
        yield Serving(url, token, data, process, log)
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


@pytest.fixture
def serving(models: Path, tmp_path: Path) -> Iterator[Serving]:
    """A real service of the model `tiny` on a free port: `serving.url`, `serving.token`."""
    with serve(tmp_path / "data", "--models", models, "--threads", 1) as found:
        yield found
