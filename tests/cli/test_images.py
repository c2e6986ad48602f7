"""Many images in one encrypted run: `infer --images`, `evaluate` of a folder, `accuracy --mode encrypted`."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fheinfer
from fheinfer import local as inference
from fheinfer.model.model import Model
from tests.cli.conftest import SET, Desk
from tests.conftest import Result, calibrated, random_model, tiny_pixels
from tests.train.conftest import one_thread

__all__ = ["one_thread"]
Command = Callable[..., Result]


@pytest.fixture
def album(desk: Desk) -> Path:
    """Three images, and a file that is none."""
    folder = desk.folder / "album"
    folder.mkdir()
    for seed in range(1000, 1003):
        Image.fromarray(tiny_pixels(seed)).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("not a image")
    return folder


def test_a_folder_of_images(command: Command, desk: Desk, album: Path, tiny_plan: fheinfer.Plan) -> None:
    arguments = ["infer", "--set", SET, "--model", desk.model, "--images", album, "--images", desk.image, "--plain"]
    done = command(*arguments, "--csv", "out.csv", "--json")
    found = json.loads(done.out)
    assert [row["image"] for row in found["images"]] == ["1000.png", "1001.png", "1002.png", "tiny.png"]
    assert found["seconds_per_image"] > 0
    model = fheinfer.load_model(desk.model)
    for row, seed in zip(found["images"], range(1000, 1003), strict=False):
        image = fheinfer.normalise(tiny_pixels(seed), model.mean, model.std)
        assert row["logits"] == pytest.approx(fheinfer.run_slots(tiny_plan, image).tolist(), abs=0.02)
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == [row["class"] for row in found["images"]]
    assert not Path("runs").exists() or not list(Path("runs").iterdir())  # nothing to resume, nothing kept
    table = command(*arguments)
    assert "the class of PyTorch on" in table.out
    assert "s a image" in table.err


def test_an_interrupted_run_goes_on_with_the_images_that_are_left(
    command: Command, desk: Desk, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["infer", "--set", SET, "--model", desk.model, "--images", album, "--json"]
    real, seen = inference._run_server, []

    def stopped(places: list[str], tell: Callable[[Any], None]) -> Any:
        def watch(event: Any) -> None:
            if event["event"] == "image":
                seen.append(event["name"])
                tell(event)
                raise KeyboardInterrupt

        return real(places, watch)

    monkeypatch.setattr(inference, "_run_server", stopped)
    assert command(*arguments).code != 0
    monkeypatch.setattr(inference, "_run_server", real)
    done = command(*arguments, "--resume")
    found = json.loads(done.out)
    assert len(seen) == 1
    assert len(found["images"]) == 3
    assert found["images"][0]["seconds"] is None  # it was there already


def test_the_server_evaluates_a_folder(command: Command, desk: Desk, tiny_input_file: Path) -> None:
    (desk.folder / "in").mkdir()
    for name in ("a.ct", "b.ct"):
        shutil.copy(tiny_input_file, desk.folder / "in" / name)
    done = command("evaluate", "--keys", desk.server, "--plan", "plan", "-i", "in", "-o", "results")
    assert done.code == 0, done.err
    assert sorted(p.name for p in Path("results").iterdir()) == ["a.ct", "b.ct"]
    assert Path("results/a.ct").stat().st_size == Path("results/b.ct").stat().st_size


def test_encrypted_accuracy(command: Command, desk: Desk, tiny_model: Model, sheets: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.safetensors"  # images of the tests are brighter than those of calibration
    dataclasses.replace(tiny_model, ranges={k: 2 * v for k, v in tiny_model.ranges.items()}).save(wide)
    done = command(
        "accuracy",
        "--mode",
        "encrypted",
        "--set",
        SET,
        "--model",
        wide,
        "--data",
        sheets,
        "--limit",
        4,
        "--csv",
        "out.csv",
        "--json",
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["mode"], found["images"]) == ("encrypted", 4)
    assert 0 <= found["same_class_as_clear"] <= 4
    assert found["bits"]["minimum"] > 6
    assert len(list(csv.DictReader(Path("out.csv").read_text().splitlines()))) == 4


@pytest.mark.parametrize(
    ("code", "says", "arguments"),
    [
        (2, "give one image", []),
        (2, "give one image", ["--image", "tiny.png", "--images", "tiny.png"]),
        (2, "takes one image", ["--images", "tiny.png", "--backend", "slots"]),
        (3, "no image in this folder", ["--images", "keys"]),
        (3, "no such image", ["--images", "missing.png"]),
        (3, "nothing to resume", ["--images", "tiny.png", "--resume"]),
    ],
)
def test_images_that_cannot_be(
    refused: Callable[..., None], desk: Desk, code: int, says: str, arguments: list[str]
) -> None:
    refused(code, says, "infer", "--set", SET, "--model", desk.model, *arguments)


def test_folders_that_cannot_be_evaluated(refused: Callable[..., None], desk: Desk) -> None:
    evaluate = ["evaluate", "--keys", desk.server, "--plan", "plan"]
    refused(3, "no *.ct in this folder", *evaluate, "-i", "keys", "-o", "results")
    refused(3, "are for a single image", *evaluate, "-i", "keys", "-o", "results", "--checkpoints", "c")


def test_two_images_at_a_time_where_the_set_allows_it(
    command: Command, desk: Desk, album: Path, tmp_path: Path
) -> None:
    """Three of them: a pair, and one by itself. Those of a pair take the same time, half of it each."""
    name, network = "insecure-tiny-turbo", "resnet8-tiny-turbo"
    wild = random_model(network, 2)
    tensors = {key: array / np.float32(2) if array.ndim == 4 else array for key, array in wild.tensors.items()}
    model = calibrated(dataclasses.replace(wild, tensors=tensors), range(1000, 1020))
    model.save(tmp_path / "turbo.safetensors")
    assert command("keygen", "--set", name).code == 0
    done = command("infer", "--set", name, "--model", tmp_path / "turbo.safetensors", "--images", album, "--json")
    assert done.code == 0, done.err
    plan = fheinfer.compile(model, name)
    rows = json.loads(done.out)["images"]
    for row, seed in zip(rows, range(1000, 1003), strict=True):
        wanted = fheinfer.run_slots(plan, fheinfer.normalise(tiny_pixels(seed), model.mean, model.std))
        assert row["logits"] == pytest.approx(wanted.tolist(), abs=2**-7 * float(np.abs(wanted).max()))
    pair = [row["seconds"] for row in rows[:2]]
    assert pair[0] == pytest.approx(pair[1], rel=0.2)


def test_demo_makes_keys_once(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fheinfer.cli import main as cli

    done: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "infer", lambda **options: done.append(f"infer {options['image']} {options['plain']}"))
    assert command("demo", "--set", "insecure-tiny-turbo").code == 0
    manifest = Path("keys/setinsecure-tiny-turbo/server/manifest.json")
    made = manifest.stat().st_mtime_ns
    assert command("demo", "--set", "insecure-tiny-turbo", "--image", "luis.png").code == 0
    assert manifest.stat().st_mtime_ns == made
    assert done == ["infer vale.jpg True", "infer luis.png True"]
