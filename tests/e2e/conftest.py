"""Client and server in separate folders, on the small network and ring."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE
from tests.conftest import random_model

F64 = NDArray[np.float64]

BITS = 15.0
"""What seven bootstraps on this ring leave of the worst output, at least: 17.7 to 19.1 in 42 runs under eleven keys."""


class Interruption(KeyboardInterrupt):
    pass


@dataclasses.dataclass
class Parties:
    """A client's folder with `client.json` and keys, a server's folder with `plan` and `server` and no secret."""

    client: Path
    server: Path

    @property
    def plan(self) -> Path:
        return self.server.parent / "plan"


@pytest.fixture
def parties(tiny_keys: Path, tiny_plan_folder: Path, tmp_path: Path) -> Parties:
    shutil.copytree(tiny_keys, tmp_path / "client")
    shutil.copy(tiny_plan_folder / CLIENT_FILE, tmp_path / "client")
    shutil.copytree(tiny_keys / "server", tmp_path / "elsewhere" / "server")
    shutil.copytree(tiny_plan_folder, tmp_path / "elsewhere" / "plan")
    return Parties(tmp_path / "client", tmp_path / "elsewhere" / "server")


@pytest.fixture(scope="session")
def input_bytes(tiny_client: fheinfer.Client, tiny_image: F64) -> bytes:
    return tiny_client.encrypt(tiny_image)


@pytest.fixture(scope="session")
def result_bytes(tiny_session: Any, input_bytes: bytes) -> bytes:
    return bytes(tiny_session.evaluate(input_bytes))


@pytest.fixture(scope="session")
def clear(tiny_plan: Plan, tiny_image: F64) -> F64:
    """The outputs on slots: exact, so that a run is judged by its own noise alone."""
    return np.asarray(fheinfer.run_slots(tiny_plan, tiny_image))


@pytest.fixture(scope="session")
def other_plan(tiny_model: Any) -> Plan:
    """Of the same model for the same keys, but another plan."""
    return fheinfer.compile(tiny_model, "insecure-tiny", margin=1.5)


@pytest.fixture(scope="session")
def minimal_keys(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minimal") / "keys"
    fheinfer.keygen(tiny_plan.client, folder, policy="minimal")
    return folder


@dataclasses.dataclass(frozen=True)
class Own:
    """A plan, and a client and a session of keys of its own."""

    plan: Plan
    client: fheinfer.Client
    session: Any

    def outputs(self, x: F64) -> F64:
        """Decrypted, by way of all three."""
        encrypted = self.client.encrypt(x)
        return np.asarray(self.client.decrypt(self.session.evaluate(encrypted), request=encrypted))


@pytest.fixture
def own(tmp_path: Path) -> Callable[[Plan], Own]:
    """own(plan): keys made for that plan alone."""

    def make(plan: Plan) -> Own:
        folder = tmp_path / f"keys-{plan.identity[:8]}"
        fheinfer.keygen(plan.client, folder)
        session = fheinfer.Server().session(plan, folder / "server")
        return Own(plan, fheinfer.Client(folder, plan.client), session)

    return make


def smaller_weights(network: str, seed: int) -> Any:
    """A model whose convolutions are halved: values of quadratics explode unless they are trained not to."""
    wild = random_model(network, seed)
    tensors = {key: array / np.float32(2) if array.ndim == 4 else array for key, array in wild.tensors.items()}
    return dataclasses.replace(wild, tensors=tensors)
