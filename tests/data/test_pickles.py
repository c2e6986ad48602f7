"""torchvision's CIFAR files are read; whatever else a pickle may hold or do is refused."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fheinfer.data import datasets, pickles
from fheinfer.data.images import CLASSES
from fheinfer.errors import DatasetError

RANDOM = np.random.default_rng(0)


def python2(batch: dict[bytes, Any]) -> bytes:
    """A batch as Python 2 wrote those that are given out: protocol 2, byte strings as str, numpy's old module."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def item(value: Any) -> bytes:
        if isinstance(value, bytes):
            return text(value)
        if isinstance(value, int):
            return b"K" + bytes([value])
        if isinstance(value, list):
            return b"](" + b"".join(map(item, value)) + b"e"
        dtype = b"cnumpy\ndtype\n" + b"(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"".join(b"M" + struct.pack("<H", n) for n in value.shape)
        head = b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nK\x00\x85U\x01btR"
        return head + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + text(value.tobytes()) + b"tb"

    return b"\x80\x02}(" + b"".join(text(key) + item(value) for key, value in batch.items()) + b"u."


def ten(folder: Path, count: int = 4) -> tuple[Path, np.ndarray]:
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = RANDOM.integers(0, 256, (6, count, 3072), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [(i + n) % 10 for n in range(count)]
        batch = {b"batch_label": name.encode(), b"labels": labels, b"data": pixels[i], b"filenames": [b"a.png"] * count}
        (folder / name).write_bytes(python2(batch))
    meta = {b"label_names": [name.encode() for name in CLASSES]}
    (folder / "batches.meta").write_bytes(python2(meta))
    return folder, pixels


def test_pythons_cifar10_is_read_as_it_comes(tmp_path: Path) -> None:
    folder, pixels = ten(tmp_path)
    for place in (folder, tmp_path):  # torchvision's root, too
        train = datasets.load(place, "train")
        assert len(train) == 20
        assert train.classes == CLASSES
        assert np.array_equal(train.inputs[5].transpose(2, 0, 1).ravel(), pixels[1, 1])
        assert train.labels.tolist() == [(i + n) % 10 for i in range(5) for n in range(4)]
        assert len(datasets.load(place, "test")) == 4
        assert datasets.has_parts(place)


def test_what_python_2_wrote_is_what_pickle_reads(tmp_path: Path) -> None:
    folder, pixels = ten(tmp_path)
    theirs = pickle.loads((folder / "data_batch_1").read_bytes(), encoding="bytes")
    ours = pickles.load((folder / "data_batch_1").read_bytes(), "x")
    assert np.array_equal(theirs[b"data"], pixels[0])
    assert np.array_equal(ours["data"], pixels[0])
    assert ours["labels"] == theirs[b"labels"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_today_are_read_in_every_protocol(protocol: int) -> None:
    arrays: dict[str, np.ndarray] = {
        "data": RANDOM.integers(0, 256, (3, 4), dtype=np.uint8),
        "columns": np.asfortranarray(RANDOM.normal(0, 1, (3, 4))),
        "big": np.arange(5, dtype=">i4"),
    }
    content = {**arrays, "names": ["ä", b"\xff\x00", 3, -70_000, 2**70, True, None, 0.5], "nested": {"a": [(1, 2)]}}
    found = pickles.load(pickle.dumps(content, protocol), "x")
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
    assert found["nested"] == content["nested"]
    assert found["names"] == content["names"]


def test_pythons_cifar100_has_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"class {n}" for n in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [n.encode() for n in names]}))
    batch = {b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [5, 99, 0], b"coarse_labels": [1, 1, 1]}
    for part in ("train", "test"):
        (folder / part).write_bytes(pickle.dumps(batch))
    found = datasets.load(tmp_path, "test")
    assert (found.labels.tolist(), found.classes) == ([5, 99, 0], tuple(names))


def test_the_binary_cifar100_has_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    records = np.zeros((2, 3074), np.uint8)
    records[:, :3] = [[3, 42, 200], [1, 7, 100]]
    (folder / "test.bin").write_bytes(records.tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(f"c{n}" for n in range(100)))
    found = datasets.load(folder, "test")
    assert found.labels.tolist() == [42, 7]
    assert found.inputs[0, 0, 0, 0] == 200
    records[0, 1] = 100
    (folder / "train.bin").write_bytes(records.tobytes())
    with pytest.raises(DatasetError, match="label 100 is not one of the 100 classes"):
        datasets.load(folder, "train")


