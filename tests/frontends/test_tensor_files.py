"""Files that are no plain tensors are refused in one line that says what to do, and no code in them runs."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fheinfer.errors import WeightsError
from fheinfer.frontends import tensor_files as module
from fheinfer.frontends.checkpoints import read_checkpoint
from tests.data.files import NO_FILES

fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(path: Path, words: str) -> str:
    with pytest.raises(WeightsError, match=words) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    assert path.name[:20] in message or not path.name.isprintable()
    return message


def network(torch: Any) -> Any:
    """With one parameter under a name with a dot and one without."""
    made = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    made.register_buffer("scale", torch.ones(2))
    return made


OBJECTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "namespace": (lambda t: {"net": network(t).state_dict(), "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    "numpy": (lambda t: {"net": network(t).state_dict(), "acc": np.float64(92.7)}, "numpy"),
    "beside": (lambda t: {**network(t).state_dict(), "acc": np.float64(92.7)}, "numpy"),
    "module": (network, "torch.nn.modules"),
    "protocol": (lambda t: {"net": network(t).state_dict()}, "unusual pickle"),
    "entry": (lambda t: {"model": network(t), "epoch": 3}, "torch.nn.modules"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("name", ["w.pth.tar", os.fsdecode(b"caf\xe9.pt")], ids=ascii)
def test_the_two_lines_make_a_plain_file(tmp_path: Path, kind: str, new_format: bool, name: str) -> None:
    torch = pytest.importorskip("torch")
    content, words = OBJECTS[kind]
    path = tmp_path / name
    options = {"pickle_protocol": 4} if kind == "protocol" else {}
    torch.save(content(torch), path, _use_new_zipfile_serialization=new_format, **options)
    message = refused(path, re.escape(words))
    assert "[" not in message.partition("import torch")[0].replace(str(tmp_path), "")
    code = message[message.index("import torch; ") :]
    exec(code, {})
    (plain,) = tmp_path.glob("*-plain.pt")
    found = read_checkpoint(plain).arrays
    assert found.keys() == {"0.weight", "0.bias", "scale"}
    assert found["0.weight"].shape == (3, 2)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused_with_its_two_lines(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.jit.script(network(torch)).save(tmp_path / "w.pt")
    message = refused(tmp_path / "w.pt", "a TorchScript program")
    exec(message[message.index("import torch; ") :], {})
    assert "0.weight" in read_checkpoint(tmp_path / "w-plain.pt").arrays


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "npz"])
def test_no_code_of_a_file_runs(tmp_path: Path, how: str) -> None:
    torch = pytest.importorskip("torch")
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "w.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(trap))
    elif how == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.array([trap], dtype=object))
    else:
        torch.save({"net": trap}, path, _use_new_zipfile_serialization=how == "zip")
    refused(path, r"w\.pt: ")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    NO_FILES[kind](tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "no such|symbolic links|not a file of weights")


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, os.fsdecode(b"\xff"), "two\nlines"], ids=ascii)
def test_a_name_that_cannot_be_is_one_printable_line(tmp_path: Path, name: str) -> None:
    refused(tmp_path / name, ": ")


def tar(names: list[str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in names:
            made.writestr(name, b"{}")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\x08\x07\x12\x07pytorch", "no kind of weights file"),
        (b"\x93NUMPY\x01\x00", "one array without a name"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip; unpack"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
        (tar(["w.pth", "readme"]), r"a tar archive \(w\.pth, readme\); unpack"),
        (tar(["sys_info", "pickle", "tensors", "storages"]), "oldest format.*import torch; c = torch.load"),
        (tar(["a"])[:300], "tar|no kind"),
        (archive("w.pth"), "a zip archive; unpack"),
        (archive("config.json", "model.weights.h5"), "a Keras file"),
        (archive(), "without arrays"),
        (archive("a.npy"), "not a whole archive"),
        (archive("x/data.pkl"), "not a whole file of torch.save"),
        (struct.pack("<Q", 2**62) + b"{}", "not a whole safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "no tensors by name|no tensor of real numbers"),
        (struct.pack("<Q", 100_000) + b'{"a":' * 20_000, "not a whole safetensors file"),
    ],
    ids=range(19),
)
def test_other_files_are_told_by_their_content(tmp_path: Path, content: bytes, words: str) -> None:
    pytest.importorskip("torch")
    (tmp_path / "w.pt").write_bytes(content)
    refused(tmp_path / "w.pt", words)


def tensors(torch: Any) -> dict[str, Any]:
    return {
        "sparse": torch.eye(3).to_sparse(),
        "expanded": torch.zeros(1).expand(2**40),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "meta": torch.empty(3, device="meta"),
        "nan": torch.tensor([1.0, float("nan")]),
        "infinite": torch.tensor([1.0, float("-inf")]),
        "wide": torch.tensor([1e300], dtype=torch.float64),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sparse", "expanded", "quantised", "meta", "nan", "infinite", "wide", "nested"])
def test_a_tensor_that_is_not_dense_and_finite_is_named(tmp_path: Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"ok.weight": torch.ones(2), f"{kind}.weight": tensors(torch)[kind]}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", rf"w\.pt: .*({kind}\.weight|GLOBAL|not a whole|Python objects)")


def test_many_views_of_one_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("fheinfer.frontends.checkpoints.MAX_BYTES", 4 * 10_000)
    torch.save({f"a.{i}": torch.zeros(1).expand(1000) for i in range(11)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "holds more than")


def test_complex_numbers_are_left_off(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a.weight": torch.ones(2), "b": torch.ones(2, dtype=torch.complex64)}, tmp_path / "w.pt")
    assert read_checkpoint(tmp_path / "w.pt").notes == ("ignored, as no weights: b (complex64)",)


def test_float8_in_safetensors_is_named(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    refused(tmp_path / "w", "tensor 'a' is of type F8_E4M3")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_of_far_more_than_tensors_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_format: bool
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(module, "_MAX_PICKLE", 10_000)
    torch.save(
        {"a.weight": torch.ones(2), "log": list(range(5000))},
        tmp_path / "w.pt",
        _use_new_zipfile_serialization=new_format,
    )
    refused(tmp_path / "w.pt", "far more than tensors")


def test_a_name_of_many_parts_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    save_file({"a." * 100_000: np.ones(2, np.float32)}, tmp_path / "w")
    refused(tmp_path / "w", "200,000 characters; 500 are read")


def test_a_pickle_that_holds_itself_ends(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    loop: dict[str, Any] = {"epoch": 3}
    loop["self"] = loop
    torch.save(loop, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "holds no tensors by name")


@pytest.mark.parametrize("content", [[1.0], 3, "text", {}, {"a": 1}, {1: 2}], ids=str)
def test_what_holds_no_tensors_says_so(tmp_path: Path, content: Any) -> None:
    pytest.importorskip("torch").save(content, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "holds no tensors by name")


def test_archives_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(1_000_000))
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    assert (tmp_path / "b.pt").stat().st_size < 100_000
    for name in ("w.npz", "b.pt"):
        refused(tmp_path / name, "unpacks to more than")


def test_an_archive_of_too_many_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").write_bytes(archive(*(f"{i}.npy" for i in range(100))))
    refused(tmp_path / "w", "not a whole archive")
    monkeypatch.setattr(module, "_MAX_DIRECTORY", 1000)
    refused(tmp_path / "w", "too many files")


def test_the_directory_of_a_zip64_archive_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive("a.npy")
    end = content.rindex(b"PK\5\6")
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**30, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    (tmp_path / "w").write_bytes(content[:end] + record + locator + content[end:])
    refused(tmp_path / "w", "too many files")


def test_an_array_that_promises_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as made:
        made.writestr("a.npy", header.getvalue())
    refused(tmp_path / "w.npz", "promises more than it holds")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "w").touch()
    os.truncate(tmp_path / "w", 2**40)
    refused(tmp_path / "w", "more than the 536,870,912")


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save

    arrays = {f"layer{i}.weight": np.full((3, 2), i, np.float32) for i in range(4)}
    made = {"safetensors": save(arrays)}
    for name, new_format in (("zip", True), ("legacy", False)):
        file = io.BytesIO()
        torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, file, _use_new_zipfile_serialization=new_format)
        made[name] = file.getvalue()
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return made | {"npz": file.getvalue()}


@fuzz
@given(st.sampled_from(["safetensors", "zip", "legacy", "npz"]), st.data())
def test_truncated_or_damaged_files_never_crash(
    tmp_path: Path, whole: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    content = bytearray(whole[kind])
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "w").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_checkpoint(tmp_path / "w")
    except WeightsError as error:
        assert str(error).isprintable()
    else:
        assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in found.arrays.values())


@fuzz
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x80\x02", b"PK\3\4", b"\1\0\0\0\0\0\0\0{", b"\x80\x04\x95"]))
def test_random_bytes_never_crash(tmp_path: Path, content: bytes, start: bytes) -> None:
    (tmp_path / "w").write_bytes(start + content)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(tmp_path / "w")
    assert str(caught.value).isprintable()
