"""Numpy's files as data sets."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fheinfer.data import arrays, datasets
from fheinfer.data.labelled import UNKNOWN, DataSet
from fheinfer.errors import DatasetError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (50, 6, 5), dtype=np.uint8)
LABELS = np.arange(50) % 3


def saved(tmp_path: Path, **given: Any) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **given)
    return path


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("features", "targets"), ("data", "target")])
def test_data_in_one_piece_has_a_tenth_for_testing(tmp_path: Path, names: tuple[str, str]) -> None:
    path = saved(tmp_path, **dict(zip(names, (PIXELS, LABELS[:, None]), strict=True)))
    found = {part: datasets.load(path, part) for part in datasets.PARTS}
    assert not datasets.has_parts(path)
    assert [len(found[part]) for part in datasets.PARTS] == [45, 5, 50]
    assert np.array_equal(found["all"].inputs[..., 0], PIXELS)
    both = np.concatenate([found["train"].inputs, found["test"].inputs]).reshape(50, -1)
    assert len(np.unique(both, axis=0)) == 50
    assert np.array_equal(found["all"].labels, LABELS)


@pytest.mark.parametrize("names", ["x_{0} y_{0}", "{0}_images {0}_labels"])
def test_data_in_parts_keeps_them(tmp_path: Path, names: str) -> None:
    given: dict[str, Any] = {}
    for part, cut in (("train", slice(0, 30)), ("test", slice(30, 50))):
        given |= dict(zip(names.format(part).split(), (PIXELS[cut], LABELS[cut]), strict=True))
    path = saved(tmp_path, **given, classes=np.array(["a", "b", "c"]))
    assert datasets.has_parts(path)
    test = datasets.load(path, "test")
    assert np.array_equal(test.inputs[..., 0], PIXELS[30:])
    assert test.classes == ("a", "b", "c")
    assert len(datasets.load(path, "all")) == 50


def test_vectors_and_channels_first_are_known(tmp_path: Path) -> None:
    vectors = RANDOM.normal(0, 1, (50, 7))
    found = datasets.load(saved(tmp_path, x=vectors, y=LABELS), "all", (7,))
    assert not found.images
    assert np.array_equal(found.inputs, vectors.astype(np.float32))
    planes = RANDOM.integers(0, 256, (50, 3, 8, 9), dtype=np.uint8)
    found = arrays.data_set(planes, LABELS, (), "here")
    assert found.inputs.shape == (50, 8, 9, 3)
    assert found.notes


def test_a_single_array_has_no_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    found = datasets.load(tmp_path / "x.npy", "all")
    assert (found.labels == UNKNOWN).all()
    with pytest.raises(DatasetError, match="no labels"):
        found.require_labels()


@pytest.mark.parametrize("targets", [LABELS + 0.5, LABELS - 2, LABELS + 70_000, np.zeros((50, 3))])
def test_targets_of_regressions_are_no_labels(tmp_path: Path, targets: Any) -> None:
    found = datasets.load(saved(tmp_path, x=PIXELS, y=targets), "all")
    assert (found.labels == UNKNOWN).all()
    with pytest.raises(DatasetError, match=r"no labels \(targets of .* are no labels of classes, 0 to 65,535"):
        found.require_labels()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": PIXELS, "y": LABELS[:-1]}, "same first size"),
        ({"x": PIXELS, "y": np.array(["cat"] * 50)}, "whole numbers"),
        ({"x": PIXELS, "y": LABELS, "classes": np.array(["a"])}, "label 2 and 1 class names"),
        ({"x": np.full((50, 3), np.nan), "y": LABELS}, "NaN"),
        ({"x": np.full((50, 3), 1e300), "y": LABELS}, "NaN or infinite"),
        ({"x": np.array(["a"] * 50), "y": LABELS}, "an array of numbers"),
        ({"x": np.zeros((50, 0)), "y": LABELS}, "an array of numbers"),
        ({"pictures": PIXELS, "names": LABELS}, "by known names among pictures, names"),
        ({"x": np.zeros(()), "y": LABELS}, "same first size"),
        ({"x": PIXELS[:5], "y": LABELS[:5]}, "too few"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        datasets.load(saved(tmp_path, **given), "test")


def test_objects_are_refused_unopened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "executed", "x"))

    path = saved(tmp_path, x=np.array([Bomb()] * 20, object), y=LABELS[:20])
    with pytest.raises(DatasetError, match="damaged"):
        datasets.load(path, "train")
    assert not (tmp_path / "executed").exists()


def test_hostile_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "|u1", "fortran_order": False, "shape": (2**50, 8, 8)})
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", huge.getvalue())
    with pytest.raises(DatasetError, match="its size is not what its header says"):
        datasets.load(path, "train")
    monkeypatch.setattr(arrays, "MAX_BYTES", 1 << 20)
    np.savez_compressed(path, x=np.zeros((1 << 12, 1 << 10), np.uint8), y=np.zeros(1 << 12))
    assert path.stat().st_size < 1 << 16
    with pytest.raises(DatasetError, match="bytes unpacked"):
        datasets.load(path, "train")
    data = saved(tmp_path, x=PIXELS, y=LABELS).read_bytes()
    for content in (data[: len(data) // 2], data[:300] + b"\xff" * 40 + data[340:], b"PK\x03\x04", b""):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"data\.npz"):
            datasets.load(path, "all")


@pytest.mark.parametrize(
    ("inputs", "shape", "fitted"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), (3, 4, 4), (4, 4, 4, 3)),
        (np.zeros((4, 28, 28, 1), np.uint8), (1, 32, 32), (4, 32, 32, 1)),
        (np.zeros((4, 8, 12, 1), np.uint8), (3, 6, 6), (4, 6, 6, 3)),
        (np.zeros((4, 8, 8, 3), np.uint8), (1, 8, 8), (4, 8, 8, 1)),
        (np.zeros((4, 8, 8, 1), np.uint8), (64,), (4, 64)),
        (np.zeros((4, 8, 8), np.float32), (1, 8, 8), (4, 1, 8, 8)),
        (np.zeros((4, 1, 8, 8), np.float32), (64,), (4, 64)),
    ],
)
def test_examples_are_made_to_fit_and_it_is_said(
    inputs: np.ndarray, shape: tuple[int, ...], fitted: tuple[int, ...]
) -> None:
    found = DataSet(inputs, np.zeros(4)).fitted(shape)
    assert found.inputs.shape == fitted
    assert bool(found.notes) == (inputs.dtype == np.uint8)


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        (np.zeros((4, 8, 8, 2), np.uint8), (3, 8, 8)),
        (np.zeros((4, 8, 8, 3), np.uint8), (100,)),
        (np.zeros((4, 7), np.float32), (8,)),
        (np.zeros((4, 2, 8), np.float32), (8, 2)),
        (np.zeros((4, 64), np.float32), (1, 8, 8)),
    ],
)
def test_examples_that_do_not_fit_are_refused(inputs: np.ndarray, shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="the network takes"):
        DataSet(inputs, np.zeros(4)).fitted(shape)


def test_labels_go_by_the_names_of_classes() -> None:
    data = DataSet(np.zeros((3, 2), np.float32), np.array([0, 1, 1]), ("cat", "dog"))
    assert data.labelled_as(("dog", "bird", "cat")).labels.tolist() == [2, 0, 0]
    assert data.labelled_as(("0", "1")).notes == ()
    assert "cat, dog" in data.labelled_as(("a", "b")).notes[0]
    with pytest.raises(DatasetError, match="2 classes, and the model 1"):
        data.labelled_as(("a",))


def test_spread_takes_evenly() -> None:
    data = DataSet(np.arange(20, dtype=np.float32)[:, None], np.arange(20))
    assert data.spread(4).labels.tolist() == [0, 5, 10, 15]
    assert len(data.spread(50)) == 20
