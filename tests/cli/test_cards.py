"""Every shipped model has a model card, and `fheinfer accuracy` measures what the card states."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fheinfer.compiler.presets import set_for
from fheinfer.model.model import load
from tests.conftest import Result
from tests.train.conftest import one_thread

__all__ = ["one_thread"]
SHIPPED = sorted((Path(__file__).parents[2] / "weights").glob("*.safetensors"))


@pytest.fixture
def cifar(request: pytest.FixtureRequest) -> Path:
    """$FHEINFER_DATA, or the public data beside the checkout; without either the test is skipped, and says so."""
    given = os.environ.get("FHEINFER_DATA")
    if given:
        return Path(given)
    folder: Path = request.getfixturevalue("public_data")
    return folder / "cifar10"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_card_is_of_the_model(path: Path) -> None:
    model, card = load(path), path.with_suffix(".md").read_text()
    assert f"| identity (SHA-256) | `{model.identity}` |" in card
    facts = {name: value for name, value in model.provenance.items() if name != "curve"}
    assert facts
    assert all(f"| {name} | {value} |" in card for name, value in facts.items())
    assert all(f"| {name} | {bound:.2f} |" in card for name, bound in model.ranges.items())


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_accuracy_on_the_card_is_measured_again(path: Path, cifar: Path, command: Callable[..., Result]) -> None:
    model = load(path)
    polynomial = all(node.op.polynomial for node in model.graph.activations)
    said = re.search(r"\| accuracy on ([\d,]+) test images \| ([\d.]+) % \|", path.with_suffix(".md").read_text())
    assert said
    where = ("--model", path, "--data", cifar, "--set", set_for(model.name).name)
    images = said[1].replace(",", "")
    done = command("accuracy", "--mode", "approx" if polynomial else "clear", *where, "--limit", images, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["images"] == int(images)
    assert 100 * found["top"]["1"] == pytest.approx(float(said[2]), abs=0.05)


@pytest.mark.slow
def test_minimax_13_costs_a_public_network_nothing(
    public_data: Path, tmp_path: Path, command: Callable[..., Result]
) -> None:
    """Published: 92.60 % in clear, of all 10,000 test images."""
    (file,) = (public_data / "weights").glob("chenyaofo_*")
    where = ("--data", public_data / "cifar10")
    path = tmp_path / "chenyaofo.safetensors"
    assert command("model", "import", file, *where, "-o", path).code == 0
    done = command("accuracy", "--mode", "approx", "--act", "minimax:13", "--model", path, *where, "--json")
    assert 100 * json.loads(done.out)["top"]["1"] == pytest.approx(92.6, abs=0.2)
