from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fheinfer.data import datasets as data
from fheinfer.data.cifar import RECORD
from fheinfer.data.synthetic import stripes
from fheinfer.errors import DatasetError
from tests.data.files import NO_FILES


@pytest.fixture
def copy(mosaics: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mosaics, tmp_path / "copy"))


def test_images_are_cut_out_in_order(mosaics: Path) -> None:
    images = data.load(mosaics, "train")
    assert images.inputs.shape == (2000, 32, 32, 3)
    assert images.labels.shape == (2000,)
    mosaic = np.asarray(Image.open(mosaics / "train_01.webp"))
    assert np.array_equal(images.inputs[1000 + 41], mosaic[32:64, 32:64])


def test_the_split_is_always_the_same_and_loses_nothing(mosaics: Path) -> None:
    images = data.load(mosaics, "train")
    fitting, held_out = data.split(images)
    again = data.split(images)[1]
    assert (len(fitting), len(held_out)) == (1800, 200)
    assert np.array_equal(held_out.inputs, again.inputs)
    both = np.concatenate([fitting.inputs, held_out.inputs]).reshape(2000, -1)
    assert len(np.unique(both, axis=0)) == 2000


def test_resizing_averages_squares(mosaics: Path) -> None:
    images = data.load(mosaics, "test").take(np.arange(3))
    small = images.resized(8)
    assert small.inputs.shape == (3, 8, 8, 3)
    assert small.inputs[2, 1, 7, 0] == np.rint(images.inputs[2, 4:8, 28:32, 0].mean())
    with pytest.raises(DatasetError, match="averaged"):
        images.resized(7)


def test_the_folder_comes_from_the_argument_or_the_environment(mosaics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FHEINFER_DATA", raising=False)
    with pytest.raises(DatasetError, match="FHEINFER_DATA"):
        data.source()
    monkeypatch.setenv("FHEINFER_DATA", str(mosaics))
    assert data.source() == mosaics
    with pytest.raises(DatasetError, match="no such folder or file"):
        data.source(mosaics / "gone")


def test_a_missing_mosaic_is_named(copy: Path) -> None:
    (copy / "train_01.webp").unlink()
    with pytest.raises(DatasetError, match=r"train_01\.webp: no such file"):
        data.load(copy, "train")


def test_missing_labels_are_named(copy: Path) -> None:
    (copy / "test_labels.npy").unlink()
    with pytest.raises(DatasetError, match=r"test_labels\.npy: no such file"):
        data.load(copy, "test")


@pytest.mark.parametrize(
    "labels, words",
    [
        (np.zeros(1999, np.uint8), "do not fill"),
        (np.zeros(0, np.uint8), "do not fill"),
        (np.zeros(1000, np.uint8), "more train mosaics"),
        (np.full(2000, 10, np.uint8), "label 10"),
        (np.zeros(2000, np.int64), "int64"),
        (np.zeros((2000, 1), np.uint8), "expected a list"),
    ],
)
def test_bad_labels_are_refused(copy: Path, labels: np.ndarray, words: str) -> None:
    np.save(copy / "train_labels.npy", labels)
    with pytest.raises(DatasetError, match=words):
        data.load(copy, "train")


def test_damaged_files_are_refused(copy: Path) -> None:
    whole = (copy / "train_00.webp").read_bytes()
    (copy / "train_00.webp").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="damaged or truncated"):
        data.load(copy, "train")
    Image.new("RGB", (64, 64)).save(copy / "train_00.webp")
    with pytest.raises(DatasetError, match="1280x800"):
        data.load(copy, "train")
    (copy / "train_labels.npy").write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(DatasetError, match="not a numpy array"):
        data.load(copy, "train")


def test_stripes_are_whole_mosaics_and_the_same_for_a_seed(mosaics: Path, tmp_path: Path) -> None:
    again = data.load(stripes(tmp_path / "new" / "folder"), "test")
    assert np.array_equal(again.inputs, data.load(mosaics, "test").inputs)
    assert set(again.labels) == set(range(10))


