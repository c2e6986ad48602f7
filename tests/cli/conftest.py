"""A folder a person works in: keys, plan, model and an image for the small network, to be damaged at will."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fheinfer

SET = "insecure-tiny"


@dataclass(frozen=True)
class Desk:
    folder: Path
    image: Path
    model: Path
    plan: Path

    @property
    def keys(self) -> Path:
        return self.folder / "keys" / f"set{SET}"

    @property
    def server(self) -> Path:
        return self.keys / "server"

    @property
    def secret(self) -> Path:
        return self.keys / "secret" / "secret.key"

    def listing(self) -> dict[str, int]:
        return {
            str(p.relative_to(self.folder)): p.stat().st_mtime_ns for p in self.folder.rglob("*") if p.is_file()
        } | {str(p.relative_to(self.folder)): 0 for p in self.folder.rglob("*") if p.is_dir()}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, with plans and the speed of this machine."""
    before, folder = os.environ.get("XDG_CACHE_HOME"), tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def desk(
    tiny_keys: Path,
    tiny_model_file: Path,
    tiny_plan_folder: Path,
    tiny_image_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    """The working folder of the test; keys are hard links, so write a new file instead of into an old one."""
    folder = tmp_path / "desk"
    keys = folder / "keys" / f"set{SET}"
    shutil.copytree(tiny_keys, keys, copy_function=os.link)
    shutil.copytree(tiny_plan_folder, folder / "plan")
    shutil.copy(tiny_plan_folder / "client.json", keys)
    for source, name in ((tiny_model_file, "tiny.safetensors"), (tiny_image_file, "tiny.png")):
        shutil.copy(source, folder / name)
    monkeypatch.chdir(folder)
    return Desk(folder, folder / "tiny.png", folder / "tiny.safetensors", folder / "plan")


@pytest.fixture
def refused(desk: Desk, command: Callable[..., Any]) -> Callable[..., None]:
    """refused(4, "checksum", "evaluate", ...): that exit code, one line with that on it, and nothing left behind."""

    def check(code: int, says: str, *arguments: object) -> None:
        before = desk.listing()
        result = command(*arguments)
        assert result.code == code, result.err
        progress = ("evaluating: ", "compiling: ", "making keys: ", "images: ")  # on a slow machine
        lines = [line for line in result.err.splitlines() if not line.startswith(progress)]
        assert len(lines) == 1, result.err
        assert lines[0].startswith("error: ")
        assert says in lines[0]
        assert result.out == ""
        assert desk.listing() == before

    return check


@pytest.fixture(scope="session")
def tiny_input_file(tiny_client: fheinfer.Client, tiny_image: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ciphertexts") / "input.ct"
    path.write_bytes(tiny_client.encrypt(tiny_image))
    return path


@pytest.fixture(scope="session")
def tiny_result_file(tiny_session: Any, tiny_input_file: Path) -> Path:
    path = tiny_input_file.with_name("result.ct")
    path.write_bytes(tiny_session.evaluate(tiny_input_file.read_bytes()))
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """disk("size=1m"), disk("ro"): a real file system of its own, where the system lets us mount one."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk{len(mounted)}"
        point.mkdir()
        try:
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", point], capture_output=True, check=False
            )
        except FileNotFoundError:
            pytest.skip("no mount here")
        if done.returncode:
            pytest.skip("a file system can be mounted by root only, and not in every container")
        mounted.append(point)
        return point

    yield mount
    for point in mounted:
        subprocess.run(["umount", "-l", point], check=True)


@pytest.fixture
def in_clear(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Examples of every batch that an evaluation ran through the network in clear."""
    from fheinfer.evaluation import accuracy
    from fheinfer.evaluation.plain import node_values

    sizes: list[int] = []

    def counted(graph: Any, tensors: Any, x: Any) -> Any:
        sizes.append(len(x))
        return node_values(graph, tensors, x)

    monkeypatch.setattr(accuracy, "node_values", counted)
    return sizes
