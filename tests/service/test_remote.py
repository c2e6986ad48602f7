"""The remote client against a service in this process: the whole way, and all that goes wrong between the two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from tests.conftest import F64
from tests.service.fake import TOKEN, URL, FakeService

Event = dict[str, Any]


@pytest.fixture
def fake(tiny_plan_folder: Path, tmp_path: Path) -> FakeService:
    return FakeService({"tiny": tiny_plan_folder}, tmp_path / "signing.key")


@pytest.fixture
def remote(fake: FakeService, tmp_path: Path) -> Callable[..., fheinfer.Remote]:
    """remote(): a new client with the same folder of keys."""

    def make(**options: Any) -> fheinfer.Remote:
        return fheinfer.Remote(URL, TOKEN, keys=tmp_path / "servers", transport=fake.transport, **options)

    return make


def test_the_whole_way(remote: Callable[..., Any], tiny_image: F64, fake: FakeService, tiny_plan: Any) -> None:
    events: list[Any] = []
    out = remote().infer(tiny_image, on_event=events.append)
    clear = fheinfer.run_slots(tiny_plan, tiny_image)
    print(events, fake.seen)
    assert np.abs(out - clear).max() < 0.1