def batches(folder: Path, images: data.DataSet) -> Path:
    """`images` as the binary version of CIFAR-10: a fifth in each training batch, and all of them to test with."""
    folder.mkdir()
    planes = images.inputs.transpose(0, 3, 1, 2).reshape(len(images), -1)
    records = np.concatenate([images.labels[:, None].astype(np.uint8), planes], axis=1)
    for number, part in enumerate(np.array_split(records, 5), start=1):
        (folder / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    (folder / "test_batch.bin").write_bytes(records.tobytes())
    return folder


def test_the_binary_version_is_read_as_it_comes(mosaics: Path, tmp_path: Path) -> None:
    images = data.load(mosaics, "test")
    folder = batches(tmp_path / "cifar-10-batches-bin", images)
    for part in ("train", "test"):
        found = data.load(folder, part)
        assert np.array_equal(found.inputs, images.inputs)
        assert np.array_equal(found.labels, images.labels)
    first = (folder / "data_batch_1.bin").read_bytes()
    assert (first[0], first[1], first[1 + 1024]) == (images.labels[0], *images.inputs[0, 0, 0, :2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "no whole number of records"),
        (lambda path: path.write_bytes(b""), "no whole number of records"),
        (lambda path: os.truncate(path, 100_001 * RECORD), "100,000 records"),
        (lambda path: path.write_bytes(b"\x0a" + path.read_bytes()[1:]), "label 10"),
        (lambda path: path.unlink(), "no such file"),
    ],
    ids=["truncated", "empty", "huge", "label", "missing"],
)
def test_a_damaged_batch_is_refused(mosaics: Path, tmp_path: Path, change: Callable[[Path], Any], words: str) -> None:
    folder = batches(tmp_path / "bin", data.load(mosaics, "test").take(np.arange(20)))
    change(folder / "data_batch_3.bin")
    with pytest.raises(DatasetError, match=rf"data_batch_3\.bin: .*{words}"):
        data.load(folder, "train")


def test_half_a_binary_version_is_not_taken_for_mosaics(mosaics: Path, tmp_path: Path) -> None:
    folder = batches(tmp_path / "bin", data.load(mosaics, "test").take(np.arange(20)))
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DatasetError, match=r"test_batch\.bin: no such file"):
        data.load(folder, "test")
    with pytest.raises(DatasetError, match="neither CIFAR nor MNIST's files nor mosaics"):
        data.load(tmp_path, "test")


@pytest.mark.parametrize("count", [1, 9])
def test_a_handful_of_images_is_too_few_to_train_with(mosaics: Path, count: int) -> None:
    with pytest.raises(DatasetError, match=f"{count} training images are too few"):
        data.split(data.load(mosaics, "train").take(np.arange(count)))


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["train_labels.npy", "train_01.webp"])
def test_what_is_no_file_is_refused_at_once(copy: Path, name: str, kind: str) -> None:
    (copy / name).unlink()
    NO_FILES[kind](copy / name)
    with pytest.raises(DatasetError, match=name):
        data.load(copy, "train")


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_batch_that_is_no_file_is_refused_at_once(mosaics: Path, tmp_path: Path, kind: str) -> None:
    folder = batches(tmp_path / "bin", data.load(mosaics, "test").take(np.arange(20)))
    (folder / "data_batch_2.bin").unlink()
    NO_FILES[kind](folder / "data_batch_2.bin")
    with pytest.raises(DatasetError, match=r"data_batch_2\.bin"):
        data.load(folder, "train")


def test_huge_files_are_refused_unread(copy: Path) -> None:
    os.truncate(copy / "train_01.webp", 2**40)
    with pytest.raises(DatasetError, match=r"train_01\.webp: .* more than"):
        data.load(copy, "train")
    os.truncate(copy / "train_labels.npy", 2**40)
    with pytest.raises(DatasetError, match=r"train_labels\.npy: .* more than"):
        data.load(copy, "train")


def test_labels_that_promise_more_than_they_hold_are_refused(copy: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**60,)})
    (copy / "train_labels.npy").write_bytes(header.getvalue() + bytes(2000))
    with pytest.raises(DatasetError, match="not a numpy array"):
        data.load(copy, "train")
    np.savez(copy / "other.npz", np.zeros(2000, np.uint8))
    (copy / "other.npz").rename(copy / "train_labels.npy")
    with pytest.raises(DatasetError, match="not a numpy array"):
        data.load(copy, "train")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\udcff"], ids=ascii)
def test_a_folder_with_a_name_that_cannot_be_is_one_printable_line(name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        data.source(Path(name))
    assert str(caught.value).isprintable()
