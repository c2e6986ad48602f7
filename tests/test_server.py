"""What a server asks for before it computes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import fheinfer
from fheinfer import storage
from fheinfer.errors import StorageError
from fheinfer.runtime.executor import StepDone


@pytest.fixture
def picture(tiny_client: fheinfer.Client, tiny_plan: fheinfer.Plan, tiny_picture: object) -> bytes:
    return tiny_client.encrypt(tiny_picture, tiny_plan.client)  # type: ignore[arg-type]


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    disk = SimpleNamespace(f_bavail=size, f_frsize=1)
    monkeypatch.setattr(storage, "os", SimpleNamespace(**{**vars(os), "statvfs": lambda path: disk}))


def never(done: StepDone) -> None:
    raise AssertionError("it computed")


def test_a_full_disk_is_noticed_before_the_run(
    tiny_server: fheinfer.Server, picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 100_000)
    with pytest.raises(StorageError, match=r"run needs .* MB and its disk has 0\.10 MB free"):
        tiny_server.evaluate(picture, observer=never, checkpoints=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_layer_needs_more_room_than_one_block(
    tiny_server: fheinfer.Server, picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def begin(done: StepDone) -> None:
        raise Begun

    free(monkeypatch, 4_000_000)
    with pytest.raises(Begun):
        tiny_server.evaluate(picture, observer=begin, checkpoints=tmp_path / "run")
    with pytest.raises(StorageError, match="needs"):
        tiny_server.evaluate(picture, observer=never, checkpoints=tmp_path / "layers", keep_layers=True)


def test_room_for_what_a_run_leaves_is_asked_for(
    tiny_server: fheinfer.Server, picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("fheinfer.server.require_disk", lambda path, size: asked.append(size))
    for keep in (False, True):
        tiny_server.evaluate(picture, checkpoints=tmp_path / str(keep), keep_layers=keep)
        left = sum(path.stat().st_size for path in (tmp_path / str(keep)).iterdir())
        assert left <= asked[-1] < 16 * left  # on this ring the bound on meta is half of it, and blocks are low


def test_the_command_asks_for_room_for_its_result(
    tiny_server: fheinfer.Server,
    tiny_keys: Path,
    tiny_weights_file: Path,
    picture: bytes,
    tmp_path: Path,
    command: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "picture.ct").write_bytes(picture)
    monkeypatch.setattr(fheinfer.Server, "evaluate", lambda *a, **k: pytest.fail("it computed"))
    free(monkeypatch, 1000)
    found = command(  # type: ignore[operator]
        "evaluate",
        "--keys",
        tiny_keys / "setinsecure-tiny" / "server",
        "--weights",
        tiny_weights_file,
        "-i",
        tmp_path / "picture.ct",
        "-o",
        tmp_path / "result.ct",
    )
    assert found.code == StorageError.exit_code
    assert "result.ct needs" in found.err
    assert not (tmp_path / "result.ct").exists()
