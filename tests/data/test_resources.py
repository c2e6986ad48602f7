"""What comes with the package is found in a checkout and in a wheel, and nothing outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fheinfer.data import resources
from fheinfer.errors import WeightsError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only root, with the working directory elsewhere."""
    monkeypatch.setattr(resources, "_ROOTS", (tmp_path / "absent", tmp_path / "root"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for folder in ("weights", "inputs"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    return tmp_path / "root"


def test_default_model(root: Path) -> None:
    with pytest.raises(WeightsError, match="fheinfer train"):
        resources.default_model()
    (root / "weights" / "resnet20.safetensors").touch()
    assert resources.default_model() == root / "weights" / "resnet20.safetensors"


def test_inputs_here_come_first(root: Path) -> None:
    assert resources.find_input("dog.png") is None
    (root / "inputs" / "dog.png").touch()
    assert resources.find_input("dog.png") == root / "inputs" / "dog.png"
    Path("inputs").mkdir()
    Path("inputs/dog.png").touch()
    assert resources.find_input("dog.png") == Path("inputs/dog.png")


@pytest.mark.parametrize("name", ["", ".", "..", "../weights", "a/b.png", "/etc/hostname"])
def test_only_bare_names_are_looked_up(root: Path, name: str) -> None:
    assert resources.find_input(name) is None


def test_the_images_of_this_copy_are_found() -> None:
    assert resources.find_input("vale.jpg") is not None
