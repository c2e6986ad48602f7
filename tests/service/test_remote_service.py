"""The remote client and a real `fheinfer serve`, in two processes: either is killed and started again in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.errors import NotFoundError, TokenError, UntrustedServerError
from fheinfer.service import uploading
from tests.conftest import Result
from tests.service.conftest import Serving, serve
from tests.service.remotes import NEAR, clear, compiled, network, other_folder, plan_folder, vectors

__all__ = ["other_folder", "plan_folder"]


@pytest.fixture
def models(plan_folder: Path, tmp_path: Path) -> Path:
    """A folder of models with one of vectors, `first`, and one of two outputs, `heads`."""
    shutil.copytree(plan_folder, tmp_path / "models" / "first")
    compiled(tmp_path / "models" / "heads", network(3, ("kind", "price")))
    return tmp_path / "models"


class Restarted:
    """A service that can be killed, and started again on its data and its port."""

    def __init__(self, stack: ExitStack, models: Path, data: Path) -> None:
        self._stack, self._models, self._data = stack, models, data
        self.now = self._start(0)
        self.url, self.token = self.now.url, self.now.token
        self.kills = 0

    def _start(self, port: int) -> Serving:
        return self._stack.enter_context(serve(self._data, "--models", self._models, "--threads", 1, "--port", port))

    def kill(self) -> None:
        self.now.end(signal.SIGKILL)
        self.kills += 1

    def start(self) -> None:
        self.now = self._start(int(self.url.rpartition(":")[2]))


def test_the_whole_way(
    serving: Serving, plan_folder: Path, models: Path, tmp_path: Path, process: Callable[..., Result]
) -> None:
    kinds: set[str] = set()
    xs = vectors(5)
    with fheinfer.Remote(serving.url, serving.token, keys=tmp_path / "keys") as remote:
        assert [info.name for info in remote.models()] == ["first", "heads"]
        found = remote.infer(xs, "first", lambda event: kinds.add(event["event"]))
        for x, y in zip(xs, found, strict=True):
            assert np.abs(y - clear(plan_folder, x)).max() < NEAR
        assert {"keygen", "upload", "encrypt", "result", "decrypt"} <= kinds
        several = remote.infer(xs[0], "heads")
        assert all(np.abs(several[k] - v).max() < NEAR for k, v in clear(models / "heads", xs[0]).items())
        with pytest.raises(NotFoundError):
            remote.open("none")
    api = serving.api()
    assert api("GET", "/v1/jobs").json() == []
    assert [keys["complete"] for keys in api("GET", "/v1/keys").json()] == [True, True]
    np.save(tmp_path / "x.npy", xs)
    (tmp_path / "token").write_text(serving.token)
    given = ("--server", serving.url, "--token-file", tmp_path / "token")
    done = process("infer", *given, "--model", "first", "-i", tmp_path / "x.npy", "--keys", tmp_path / "keys", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["images"]
    assert [row["class"] for row in rows] == [("cat", "dog", "owl")[int(np.argmax(y))] for y in found]
    listed = process("model", "list", *given)
    assert listed.code == 0, listed.err
    assert "heads" in listed.out
    for token in (None, "fi_" + "x" * 43):
        with pytest.raises(TokenError):
            fheinfer.Remote(serving.url, token, keys=tmp_path / "others").models()
    assert serving.token not in "".join(serving.log)


def test_a_service_that_is_killed_in_the_middle(
    models: Path, plan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While keys arrive, while inputs wait, before a result is fetched: one call of the client gets every answer."""
    monkeypatch.setattr(uploading, "CHUNK_BYTES", 50_000)
    xs, seen = vectors(6), dict.fromkeys(("upload", "encrypt", "result"), 0)
    with ExitStack() as stack:
        service = Restarted(stack, models, tmp_path / "data")

        def on_event(event: Mapping[str, Any]) -> None:
            kind = event["event"]
            if kind in seen:
                seen[kind] += 1
                if seen[kind] == 3:
                    service.kill()
                    threading.Timer(0.5, service.start).start()  # the client asks for a while meanwhile

        remote = fheinfer.Remote(service.url, service.token, keys=tmp_path / "keys")
        found = remote.infer(xs, "first", on_event)
        for x, y in zip(xs, found, strict=True):
            assert np.abs(y - clear(plan_folder, x)).max() < NEAR
        assert service.kills == 3
        assert len(service.now.api()("GET", "/v1/keys").json()) == 1
        assert service.now.api()("GET", "/v1/jobs").json() == []


CLIENT = """
from fheinfer.service import uploading
uploading.CHUNK_BYTES = 4000
from fheinfer.cli.entry import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_client_that_is_stopped_goes_on(
    serving: Serving, models: Path, tmp_path: Path, process: Callable[..., Result], number: int
) -> None:
    np.save(tmp_path / "x.npy", vectors(1)[0])
    given = ["infer", "--server", serving.url, "--model", "first", "-i", str(tmp_path / "x.npy"), "--json"]
    environment = {"FHEINFER_TOKEN": serving.token, "PYTHONPATH": str(Path(fheinfer.__file__).parent.parent)}
    folder, api = tmp_path / "empty", serving.api()
    folder.mkdir()
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, *given], cwd=folder, env={**os.environ, **environment}, stderr=subprocess.PIPE
    )
    while not [keys for keys in api("GET", "/v1/keys").json() if keys["received"] > 20_000]:
        assert client.poll() is None
        time.sleep(0.01)
    client.send_signal(number)
    _, err = client.communicate(timeout=60)
    assert client.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), err
    [before] = api("GET", "/v1/keys").json()
    assert not before["complete"]
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.key")}
    done = process(*given, cwd=folder, environment=environment)
    assert done.code == 0, done.err
    assert json.loads(done.out)["class"] in ("cat", "dog", "owl")
    [after] = api("GET", "/v1/keys").json()
    assert (after["key_id"], after["complete"]) == (before["key_id"], True)
    assert files == {path: path.stat().st_mtime_ns for path in folder.rglob("*.key")}
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_model_that_is_updated(models: Path, plan_folder: Path, other_folder: Path, tmp_path: Path) -> None:
    [x] = vectors(1)
    with ExitStack() as stack:
        service = Restarted(stack, models, tmp_path / "data")
        remote = fheinfer.Remote(service.url, service.token, keys=tmp_path / "keys")
        old = remote.open("first")
        assert np.abs(old.infer(x) - clear(plan_folder, x)).max() < NEAR
        shutil.rmtree(models / "first")
        shutil.copytree(other_folder, models / "first")
        service.kill()
        service.start()
        with pytest.raises(UntrustedServerError, match="another plan as first"):
            remote.open("first")
        assert np.abs(old.infer(x) - clear(plan_folder, x)).max() < NEAR  # the old plan is there for a while
        new = remote.open("first", accept_plan=True)
        assert np.abs(new.infer(x) - clear(other_folder, x)).max() < NEAR
        (tmp_path / "data" / "signing.key").unlink()
        service.kill()
        service.start()
        with pytest.raises(UntrustedServerError, match="signs with another key"):
            fheinfer.Remote(service.url, service.token, keys=tmp_path / "keys").models()
        with pytest.raises(UntrustedServerError, match="not the signed answer"):  # one that was opened before
            new.infer(x)
