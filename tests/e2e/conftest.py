"""Client and server in separate folders, on the small network and ring."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer

F64 = NDArray[np.float64]

BITS = 15.0
"""What seven bootstraps on this ring leave of the worst logit, at least: 17.7 to 19.1 in 42 runs under eleven keys."""


class Interruption(KeyboardInterrupt):
    pass


@dataclasses.dataclass
class Parties:
    """A client's folder without anything of the server's work, a server's folder without a secret."""

    client: Path
    server: Path


@pytest.fixture
def parties(tiny_keys: Path, tmp_path: Path) -> Parties:
    shutil.copytree(tiny_keys / "setinsecure-tiny", tmp_path / "client")
    shutil.copytree(tiny_keys / "setinsecure-tiny" / "server", tmp_path / "elsewhere" / "server")
    return Parties(tmp_path / "client", tmp_path / "elsewhere" / "server")


@pytest.fixture(scope="session")
def picture_bytes(tiny_client: fheinfer.Client, tiny_plan: fheinfer.Plan, tiny_picture: F64) -> bytes:
    return tiny_client.encrypt(tiny_picture, tiny_plan.client)


@pytest.fixture(scope="session")
def result_bytes(tiny_server: fheinfer.Server, picture_bytes: bytes) -> bytes:
    return tiny_server.evaluate(picture_bytes)


@pytest.fixture(scope="session")
def clear(tiny_plan: fheinfer.Plan, tiny_picture: F64) -> F64:
    """The logits on slots: exact, so that a run is judged by its own noise alone."""
    return fheinfer.run_slots(tiny_plan, tiny_picture)


@pytest.fixture(scope="session")
def minimal_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("minimal")
    fheinfer.keygen("insecure-tiny", root, network="resnet8-tiny", policy="minimal")
    return root / "setinsecure-tiny"
