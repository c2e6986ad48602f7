"""Many images in one encrypted run: `infer --images`, `evaluate` of a folder, `accuracy --mode encrypted`."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fheinfer
from fheinfer import evaluating, optional
from fheinfer.cli import choices, infer
from fheinfer.errors import StorageError
from fheinfer.model.model import Model
from tests.cli.conftest import SET, Desk
from tests.conftest import Result, calibrated, random_model, tiny_pixels
from tests.data.files import deep_png
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
    (folder / "notes.txt").write_text("not an image")
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
    assert "s per image" in table.err


def test_an_interrupted_run_goes_on_with_the_images_that_are_left(
    command: Command, desk: Desk, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["infer", "--set", SET, "--model", desk.model, "--images", album, "--json"]
    real = evaluating.EvaluatingProcess.evaluate
    seen: list[list[Path]] = []

    def stopped(process: evaluating.EvaluatingProcess, inputs: list[Path], outputs: list[Path]) -> list[float]:
        if seen:
            raise KeyboardInterrupt
        seen.append(inputs)
        return real(process, inputs, outputs)

    monkeypatch.setattr(evaluating.EvaluatingProcess, "evaluate", stopped)
    done = command(*arguments)
    assert done.code == 130
    assert "fheinfer infer --resume" in done.err
    monkeypatch.setattr(evaluating.EvaluatingProcess, "evaluate", real)
    found = json.loads(command(*arguments, "--resume").out)
    assert len(seen) == 1
    assert len(found["images"]) == 3
    assert found["images"][0]["seconds"] is None  # it was there already
    assert not list(Path("runs").glob("*"))


def test_one_bad_file_does_not_stop_the_rest(command: Command, desk: Desk, album: Path) -> None:
    (album / "half.png").write_bytes(desk.image.read_bytes()[:60])
    shutil.copy(desk.image, album / "two.jfif")
    (album / "._one.jpg").write_bytes(b"of macOS")
    done = command("infer", "--plan", "plan", "--images", album, "-v", "--csv", "out.csv", "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert [row["image"] for row in found["images"]] == ["1000.png", "1001.png", "1002.png", "two.jfif"]
    assert list(found["failures"]) == ["half.png"]
    assert "half.png: damaged or truncated image" in done.err
    assert "skipped 1 hidden file, notes.txt" in done.err
    assert done.err.count("layer3.0.relu2 ") == 4  # -v counts for many images, too
    assert len(Path("out.csv").read_text().splitlines()) == 5


def test_results_are_written_before_the_run_is_deleted(
    command: Command, desk: Desk, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(infer, "_write_csv", full)
    for given in (("--images", album), ("--image", desk.image)):
        done = command("infer", "--plan", "plan", *given, "--csv", "out.csv")
        assert done.code == 6
        (run,) = Path("runs").iterdir()
        assert list(run.rglob("*.ct"))
        monkeypatch.undo()
        monkeypatch.chdir(desk.folder)
        assert command("infer", "--plan", "plan", *given, "--csv", "out.csv", "--resume").code == 0
        assert Path("out.csv").exists()
        assert not list(Path("runs").glob("*"))
        monkeypatch.setattr(infer, "_write_csv", full)


def test_the_server_evaluates_a_folder(command: Command, desk: Desk, tiny_input_file: Path) -> None:
    (desk.folder / "in").mkdir()
    for name in ("a.ct", "b.ct"):
        shutil.copy(tiny_input_file, desk.folder / "in" / name)
    done = command("evaluate", "--keys", desk.server, "--plan", "plan", "-i", "in", "-o", "results")
    assert done.code == 0, done.err
    assert sorted(p.name for p in Path("results").iterdir()) == ["a.ct", "b.ct"]
    assert Path("results/a.ct").stat().st_size == Path("results/b.ct").stat().st_size


def test_encrypted_accuracy(command: Command, desk: Desk, tiny_model: Model, mosaics: Path, tmp_path: Path) -> None:
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
        mosaics,
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
        (2, "takes one input", ["--images", "tiny.png", "--backend", "slots"]),
        (3, "no image here", ["--images", "plan"]),
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
    refused(2, "for a single input", *evaluate, "-i", "keys", "-o", "results", "--checkpoints", "c")


def test_two_images_at_a_time_where_the_set_allows_it(
    command: Command, desk: Desk, album: Path, tmp_path: Path
) -> None:
    """Three of them: a pair, and one by itself. Those of a pair take the same time, half of it each."""
    name, network = "insecure-tiny-turbo", "resnet8-tiny-turbo"
    wild = random_model(network, 2)
    tensors = {key: array / np.float32(2) if array.ndim == 4 else array for key, array in wild.tensors.items()}
    model = calibrated(dataclasses.replace(wild, tensors=tensors), range(1000, 1020))
    model.save(tmp_path / "turbo.safetensors")
    given = ("--set", name, "--model", tmp_path / "turbo.safetensors")
    assert command("keygen", *given).code == 0
    done = command("infer", *given, "--images", album, "--json")
    assert done.code == 0, done.err
    plan = fheinfer.compile(model, name)
    rows = json.loads(done.out)["images"]
    for row, seed in zip(rows, range(1000, 1003), strict=True):
        wanted = fheinfer.run_slots(plan, fheinfer.normalise(tiny_pixels(seed), model.mean, model.std))
        assert row["logits"] == pytest.approx(wanted.tolist(), abs=2**-7 * float(np.abs(wanted).max()))
    pair = [row["seconds"] for row in rows[:2]]
    assert pair[0] == pytest.approx(pair[1], rel=0.2)


def test_demo_makes_keys_once(command: Command, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(infer, "infer", lambda **options: done.append(f"infer {options['image']} {options['plain']}"))
    monkeypatch.setattr(choices, "model_file", lambda model, params: desk.model)
    shutil.rmtree(desk.keys)
    assert command("demo", "--set", SET).code == 0
    manifest = desk.server / "manifest.json"
    made = manifest.stat().st_mtime_ns
    assert command("demo", "--set", SET, "--image", "luis.png").code == 0
    assert manifest.stat().st_mtime_ns == made
    torch = optional.have("torch")
    assert done == [f"infer vale.jpg {torch}", f"infer luis.png {torch}"]


def test_a_depth_scales_deep_images(command: Command, desk: Desk) -> None:
    """12-bit values in a 16-bit PNG are nearly black without, and the same as the 8-bit image with their depth."""
    folder = desk.folder / "deep"
    folder.mkdir()
    (folder / "deep.png").write_bytes(deep_png(np.rint(tiny_pixels(1000) * (4095 / 255)).astype(np.uint16)))
    Image.fromarray(tiny_pixels(1000)).save("shallow.png")
    given = ("infer", "--plan", "plan", "--json", "--backend", "slots")
    dark = command(*given[:-2], "--images", folder)
    assert "a depth of 12 bits (--depth 12) scales it" in dark.err
    many = command(*given[:-2], "--images", folder, "--depth", 12)
    one = command(*given, "--image", folder / "deep.png", "--depth", 12)
    shallow = command(*given, "--image", "shallow.png")
    outputs = [json.loads(done.out) for done in (one, shallow, many, dark)]
    assert outputs[0]["logits"] == pytest.approx(outputs[1]["logits"], abs=1e-9)
    assert outputs[2]["images"][0]["logits"] == pytest.approx(outputs[1]["logits"], abs=0.02)
    assert outputs[3]["images"][0]["logits"] != pytest.approx(outputs[1]["logits"], abs=0.02)
