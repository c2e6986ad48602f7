"""Runs that are interrupted, and what they go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.runtime.executor import StepDone
from tests.e2e.conftest import BITS, F64, Interruption


def count(steps: list[str]) -> Callable[[StepDone], None]:
    return lambda done: steps.append(done.step.name)


def interrupted(session: Any, encrypted: bytes, folder: Path, after: str) -> None:
    def stop(done: StepDone) -> None:
        if done.step.name == after:
            raise Interruption

    with pytest.raises(Interruption):
        session.evaluate(encrypted, observer=stop, checkpoints=folder)


def first_step(session: Any, encrypted: bytes, folder: Path) -> str:
    """Where a run that resumes from the folder starts."""
    first: list[str] = []

    def stop(done: StepDone) -> None:
        first.append(done.step.name)
        raise Interruption

    with pytest.raises(Interruption):
        session.evaluate(encrypted, observer=stop, checkpoints=folder, resume=True)
    return first[0]


def test_an_interrupted_run_goes_on_after_its_last_block(
    tiny_session: Any, tiny_client: fheinfer.Client, input_bytes: bytes, clear: F64, tmp_path: Path
) -> None:
    interrupted(tiny_session, input_bytes, tmp_path / "run", "layer3.0.relu1")
    steps: list[str] = []
    result = tiny_session.evaluate(input_bytes, observer=count(steps), checkpoints=tmp_path / "run", resume=True)
    names = [step.name for step in tiny_session.plan.steps]
    # Two values are alive after it: its own, and what the shortcut adds.
    assert steps == names[names.index("layer3.0.relu1") + 1 :]
    assert precision_bits(clear, tiny_client.decrypt(result, request=input_bytes)).minimum > BITS


def test_a_checkpoint_of_another_run_is_passed_over(
    tiny_session: Any,
    tiny_client: fheinfer.Client,
    tiny_keys: Path,
    other_plan: Plan,
    tiny_image: F64,
    input_bytes: bytes,
    tmp_path: Path,
) -> None:
    """Of another image, of the same image under fresh randomness, of another plan, damaged, or no file at all."""
    folder = tmp_path / "run"
    interrupted(tiny_session, input_bytes, folder, "layer3.0.relu2")
    block = (folder / "block.ct").read_bytes()
    others = [tiny_client.encrypt(x) for x in (tiny_image[::-1], tiny_image)]
    for encrypted, content in ((others[0], block), (others[1], block), (input_bytes, block[:-9]), (input_bytes, b"")):
        (folder / "block.ct").write_bytes(content)
        assert first_step(tiny_session, encrypted, folder) == "bn1"
    (folder / "block.ct").write_bytes(block)
    again = fheinfer.Server().session(other_plan, tiny_keys / "server")
    encrypted = fheinfer.Client(tiny_keys, other_plan.client).encrypt(tiny_image)
    assert first_step(again, encrypted, folder) == "bn1"
    (folder / "block.ct").write_bytes(block)
    assert first_step(tiny_session, input_bytes, folder) == "fc"
