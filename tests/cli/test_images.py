"""Many pictures in one encrypted run: `infer --images`, `evaluate` of a folder, `eval --mode encrypted`."""

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
from fheinfer.model.model import Weights
from tests.cli.conftest import SET, Desk
from tests.conftest import Result, calibrated, random_weights, tiny_pixels
from tests.train.conftest import one_thread

__all__ = ["one_thread"]
Command = Callable[..., Result]


@pytest.fixture
def album(desk: Desk) -> Path:
    """Three pictures, and a file that is none."""
    folder = desk.folder / "album"
    folder.mkdir()
    for seed in range(1000, 1003):
        Image.fromarray(tiny_pixels(seed)).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_a_folder_of_pictures(command: Command, desk: Desk, album: Path, tiny_plan: fheinfer.Plan) -> None:
    arguments = ["infer", "--set", SET, "--weights", desk.weights, "--images", album, "--images", desk.image, "--plain"]
    done = command(*arguments, "--csv", "out.csv", "--json")
    found = json.loads(done.out)
    assert [row["picture"] for row in found["pictures"]] == ["1000.png", "1001.png", "1002.png", "tiny.png"]
    assert found["seconds_per_picture"] > 0
    weights = fheinfer.load_weights(desk.weights)
    for row, seed in zip(found["pictures"], range(1000, 1003), strict=False):
        picture = fheinfer.normalise(tiny_pixels(seed), weights.mean, weights.std)
        assert row["logits"] == pytest.approx(fheinfer.run_slots(tiny_plan, picture).tolist(), abs=0.02)
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == [row["class"] for row in found["pictures"]]
    assert not Path("runs").exists() or not list(Path("runs").iterdir())  # nothing to resume, nothing kept
    table = command(*arguments)
    assert "the class of PyTorch on" in table.out
    assert "s a picture" in table.err


def test_an_interrupted_run_goes_on_with_the_pictures_that_are_left(
    command: Command, desk: Desk, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["infer", "--set", SET, "--weights", desk.weights, "--images", album, "--json"]
    real, seen = inference._run_server, []

    def stopped(places: list[str], tell: Callable[[Any], None]) -> Any:
        def watch(event: Any) -> None:
            if event["event"] == "picture":
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
    assert len(found["pictures"]) == 3
    assert found["pictures"][0]["seconds"] is None  # it was there already


def test_the_server_evaluates_a_folder(command: Command, desk: Desk, tiny_input_file: Path) -> None:
    (desk.folder / "in").mkdir()
    for name in ("a.ct", "b.ct"):
        shutil.copy(tiny_input_file, desk.folder / "in" / name)
    done = command("evaluate", "--keys", desk.server, "--weights", desk.weights, "-i", "in", "-o", "results")
    assert done.code == 0, done.err
    assert sorted(p.name for p in Path("results").iterdir()) == ["a.ct", "b.ct"]
    assert Path("results/a.ct").stat().st_size == Path("results/b.ct").stat().st_size


def test_encrypted_accuracy(
    command: Command, desk: Desk, tiny_weights: Weights, sheets: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.safetensors"  # pictures of the tests are brighter than those of calibration
    dataclasses.replace(tiny_weights, ranges={k: 2 * v for k, v in tiny_weights.ranges.items()}).save(wide)
    done = command("eval", "--mode", "encrypted", "--set", SET, "--weights", wide, "--data", sheets, "--limit", 4,
                   "--csv", "out.csv", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["mode"], found["images"]) == ("encrypted", 4)
    assert 0 <= found["same_class_as_clear"] <= 4
    assert found["bits"]["minimum"] > 6
    assert len(list(csv.DictReader(Path("out.csv").read_text().splitlines()))) == 4


@pytest.mark.parametrize(
    ("code", "says", "arguments"),
    [
        (2, "give one picture", []),
        (2, "give one picture", ["--image", "tiny.png", "--images", "tiny.png"]),
        (2, "takes one picture", ["--images", "tiny.png", "--backend", "slots"]),
        (3, "no picture in this folder", ["--images", "keys"]),
        (3, "no such image", ["--images", "missing.png"]),
        (3, "nothing to resume", ["--images", "tiny.png", "--resume"]),
    ],
)
def test_pictures_that_cannot_be(refused: Callable[..., None], desk: Desk, code: int, says: str,
                                 arguments: list[str]) -> None:
    refused(code, says, "infer", "--set", SET, "--weights", desk.weights, *arguments)


def test_folders_that_cannot_be_evaluated(refused: Callable[..., None], desk: Desk) -> None:
    evaluate = ["evaluate", "--keys", desk.server, "--weights", desk.weights]
    refused(3, "no *.ct in this folder", *evaluate, "-i", "keys", "-o", "results")
    refused(3, "are for a single picture", *evaluate, "-i", "keys", "-o", "results", "--checkpoints", "c")


def test_two_pictures_at_a_time_where_the_set_allows_it(
    command: Command, desk: Desk, album: Path, tmp_path: Path
) -> None:
    """Three of them: a pair, and one by itself. Those of a pair take the same time, half of it each."""
    name, network = "insecure-tiny-turbo", "resnet8-tiny-turbo"
    wild = random_weights(network, 2)
    arrays = {key: array / np.float32(2) if array.ndim == 4 else array for key, array in wild.arrays.items()}
    weights = calibrated(dataclasses.replace(wild, arrays=arrays), range(1000, 1020))
    weights.save(tmp_path / "turbo.safetensors")
    assert command("keygen", "--set", name).code == 0
    done = command("infer", "--set", name, "--weights", tmp_path / "turbo.safetensors", "--images", album, "--json")
    assert done.code == 0, done.err
    plan = fheinfer.compile(weights, name)
    rows = json.loads(done.out)["pictures"]
    for row, seed in zip(rows, range(1000, 1003), strict=True):
        wanted = fheinfer.run_slots(plan, fheinfer.normalise(tiny_pixels(seed), weights.mean, weights.std))
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
