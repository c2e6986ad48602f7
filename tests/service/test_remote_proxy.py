"""The remote client and a real service, with a network in between that delays, cuts and corrupts connections."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import fheinfer
from fheinfer.errors import FheinferError, UnreachableError
from fheinfer.service import connection, uploading
from tests.conftest import F64
from tests.service.conftest import Serving, serve
from tests.service.proxy import Proxy, Trouble
from tests.service.remotes import NEAR, clear, compiled, network, vectors
from tests.service.test_http_process import certificate

RUNS, FRESH = 12, 12
"""Runs of each test, and one in how many makes and uploads keys first."""
INPUTS = vectors(4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    compiled(folder / "first", network(1))
    return folder


@pytest.fixture(scope="module")
def serving(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(tmp_path_factory.mktemp("served") / "data", "--models", models, "--threads", 1) as found:
        yield found


@pytest.fixture(scope="module")
def expected(models: Path) -> list[F64]:
    return [clear(models / "first", x) for x in INPUTS]


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, so that there are many requests; short pauses; and a first contact as patient as all others."""
    monkeypatch.setattr(uploading, "CHUNK_BYTES", 60_000)
    monkeypatch.setattr(connection, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(connection, "FIRST_PATIENCE", 10.0)
    monkeypatch.setattr("fheinfer.service.following.PERIOD", 0.05)


@pytest.fixture(scope="module")
def ready(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys that the service has already."""
    folder = tmp_path_factory.mktemp("ready")
    with fheinfer.Remote(serving.url, serving.token, keys=folder, name="service") as remote:
        remote.open().prepare()
    return folder


def run(
    serving: Serving, seed: int, trouble: Trouble, keys: Path, verify: ssl.SSLContext | None = None
) -> tuple[F64 | FheinferError, int]:
    """What the client says of an input, and how often its connections were troubled; under TLS with `verify`."""
    options: dict[str, Any] = {"keys": keys, "name": "service", "patience": 20.0, "verify": verify or True}
    with Proxy(urlsplit(serving.url).port or 0, seed, trouble) as proxy:
        url = proxy.url if verify is None else f"https://localhost:{proxy.port}"
        with fheinfer.Remote(url, serving.token, **options) as remote:
            try:
                found: F64 | FheinferError = remote.infer(INPUTS[seed % len(INPUTS)])
            except FheinferError as error:
                found = error
        return found, proxy.troubles


def test_connections_that_are_delayed_and_cut(
    serving: Serving, expected: list[F64], ready: Path, tmp_path: Path
) -> None:
    """Every answer is right: requests are repeated, uploads go on, and the same input is the same job."""
    troubles = 0
    for seed in range(RUNS):
        found, count = run(serving, seed, Trouble(cut=100_000), tmp_path / str(seed) if seed % FRESH == 0 else ready)
        troubles += count
        if isinstance(found, FheinferError):
            raise found
        assert np.abs(found - expected[seed % len(expected)]).max() < NEAR, seed
    assert troubles > RUNS


def test_connections_that_are_corrupted(serving: Serving, expected: list[F64], ready: Path, tmp_path: Path) -> None:
    """A right answer, or an error that is meant to be read; never a wrong answer, and never anything else."""
    right, troubles = 0, 0
    for seed in range(RUNS):
        fresh = seed % FRESH == 0
        trouble = Trouble(cut=300_000, corrupt=1_000_000 if fresh else 100_000)
        found, count = run(serving, seed, trouble, tmp_path / str(seed) if fresh else ready)
        troubles += count
        if isinstance(found, FheinferError):
            assert "\n" not in str(found)
            assert serving.token not in str(found)
            continue
        assert np.abs(found - expected[seed % len(expected)]).max() < NEAR, seed
        right += 1
    assert troubles > RUNS
    assert 0 < right < RUNS


def test_under_tls_what_is_corrupted_is_cut(
    models: Path, expected: list[F64], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer is right, as where connections are only cut. A certificate that nobody vouches for is refused."""
    cert, key = certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=str(cert))
    options = ("--models", models, "--threads", 1, "--tls-cert", cert, "--tls-key", key)
    with serve(tmp_path / "data", *options) as serving:
        troubles = 0
        for seed in range(RUNS // 2):
            found, count = run(serving, seed, Trouble(corrupt=200_000), tmp_path / "keys", trusted)
            troubles += count
            if isinstance(found, FheinferError):
                raise found
            assert np.abs(found - expected[seed % len(expected)]).max() < NEAR, seed
        assert troubles > RUNS
        monkeypatch.setattr(connection, "FIRST_PATIENCE", 0.1)
        port, token = urlsplit(serving.url).port, serving.token
        for unknown in (
            fheinfer.Remote(f"https://localhost:{port}", token, keys=tmp_path),
            fheinfer.Remote(f"https://127.0.0.1:{port}", token, keys=tmp_path, verify=trusted),
        ):
            with pytest.raises(UnreachableError, match="its certificate is refused"):
                unknown.models()
