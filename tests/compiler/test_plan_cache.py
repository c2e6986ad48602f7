"""Plans that were compiled before: what is used again, and what is compiled anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fheinfer import _core
from fheinfer.compiler import pipeline, plan_cache
from fheinfer.compiler.plan import FILE_NAME, load
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE
from fheinfer.crypto.params import parameter_set
from tests.conftest import random_model

TINY = parameter_set("insecure-tiny")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file, and a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "tiny.safetensors"
    random_model("resnet8-tiny", 0).save(path)
    return path


def test_a_plan_is_compiled_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plan_cache.compiled(model, TINY)
    monkeypatch.setattr(pipeline, "compile", None)
    assert plan_cache.compiled(model, TINY) == folder


@pytest.mark.parametrize("name", [FILE_NAME, CLIENT_FILE])
def test_a_damaged_plan_is_compiled_again(model: Path, name: str) -> None:
    """It failed every time, until somebody found and deleted it."""
    folder = plan_cache.compiled(model, TINY)
    path, identity = folder / name, load(folder).identity
    whole = path.read_bytes()
    for damaged in (whole[:-5], b"", whole[:-9] + b"damaged" + whole[-2:]):
        path.write_bytes(damaged)
        assert plan_cache.compiled(model, TINY) == folder
        assert path.read_bytes() == whole
        assert load(folder).identity == identity
    path.unlink()
    assert plan_cache.compiled(model, TINY) == folder
    assert path.read_bytes() == whole


def test_another_core_or_packing_compiles_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plan_cache.compiled(model, TINY)
    assert {"packing.py", "speed.py", "compiler/lower.py"} <= {name for name, *_ in plan_cache._sources()}
    core = tmp_path / "_core.so"
    shutil.copy(_core.__file__, core)
    monkeypatch.setattr(_core, "__file__", str(core))
    assert plan_cache.compiled(model, TINY) == folder
    core.write_bytes(core.read_bytes() + b"\0")
    assert plan_cache.compiled(model, TINY) != folder