class Bomb:
    def __init__(self, *what: Any) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return self.what


HOSTILE = {
    "system": pickle.dumps({"data": Bomb(os.system, ("touch executed",))}),
    "eval": b'c__builtin__\neval\n(S\'open("executed", "w")\'\ntR.',
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch executed\x85R.",
    "numpy load": b"cnumpy\nload\n(S'x'\ntR.",
    "codec": b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",
    "objects": pickle.dumps({"data": np.array([{}, {}], object)}),
    "records": pickle.dumps({"data": np.zeros(3, "i4,i4")}),
    "text dtype": pickle.dumps({"data": np.array(["a" * 9])}),
    "instance": b"(i__builtin__\nlist\n.",
    "object": b"c__builtin__\nlist\n)\x81.",
    "persistent": b"Pid\n.",
    "extension": b"\x82\x01.",
    "class with a state": pickle.dumps(np.random.default_rng()),
    "a set": pickle.dumps({"data": {1, 2}}, 4),
    "the function itself": b"cnumpy\nndarray\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_more_than_data_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="holds more than data"):
        pickles.load(HOSTILE[name], "x")
    assert not list(tmp_path.iterdir())


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "no end": b"\x80\x02}",
    "a huge index": b"\x80\x02]r\xff\xff\xff\x7f",
    "a huge byte array": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\x00\x00.",
    "a huge string": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a huge number": b"\x8b\xff\xff\xff\x7f.",
    "no mark": b"t.",
    "nothing there": b"R.",
    "an unknown memo": b"h\x05.",
    "an odd dict": b"(S'a'\nd.",
    "adds to a number": b"K\x01K\x02a.",
    "a key that is no string": b"(]K\x01d.",
    "an array without data": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85S'b'\ntR.",
    "a huge reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n\x8a\x05\0\0\0\0\x10\x85S'b'\ntR.",
    "no decimal": b"Iabc\n.",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused(name: str) -> None:
    with pytest.raises(DatasetError, match=r"pickle that holds more|damaged pickle"):
        pickles.load(DAMAGED[name], "x")


def test_arrays_of_another_size_than_they_say_are_refused() -> None:
    raw = pickle.dumps({"data": np.zeros((2, 300), np.uint8)}, 2)
    assert raw.count(b"M\x2c\x01") == 1
    for size in (b"M\x2d\x01", b"J\x00\x00\x00\x7f"):
        with pytest.raises(DatasetError, match="another size than its shape"):
            pickles.load(raw.replace(b"M\x2c\x01", size, 1), "x")


def test_lists_that_hold_themselves_end() -> None:
    found: list[Any] = [1]
    found.append(found)
    again = pickles.load(pickle.dumps(found), "x")
    assert again[1] is again
    nested: Any = []
    for _ in range(200):  # 2^200 leaves for whoever walks it; only references here
        nested = [nested, nested]
    assert len(pickles.load(pickle.dumps({"data": nested}), "x")["data"]) == 2


def test_a_pickle_of_too_many_opcodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100)
    with pytest.raises(DatasetError, match="more than 100 opcodes"):
        pickles.load(pickle.dumps(list(range(200))), "x")


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ([1, 2], "holds a list"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, "no uint8 array"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "no uint8 array"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "no list of 2 numbers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}, "no list of 2 numbers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "not one of the 10 classes"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, "not one of the 10 classes"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "not one of the 10 classes"),
        ({"labels": [0, 1]}, "no uint8 array"),
    ],
)
def test_batches_that_are_none_are_refused(tmp_path: Path, batch: Any, words: str) -> None:
    folder, _ = ten(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch))
    with pytest.raises(DatasetError, match=rf"data_batch_3.*{words}"):
        datasets.load(folder, "train")


def test_a_cut_batch_and_a_missing_one_are_named(tmp_path: Path) -> None:
    folder, _ = ten(tmp_path)
    whole = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="data_batch_2: a damaged pickle"):
        datasets.load(folder, "train")
    (folder / "data_batch_2").unlink()
    with pytest.raises(DatasetError, match="data_batch_2: no such file"):
        datasets.load(folder, "train")


def test_two_data_sets_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    ten(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"several data sets .*cifar-10-batches-py, MNIST/raw"):
        datasets.load(tmp_path, "train")
