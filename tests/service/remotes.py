"""Small networks and clients for tests of the remote client: fixtures, imported by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.model import Model
from fheinfer.model.ops import Power
from fheinfer.service import connection
from tests.conftest import F64
from tests.service.fake import TOKEN, URL, FakeService

SET = "insecure-tiny-turbo"
FEATURES = 6
NEAR = 0.02
"""Of outputs of about 1, between encrypted and clear."""


def vectors(count: int, seed: int = 0) -> F64:
    return np.random.default_rng(seed).uniform(-1, 1, (count, FEATURES))


def network(seed: int, outputs: tuple[str, ...] = ("kind",)) -> Model:
    """Of scores of three classes and one quantity, what is asked for."""
    g = GraphBuilder("vectors", (FEATURES,))
    x = g.add("square", Power(2), g.linear("first", "input", 8))
    for name in outputs:
        g.linear(name, x, {"kind": 3, "price": 1}[name])
    graph, random = g.build(*outputs), np.random.default_rng(seed)
    tensors = {name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in graph.tensor_shapes().items()}
    ranges = {"square": 10.0, "input": 1.0}
    classes = ("cat", "dog", "owl") if outputs == ("kind",) else ()
    return Model(graph, tensors, (0.0,) * FEATURES, (1.0,) * FEATURES, classes, ranges=ranges)


def compiled(folder: Path, model: Model) -> Path:
    fheinfer.compile(model, SET).save(folder)
    return folder


def clear(folder: Path, x: F64) -> Any:
    return fheinfer.run_slots(fheinfer.load_plan(folder), x)


@pytest.fixture(scope="session")
def plan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("plans") / "first", network(1))


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with other weights."""
    return compiled(tmp_path_factory.mktemp("plans") / "other", network(2))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails for good fails soon."""
    monkeypatch.setattr(connection, "FIRST_PATIENCE", 0.3)
    monkeypatch.setattr(connection, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr("fheinfer.service.following.PERIOD", 0.02)


@pytest.fixture
def fake(plan_folder: Path, tmp_path: Path) -> FakeService:
    """A service with one model, `first`."""
    return FakeService({"first": plan_folder}, tmp_path / "signing.key")


@pytest.fixture
def remote(fake: FakeService, tmp_path: Path, impatient: None) -> Callable[..., fheinfer.Remote]:
    """remote(): a client of that service; each has the same folder of keys, as one process after another has."""

    def make(**options: Any) -> fheinfer.Remote:
        given: dict[str, Any] = {"keys": tmp_path / "servers", "transport": fake.transport, "patience": 0.6}
        return fheinfer.Remote(URL, TOKEN, **(given | options))

    return make
