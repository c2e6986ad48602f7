"""The local page over a service that is played: the true client, keys and evaluation of the small network, no HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from fheinfer.client import Client
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.errors import FheinferError, NotFoundError, UnreachableError
from fheinfer.evaluating import Event
from fheinfer.service.page import runs
from fheinfer.service.page.app import LocalPage, create_app
from fheinfer.service.page.clear import InClear
from fheinfer.service.protocol import ModelInfo
from fheinfer.service.remote import Remote

F64 = NDArray[np.float64]
PORT, TOKEN = 8765, "t" * 43
ORIGIN = f"http://127.0.0.1:{PORT}"
JOB = "0" * 32


class PlayedModel:
    """As `RemoteModel`. `down`: it does not answer; `fails`: how its jobs end; `gate`: its jobs wait for it."""

    def __init__(self, client: Client, session: Any) -> None:
        self.client, self.session = client, session
        self.spec = cast(ClientSpec, client.spec)
        self.down = False
        self.fails: FheinferError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.deleted: list[str] = []
        self.sent: list[bytes] = []

    def prepare(self, on_event: Callable[[Event], None]) -> None:
        on_event({"event": "keygen", "fraction": 0.5})
        on_event({"event": "upload", "done": 10, "total": 20})
        self._answer()

    def encrypt(self, x: F64) -> bytes:
        return self.client.encrypt(x)

    def submit(self, encrypted: bytes) -> Any:
        self._answer()
        self.sent.append(encrypted)
        return SimpleNamespace(id=JOB)

    def follow(self, job_id: str, on_event: Callable[[Event], None]) -> Any:
        on_event({"event": "queued", "position": 2})
        while not self.gate.wait(0.01):
            self._answer()
            on_event({"event": "queued", "position": 1})
        self._answer()
        on_event({"event": "step", "index": 3, "total": 4, "seconds_left": 0.5})
        return SimpleNamespace(state="failed" if self.fails else "done")

    def failure(self, job: Any) -> FheinferError:
        assert self.fails is not None
        return self.fails

    def result(self, job_id: str, encrypted: bytes) -> bytes:
        self._answer()
        self.deleted.append(job_id)  # before the result is looked at
        return bytes(self.session.evaluate(encrypted))

    def decrypt(self, result: bytes, encrypted: bytes) -> dict[str, F64]:
        return self.client.outputs(result, request=encrypted)

    def delete(self, job_id: str) -> None:
        self.deleted.append(job_id)

    def _answer(self) -> None:
        if self.down:
            raise UnreachableError("http://127.0.0.1:1: no answer; check the address")


class PlayedRemote:
    """As `Remote`, of the one model "tiny"."""

    def __init__(self, model: PlayedModel) -> None:
        self.model = model

    def models(self) -> tuple[ModelInfo, ...]:
        self.model._answer()
        spec = self.model.spec
        needs = spec.keys.values()
        return (
            ModelInfo(
                name="tiny",
                plan=spec.plan,
                client="0" * 64,
                model=spec.model,
                set=spec.params.name,
                input_shape=list(spec.input_shape),
                input_bytes=spec.input.bytes,
                result_bytes=spec.output_bytes,
                seconds={"minimal": 1.0},
                key_bytes={"minimal": max(n.key_bytes for n in needs)},
                memory={"minimal": 0},
            ),
        )

    def open(self, name: str, *, accept_plan: bool) -> PlayedModel:
        self.model._answer()
        if name != "tiny":
            raise NotFoundError(f"no model {name}")
        return self.model


@pytest.fixture
def model(tiny_client: Client, tiny_session: Any) -> PlayedModel:
    return PlayedModel(tiny_client, tiny_session)


@pytest.fixture
def stranger(model: PlayedModel, tiny_model_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser that was not given the token."""
    monkeypatch.setattr(runs, "FIRST_PAUSE", 0.01)
    page = LocalPage(cast(Remote, PlayedRemote(model)), None, InClear(tiny_model_file))
    with TestClient(create_app(page, PORT, TOKEN), base_url=ORIGIN, headers={"origin": ORIGIN}) as client:
        yield client
        model.gate.set()


@pytest.fixture
def browser(stranger: TestClient) -> TestClient:
    """The person's browser."""
    assert stranger.get("/", params={"token": TOKEN}).status_code == 200
    return stranger


def until(browser: TestClient, run: Any, *states: str, seconds: float = 60.0) -> Any:
    """The run when it is in one of these states."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = browser.get(f"/api/runs/{run['id']}").json()
        if now["state"] in states:
            return now
        time.sleep(0.02)
    raise AssertionError(f"still {now}")
