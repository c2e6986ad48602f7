from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fheinfer.data import datasets as data
from fheinfer.data.images import normalise
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, RangeError, UsageError
from fheinfer.evaluation import ranges as module
from fheinfer.evaluation.ranges import BINS, Histogram, Ranges
from fheinfer.frontends.importing import import_model
from fheinfer.model.model import Model, load
from fheinfer.train.calibrate import measure_ranges
from fheinfer.train.module import from_model


@pytest.fixture(scope="module")
def images(mosaics: Path) -> data.DataSet:
    return data.load(mosaics, "train").take(np.arange(700))


@pytest.fixture(scope="module")
def measured(relu_model: Model, images: data.DataSet) -> Ranges:
    return measure_ranges(relu_model, images, margin=1.5)


def test_histograms_are_those_of_all_values_at_once(relu_model: Model, images: data.DataSet, measured: Ranges) -> None:
    import torch

    x = np.stack([normalise(i, relu_model.mean, relu_model.std) for i in images.resized(8).inputs])
    values = from_model(relu_model).forward_all(torch.from_numpy(x).float())
    assert list(measured.activations) == [node.name for node in relu_model.graph.activations]
    for node in relu_model.graph.activations:
        given, found = values[node.inputs[0]].detach().numpy(), measured.activations[node.name]
        assert found.largest == pytest.approx(np.abs(given).max(), rel=1e-5)
        assert found.bin_range / 2 < found.largest <= found.bin_range or found.bin_range == 1
        expected = np.histogram(given, BINS, (-found.bin_range, found.bin_range))[0]
        assert found.counts.sum() == given.size
        assert np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max() <= 2e-4 * given.size  # at edges of bins
    assert measured.bounds()["relu1"] == 1.5 * measured.largest()["relu1"]


def test_a_histogram_stretches_symmetrically() -> None:
    histogram = Histogram()
    histogram.counts[[0, 1, BINS // 2 - 1, BINS // 2, BINS - 1]] = [1, 2, 3, 4, 5]
    histogram.stretch(3.9)
    assert (histogram.bin_range, histogram.largest, histogram.counts.sum()) == (4.0, 3.9, 15)
    centres = histogram.centres()
    assert centres == pytest.approx(-centres[::-1])
    places = {float(c): int(n) for c, n in zip(centres, histogram.counts, strict=True) if n}
    width = 8 / BINS
    assert places == pytest.approx({-1 + width / 2: 3, -width / 2: 3, width / 2: 4, 1 - width / 2: 5})


def test_a_file_comes_back_whole_and_only_for_its_weights(relu_model: Model, measured: Ranges, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    measured.save(path)
    again = module.load(path, relu_model)
    assert again.largest() == measured.largest()
    assert (again.margin, again.images) == (1.5, 700)
    for name, histogram in measured.activations.items():
        assert np.array_equal(again.activations[name].counts, histogram.counts)
    changed = {**relu_model.tensors, "fc.bias": relu_model.tensors["fc.bias"] + 1}
    with pytest.raises(MismatchError, match="fheinfer calibrate"):
        module.load(path, replace(relu_model, tensors=changed))


def test_ranges_of_a_file_become_those_of_a_model(
    relu_file: Path, relu_model: Model, images: data.DataSet, tmp_path: Path
) -> None:
    path, out = tmp_path / "r.json", tmp_path / "out.safetensors"
    measure_ranges(relu_model, images.first(50)).save(path)
    found = module.load(path, relu_model).largest()
    import_model(relu_file, ranges=found).model.save(out)
    made = load(out)
    assert made.identity == relu_model.identity
    assert made.ranges == found
    assert all(made.ranges[name] < relu_model.ranges[name] for name in made.ranges)  # of 50 images, not all


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"margin": 0.5},
        {"margin": float("nan")},
        {"images": "x"},
        {"activations": {}},
        {"activations": {"relu1": {}}},
        {"activations": []},
        {"activations": None},
    ],
)
def test_a_damaged_file_is_refused(
    relu_model: Model, measured: Ranges, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "r.json"
    measured.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CorruptArtifactError, match="make it again"):
        module.load(path, relu_model)


def test_files_that_are_none(relu_model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        module.load(tmp_path / "none.json", relu_model)
    for content in (b"", b"[1", b"\xff\xfe", b"[" * 100_000, b"[]", b"3"):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(CorruptArtifactError):
            module.load(tmp_path / "r.json", relu_model)


def test_values_that_are_no_numbers_are_named(relu_model: Model, images: data.DataSet) -> None:
    arrays = {**relu_model.tensors, "bn1.weight": np.full(4, 3e38, np.float32)}
    with pytest.raises(RangeError, match="'relu1'"):
        measure_ranges(replace(relu_model, tensors=arrays), images)


def test_a_margin_below_one_is_refused(relu_model: Model, images: data.DataSet) -> None:
    with pytest.raises(UsageError, match="margin"):
        measure_ranges(relu_model, images, margin=0.9)


def test_the_command(
    relu_file: Path, relu_model: Model, mosaics: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    out = tmp_path / "ranges.json"
    result = command("calibrate", relu_file, "--data", mosaics, "--images", 100, "-o", out)
    assert result.code == 0, result.err
    assert "layer3.0.relu2" in result.out
    assert module.load(out, relu_model).images == 100
    assert command("calibrate", relu_file, "--data", mosaics, "--margin", 1.3, "-o", out).code == 2
    missing = command("calibrate", relu_file, "--data", tmp_path / "none", "-o", out)
    assert (missing.code, "no such folder" in missing.err) == (3, True)
