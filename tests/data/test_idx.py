"""MNIST's files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from fheinfer.data import datasets, idx
from fheinfer.errors import DatasetError
from tests.data.files import NO_FILES

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


def content(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def written(folder: Path, packed: bool = False, dot: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, cut in (("train", slice(0, 10)), ("t10k", slice(10, 12))):
        for what, array in (("images", IMAGES[cut]), ("labels", LABELS[cut])):
            name = f"{part}-{what}{'.' if dot else '-'}idx{array.ndim}-ubyte"
            data = content(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [".", "MNIST/raw", "raw"])
def test_they_are_read_as_they_come(tmp_path: Path, packed: bool, place: str) -> None:
    written(tmp_path / place, packed, dot=packed)
    train, test = (datasets.load(tmp_path, part) for part in ("train", "test"))
    assert np.array_equal(train.inputs[..., 0], IMAGES[:10])
    assert np.array_equal(test.labels, LABELS[10:])
    assert datasets.has_parts(tmp_path)
    assert len(datasets.load(tmp_path, "all", (1, 32, 32))) == 12
    assert datasets.load(tmp_path, "test", (784,)).inputs.max() <= 1


NAME = "train-images-idx3-ubyte"
GOOD = content(IMAGES[:10])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an idx file"),
        (GOOD[:10], "not an idx file"),
        (b"\x01" + GOOD[1:], "not an idx file"),
        (GOOD[:-1], "its header says"),
        (GOOD + b"\0", "its header says"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "type 13"),
        (GOOD[:3] + b"\x01" + GOOD[4:], "in 1 dimensions"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "its header says"),
        (GOOD[:4] + b"\0" * 12, "its header says"),
        (content(IMAGES[:9]), "9 train images and 10 labels"),
        (gzip.compress(GOOD)[:-9], "damaged"),
        (gzip.compress(GOOD)[:200] + b"\xff" * 50, "damaged"),
        (b"\x1f\x8b nothing", "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (written(tmp_path) / NAME).write_bytes(data)
    with pytest.raises(DatasetError, match=words):
        datasets.load(tmp_path, "train")


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "MAX_BYTES", 1 << 16)
    (written(tmp_path) / NAME).write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(DatasetError, match="unpacks to more than"):
        datasets.load(tmp_path, "train")
    (tmp_path / NAME).write_bytes(bytes(1 << 17))
    with pytest.raises(DatasetError, match="more than the 65,536"):
        datasets.load(tmp_path, "train")


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    (written(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="no idx file of the test labels"):
        datasets.load(tmp_path, "test")


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    (written(tmp_path) / NAME).unlink()
    NO_FILES[kind](tmp_path / NAME)
    with pytest.raises(DatasetError, match=NAME):
        datasets.load(tmp_path, "train")
