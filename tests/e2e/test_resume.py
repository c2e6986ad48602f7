"""Runs that are interrupted, and what they go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import fheinfer
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.runtime.executor import StepDone
from tests.e2e.conftest import BITS, F64, Interruption


def count(steps: list[str]) -> Callable[[StepDone], None]:
    return lambda done: steps.append(done.step.name)


def interrupted(server: fheinfer.Server, picture: bytes, folder: Path, after: str) -> None:
    def stop(done: StepDone) -> None:
        if done.step.name == after:
            raise Interruption

    with pytest.raises(Interruption):
        server.evaluate(picture, observer=stop, checkpoints=folder)


def test_an_interrupted_run_goes_on_after_its_last_block(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    picture_bytes: bytes,
    clear: F64,
    tmp_path: Path,
) -> None:
    interrupted(tiny_server, picture_bytes, tmp_path / "run", "layer3.0.relu1")
    steps: list[str] = []
    result = tiny_server.evaluate(picture_bytes, observer=count(steps), checkpoints=tmp_path / "run", resume=True)
    names = [step.name for step in tiny_server.plan.steps]
    # After layer3.0.relu1 two values are alive; the last block that ends in one value is layer2.0.
    assert steps == names[names.index("layer2.0.relu2") + 1 :]
    assert precision_bits(clear, tiny_client.decrypt(result)).minimum > BITS


def test_a_checkpoint_of_another_run_is_passed_over(
    tiny_server: fheinfer.Server,
    tiny_client: fheinfer.Client,
    tiny_picture: F64,
    picture_bytes: bytes,
    tmp_path: Path,
) -> None:
    """Of another picture, of the same picture under fresh randomness, damaged, or no file at all."""
    folder = tmp_path / "run"
    interrupted(tiny_server, picture_bytes, folder, "layer3.0.relu2")
    block = (folder / "block.ct").read_bytes()
    others = [tiny_client.encrypt(p, tiny_server.plan.client) for p in (tiny_picture[::-1], tiny_picture)]
    for picture, content in ((others[0], block), (others[1], block), (picture_bytes, block[:-9]), (picture_bytes, b"")):
        (folder / "block.ct").write_bytes(content)
        first: list[str] = []

        def stop(done: StepDone, first: list[str] = first) -> None:
            first.append(done.step.name)
            raise Interruption

        with pytest.raises(Interruption):
            tiny_server.evaluate(picture, observer=stop, checkpoints=folder, resume=True)
        assert first == ["bn1"]
