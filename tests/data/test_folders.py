"""Folders of images: all that can be read is read, every bad file has its line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fheinfer.data.folders import load_folder
from fheinfer.errors import InputError
from tests.data.files import NO_FILES, deep_png


def image(path: Path, grey: int = 0, kind: str = "png") -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), (grey,) * 3).save(path, kind)
    return path


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    image(tmp_path / "one.jpg", 10, "jpeg")
    image(tmp_path / "two.jfif", 20, "jpeg")
    image(tmp_path / "three", 30)  # no suffix: told by its content
    image(tmp_path / "FOUR.WEBP", 40, "webp")
    (tmp_path / "._one.jpg").write_bytes(b"\0\5\26\7Mac OS X")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not one")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    image(tmp_path / "below" / "five.png", 50)
    found = load_folder([tmp_path], 32)
    assert list(found.images) == ["FOUR.WEBP", "one.jpg", "three", "two.jfif"]
    assert [pixels[0, 0, 0] for pixels in found.images.values()] == [40, 10, 30, 20]
    assert list(found.failures) == ["bad.png"]
    assert "/bad.png: " in found.failures["bad.png"]
    assert found.notes == (f"{tmp_path}: skipped 2 hidden files, 1 folder, notes.txt (no image)",)


def test_two_files_of_one_name_keep_apart(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        image(tmp_path / folder / "same.png", number)
        image(tmp_path / folder / f"other{number}.png", 10 + number)
    found = load_folder([tmp_path / "a", tmp_path / "b"], 32)
    names = [str(tmp_path / folder / "same.png") for folder in ("a", "b")]
    assert {name: int(pixels[0, 0, 0]) for name, pixels in found.images.items()} == {
        "other0.png": 10,
        names[0]: 0,
        "other1.png": 11,
        names[1]: 1,
    }


def test_a_file_named_twice_is_there_twice(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png", 7)
    assert list(load_folder([path, path], 32).images) == [str(path), f"{path} (2)"]


def test_names_that_look_the_same_when_printed_keep_apart(tmp_path: Path) -> None:
    for number, name in enumerate((b"caf\xe9.png", rb"caf\xe9.png")):
        image(tmp_path / os.fsdecode(name), number)
    found = load_folder([tmp_path], 32)
    assert len(found.images) == 2
    assert all(name.isprintable() and name.encode() for name in found.images)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_has_its_line_and_the_rest_is_done(tmp_path: Path, kind: str) -> None:
    image(tmp_path / "a.png", 5)
    NO_FILES[kind](tmp_path / "b.png")
    NO_FILES[kind](tmp_path / "c")
    found = load_folder([tmp_path], 32)
    assert list(found.images) == ["a.png"]
    assert list(found.failures) == ([] if kind == "folder" else ["b.png"])
    assert found.notes


def test_names_that_are_no_names_have_their_lines(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png", 5)
    bad = [tmp_path / "gone.png", Path("x" * 5000), Path("a\0b"), tmp_path / os.fsdecode(b"\xff.png")]
    found = load_folder([path, *bad], 32)
    assert list(found.images) == ["a.png"]
    assert len(found.failures) == 4
    assert all(line.isprintable() and name.isprintable() for name, line in found.failures.items())


def test_a_folder_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image here"):
        load_folder([tmp_path], 32)
    with pytest.raises(InputError, match="no file or folder"):
        load_folder([], 32)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"no image can be read: .*/a\.png: .*, and 1 more"):
        load_folder([tmp_path], 32)


def test_size_channels_and_depth_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(deep_png(np.full((6, 4, 1), 4095, np.uint16)))
    found = load_folder([tmp_path], (3, 2), channels=1, depth=12)
    assert found.images["a.png"].shape == (3, 2, 1)
    assert (found.images["a.png"] == 255).all()
    assert "12-bit" in load_folder([tmp_path], 8).notes[0]
