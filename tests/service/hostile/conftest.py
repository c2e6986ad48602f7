"""A service without limits of rates, and what an attacker who has an account and keys knows of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from starlette.testclient import TestClient

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.service.http.app import create_app
from fheinfer.service.http.limits import Rate
from fheinfer.service.http.service import Service, Settings
from tests.service.conftest import Api
from tests.service.hostile.bodies import Target

NO_LIMIT = Rate(1e9, 1e9)


@pytest.fixture
def settings(models: Path, tmp_path: Path) -> Settings:
    """Of every service here: what is limited elsewhere gets through to what is under attack."""
    return Settings(models, tmp_path / "data", requests=NO_LIMIT, submits=NO_LIMIT, refused=NO_LIMIT, uploads=64)


@pytest.fixture(scope="session")
def other_keys(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's keys for the same plan."""
    folder = tmp_path_factory.mktemp("other") / "keys"
    fheinfer.keygen(tiny_plan.client, folder)
    return folder


@pytest.fixture
def app(service: Service) -> Any:
    return create_app(service)


@pytest.fixture
def http(app: Any) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture
def target(api: Api, tiny_plan: Plan, tiny_keys: Path, tiny_client: Any, tiny_image: Any, other_keys: Path) -> Target:
    """An account with keys, and a job that is done."""
    return make_target(api, tiny_plan, tiny_keys, tiny_client.encrypt(tiny_image), other_keys)


def make_target(api: Api, plan: Plan, keys: Path, encrypted: bytes, other_keys: Path) -> Target:
    key_id = api.upload(keys / "server")
    job = api.submit(encrypted, plan.identity, key_id).json()["id"]
    assert api.finished(job)["state"] == "done"
    other = fheinfer.Client(other_keys, plan.client)
    server = keys / "server"
    return Target(
        token=api.token,
        plan=plan.identity,
        key_id=key_id,
        manifest=(server / "manifest.json").read_bytes(),
        files={path.name: path.read_bytes() for path in server.glob("*.key")},
        encrypted=encrypted,
        result=api("GET", f"/v1/jobs/{job}/result").content,
        foreign=other.encrypt(np.zeros(plan.client.input_shape)),
    )


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of lines of log say nothing here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()
