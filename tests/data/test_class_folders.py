"""Folders of class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fheinfer.data import datasets
from fheinfer.errors import DatasetError


def written(root: Path, counts: dict[str, int], size: tuple[int, int] = (20, 30)) -> Path:
    """Images of one colour: how many of each class there are."""
    for value, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (10 * value, i, 0)).save(root / name / f"{i:03}.png")
    return root


def test_a_folder_is_a_class_and_first_images_are_of_all(tmp_path: Path) -> None:
    root = written(tmp_path / "data", {"dog": 6, "ant": 8, "cat": 6})
    found = datasets.load(root, "all", (3, 8, 8))
    assert found.classes == ("ant", "cat", "dog")
    assert found.labels[:6].tolist() == [0, 1, 2] * 2
    assert found.inputs.shape == (20, 8, 8, 3)
    assert found.inputs[0, 0, 0].tolist() == [10, 0, 0]
    assert any("resized to 8x8" in note for note in found.notes)
    assert not datasets.has_parts(root)
    assert [len(datasets.load(root, part, (3, 8, 8))) for part in ("train", "test")] == [18, 2]
    assert len(datasets.load(root, "all", (3, 8, 8), 5)) == 5


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val")])
def test_parts_may_be_folders_themselves(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, count in zip(names, (4, 2), strict=True):
        written(tmp_path / name, {"a": count, "b": count})
    assert datasets.has_parts(tmp_path)
    assert [len(datasets.load(tmp_path, part, (1, 5, 5))) for part in datasets.PARTS] == [8, 4, 12]


def test_images_that_cannot_be_read_are_skipped_and_noted(tmp_path: Path) -> None:
    root = written(tmp_path / "data", {"a": 3, "b": 3})
    (root / "a" / "001.png").write_bytes(b"\x89PNG nothing")
    (root / "b" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    found = datasets.load(root, "all", (3, 8, 8))
    assert len(found) == 5
    assert any("skipped 1 images" in note and "001.png" in note for note in found.notes)
    for path in root.rglob("*.png"):
        path.write_bytes(b"\x89PNG nothing")
    datasets.load.cache_clear()
    with pytest.raises(DatasetError, match="no image can be read"):
        datasets.load(root, "all", (3, 8, 8))


def test_images_without_folders_have_no_labels(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    found = datasets.load(tmp_path, "all", (3, 8, 8))
    assert len(found) == 3
    with pytest.raises(DatasetError, match="no labels"):
        found.labelled_as(("a", "b"))


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images and no folders"):
        datasets.load(tmp_path, "all", (3, 8, 8))
    root = written(tmp_path / "data", {"a": 3, "b": 0})
    with pytest.raises(DatasetError, match="no images in b"):
        datasets.load(root, "all", (3, 8, 8))
    with pytest.raises(DatasetError, match="takes 5"):
        datasets.load(root, "all", (5, 8, 8))
    with pytest.raises(DatasetError, match="have no size"):
        datasets.load(root, "all", (64,))
    with pytest.raises(DatasetError, match="too many for memory"):
        datasets.load(root / "a", "all", (3, 1 << 16, 1 << 16))
    (tmp_path / "file").write_text("nothing")
    with pytest.raises(DatasetError, match="no data set that is known"):
        datasets.load(tmp_path / "file", "all")


def test_a_class_more_in_testing_is_refused_together(tmp_path: Path) -> None:
    written(tmp_path / "train", {"a": 2, "b": 2})
    written(tmp_path / "test", {"a": 2, "c": 2})
    assert np.array_equal(datasets.load(tmp_path, "test", (3, 8, 8)).labels, [0, 1, 0, 1])
    with pytest.raises(DatasetError, match="other classes"):
        datasets.load(tmp_path, "all", (3, 8, 8))
