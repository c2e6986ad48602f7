"""`fheinfer accuracy` and `fheinfer search` on the tiny network and images made by the tests."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fheinfer.cli.display import table
from fheinfer.data import datasets as data
from fheinfer.data.images import normalise
from fheinfer.evaluation.search import MARGINS
from fheinfer.frontends.comparing import evaluate
from fheinfer.model.model import Model
from fheinfer.train.calibrate import measure_ranges
from tests.conftest import TINY, Result, random_model
from tests.train.conftest import one_thread

__all__ = ["one_thread"]
Command = Callable[..., Result]
QUADRATIC = Path(__file__).parents[2] / "weights" / "resnet20-turbo.safetensors"


@pytest.fixture
def options(tiny_model_file: Path, mosaics: Path) -> list[object]:
    return ["--set", TINY, "--model", tiny_model_file, "--data", mosaics, "--limit", 60]


@pytest.fixture
def relu_network() -> Path:
    return QUADRATIC.with_name("resnet20.safetensors")


@pytest.fixture
def wide_file(tiny_model: Model, tmp_path: Path) -> Path:
    """Ranges that hold for the images of the tests, which are brighter than those of calibration."""
    path = tmp_path / "wide.safetensors"
    dataclasses.replace(tiny_model, ranges={k: 2 * v for k, v in tiny_model.ranges.items()}).save(path)
    return path


@pytest.mark.parametrize("mode", ["clear", "approx", "simulate"])
def test_every_mode_reports_accuracy_and_what_it_would_cost_encrypted(
    command: Command, options: list[object], wide_file: Path, mode: str
) -> None:
    done = command("accuracy", "--mode", mode, *options, "--model", wide_file, "--json")
    found = json.loads(done.out)
    assert (done.code, found["mode"], found["images"]) == (0, mode, 60)
    assert 0 <= found["top"]["1"] <= found["top"]["2"] <= found["top"]["5"] <= 1
    assert (found["predicted"] is None) == (mode == "clear")
    assert mode == "clear" or found["predicted"]["fast"]["seconds"] > 0
    assert (found["bits"] is not None) == (mode == "simulate")
    assert found["overflows"] == []


def test_polynomials_need_no_plan(command: Command, options: list[object], wide_file: Path) -> None:
    """The same answers as by a plan, and more bits where more are asked for; ranges are twice too wide here."""
    rest = [*options[4:], "--model", wide_file, "--json"]
    by_plan = json.loads(command("accuracy", "--mode", "approx", *options[:4], *rest).out)
    found = json.loads(command("accuracy", "--mode", "approx", *rest).out)
    assert (found["top"], found["overflows"]) == (by_plan["top"], by_plan["overflows"])
    assert found["reached"] == pytest.approx(by_plan["reached"], rel=1e-3)
    assert (found["predicted"], found["set"]) == (None, None)
    finer = json.loads(command("accuracy", "--mode", "approx", "--bits", 8, *rest).out)
    assert finer["pytorch_bits"]["fc"]["median"] > found["pytorch_bits"]["fc"]["median"] + 2
    clear = command("accuracy", "--mode", "clear", "--bits", 8, *options)
    assert clear.code == 2
    assert "--bits changes nothing here: in clear there are no polynomials" in clear.err


def test_an_overflow_is_named_by_layer(command: Command, options: list[object]) -> None:
    done = command("accuracy", "--act", "minimax:10", "--margin", "0.05", *options)
    assert done.code == 0
    assert "warning: relu1 leaves its range on 60 examples" in done.err
    assert "top 1" in done.out


def test_json_has_no_infinity(command: Command, options: list[object]) -> None:
    """A composite far outside its range ends in infinity; JSON has no word for it."""

    def strict(word: str) -> None:
        raise ValueError(word)

    done = command("accuracy", "--act", "minimax:13", "--margin", "0.05", *options, "--json")
    found = json.loads(done.out, parse_constant=strict)
    assert None in [overflow["largest"] for overflow in found["overflows"]]


def test_networks_larger_than_a_ciphertext_are_measured(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    path = tmp_path / "vgg.safetensors"
    random_model("vgg11", 1).save(path)
    done = command("accuracy", "--mode", "clear", *options, "--model", path, "--limit", 2, "--top-k", "10", "--json")
    assert json.loads(done.out)["top"]["10"] == 1
    done = command("accuracy", "--mode", "approx", *options, "--model", path, "--limit", 2)
    assert done.code == 0  # several ciphertexts do; comparisons of its max pools that leave their range are named
    assert "stage1.pool" in done.err


def test_every_image_is_in_the_csv(command: Command, options: list[object], wide_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "logits.csv"
    done = command("accuracy", *options, "--model", wide_file, "--csv", path, "--top-k", "1,10", "--json")
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 60
    for row in rows:
        assert int(row["class"]) == int(np.argmax([float(row[f"logit_{i}"]) for i in range(10)]))
    assert sum(row["class"] == row["label"] for row in rows) / 60 == json.loads(done.out)["top"]["1"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--model", QUADRATIC, "--act", "minimax:7"], "resnet20-turbo has none"),
        (["--mode", "clear", "--act", "f1"], "in clear there are no polynomials"),
        (["--mode", "clear", "--margin", "2"], "in clear there are no polynomials"),
        (["--mode", "clear", "--set", "nonsense"], "nonsense"),
        (["--act", "tanh"], "no activation 'tanh'"),
        (["--mode", "guessed"], "no mode 'guessed'"),
        (["--mode", "encrypted"], "no keys in keys/set"),
        (["--keys", "keys"], "it is for --mode encrypted"),
        (["--part", "validation"], "no part 'validation'"),
        (["--top-k", "1,x"], "--top-k '1,x'"),
        (["--top-k", "11"], "the network has 10 classes"),
        (["--data", "/nowhere"], "no such folder"),
        (["--csv", "/nowhere/x.csv"], "/nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    command: Command, options: list[object], extra: list[str], words: str
) -> None:
    done = command("accuracy", *options, *extra)
    assert done.code != 0
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("over", "points"), [("alpha", 4), ("degree", 4)])
def test_a_search_reports_every_point_and_the_cheapest_that_will_do(
    command: Command, options: list[object], wide_file: Path, in_clear: list[int], over: str, points: int
) -> None:
    where = ["--over", over, "--mode", "approx", *options, "--model", wide_file, "--part", "test", "--json"]
    found = json.loads(command("search", "--max-loss", 0.05, *where).out)
    assert sum(in_clear) == found["images"] == 60  # once, not again for every point
    assert len(found["points"]) <= points
    good = [p for p in found["points"] if p["loss"] <= 0.05]
    assert found["best"] in good
    assert found["best"]["setting"] == min(good, key=lambda p: int(p["setting"].split(":")[1]))["setting"]
    assert all(abs(found["clear"] - p["accuracy"] - p["loss"]) < 1e-12 for p in found["points"])


def test_a_search_over_sets_goes_by_predicted_time(command: Command, options: list[object], wide_file: Path) -> None:
    """Sets without bootstraps come first by degree, and end a search for most networks."""
    where = ["--over", "set", "--mode", "approx", *options, "--model", wide_file]
    done = command("search", "--max-loss", 1, *where, "--json")
    found = json.loads(done.out)
    seconds = [p["seconds"] for p in found["points"]]
    assert seconds == sorted(seconds, reverse=True)  # everything is within the bound: ever cheaper ones are tried
    assert found["best"] == found["points"][-1]
    assert found["best"]["setting"] == "set turbo"  # not the first set, and cheaper than all others
    assert found["unfit"] == {}  # its 13 levels fit turbo's 22, too


def test_a_search_over_degrees_leaves_out_those_too_deep_for_the_set(
    command: Command, options: list[object], wide_file: Path
) -> None:
    where = ["--over", "degree", *options, "--set", 1, "--model", wide_file, "--margin", 0.2, "--limit", 5]
    found = json.loads(command("search", "--max-loss", 0, "--mode", "approx", *where, "--json").out)
    assert list(found["unfit"]) == ["relu:200", "relu:247"]
    assert {p["setting"] for p in found["points"]} <= {"relu:7", "relu:15", "relu:31", "relu:63"}


def test_a_search_over_scales(command: Command, options: list[object], wide_file: Path) -> None:
    where = ["--over", "scale-bits", *options, "--model", wide_file, "--limit", 10]
    found = json.loads(command("search", "--max-loss", 0.05, "--mode", "simulate", *where, "--json").out)
    bits = [int(p["setting"].split()[0]) for p in found["points"]]
    noise = [p["bits"] for p in sorted(found["points"], key=lambda p: int(p["setting"].split()[0]))]
    assert len(bits) > 2
    assert noise == sorted(noise)


def test_a_network_that_fits_no_setting_is_refused(command: Command, options: list[object], relu_network: Path) -> None:
    done = command("search", "--over", "margin", *options, "--set", "turbo", "--model", relu_network)
    assert done.code == 7
    assert "set turbo has 22 levels and no bootstrapping" in done.err
    assert "choose a set that has as many, or one with bootstraps: 1, 2, 3, 4" in done.err


@pytest.mark.parametrize(
    "arguments", [["accuracy", "--act", "f1"], ["search", "--over", "alpha"]], ids=["accuracy", "search"]
)
def test_without_pytorch_it_says_what_to_install(
    command: Command, options: list[object], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    parts = ("fheinfer.train", "fheinfer.evaluation", "fheinfer.data.datasets")
    for name in [name for name in sys.modules if name.startswith(parts)]:
        monkeypatch.delitem(sys.modules, name)
    done = command(*arguments, *options)
    assert (done.code, "pip install torch" in done.err) == (2, True)


def test_a_long_title_stands_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    title = "a title that is longer than its table"
    table(title, ["", "x"], [["y", "1"]])
    assert capsys.readouterr().out.splitlines()[0].strip() == title


def test_of_margins_all_are_tried_and_the_most_accurate_is_found(
    command: Command, options: list[object], tiny_model: Model, mosaics: Path, tmp_path: Path
) -> None:
    ranges = measure_ranges(tiny_model, data.load(mosaics, "train").take(np.arange(60))).largest()
    dataclasses.replace(tiny_model, ranges=ranges).save(tmp_path / "exact.safetensors")
    where = ["--over", "margin", "--act", "minimax:13", "--mode", "approx", *options]
    where += ["--model", tmp_path / "exact.safetensors"]
    found = json.loads(command("search", "--max-loss", 1, *where, "--json").out)
    assert [p["setting"] for p in found["points"]] == [f"margin {m:g}" for m in MARGINS]
    assert found["best"] == max(reversed(found["points"]), key=lambda p: p["accuracy"])  # the widest of equals
    overflows = dict(zip(MARGINS, (p["overflows"] for p in found["points"]), strict=True))
    assert overflows[0.7] > overflows[1.2] == overflows[2.0] == 0
    assert found["points"][0]["seconds"] == found["points"][-1]["seconds"]
    done = command("search", "--max-loss", 1, *where)
    assert f"best within 100 points: {found['best']['setting']}" in done.out


def test_a_search_that_finds_nothing_says_so(
    command: Command, options: list[object], tiny_model: Model, mosaics: Path, tmp_path: Path
) -> None:
    """With the network's own answers as labels: polynomials far outside of their range cannot give them all."""
    images = data.load(mosaics, "test").resized(8).first(60)
    x = np.stack([normalise(image, tiny_model.mean, tiny_model.std) for image in images.inputs])
    (logits,) = evaluate(tiny_model.graph, tiny_model.tensors, x)
    np.savez(tmp_path / "own.npz", images=images.inputs, labels=logits.argmax(1))
    where = [*options, "--data", tmp_path / "own.npz"]
    done = command("search", "--over", "alpha", "--max-loss", 0, "--margin", 0.05, "--mode", "approx", *where)
    assert done.code == 2
    assert "nothing over alpha stays within 0 points" in done.err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--over", "luck"], "'luck'"),
        (["--over", "alpha", "--mode", "clear"], "'clear'"),
        (["--over", "alpha", "--act", "f1"], "leave it out"),
        (["--over", "margin", "--margin", "2"], "leave it out"),
        (["--over", "margin", "--model", QUADRATIC, "--act", "f1"], "resnet20-turbo has none"),
        (["--over", "alpha", "--set", "turbo", "--model", QUADRATIC], "resnet20-turbo has none"),
        (["--over", "degree", "--set", "turbo", "--model", QUADRATIC], "resnet20-turbo has none"),
        (["--over", "scale-bits", "--set", "turbo", "--model", QUADRATIC], "scales have 25 bits"),
    ],
)
def test_a_search_for_nothing_is_refused(command: Command, options: list[object], extra: list[str], words: str) -> None:
    done = command("search", *options, *extra)
    assert done.code == 2
    assert words in done.err
