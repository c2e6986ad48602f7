"""`fheinfer model import` and `show`, and what an option that changes nothing gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.cli.options import parse_size
from fheinfer.errors import UsageError
from fheinfer.model.model import Model
from tests.cli.conftest import Desk
from tests.conftest import random_model

Command = Callable[..., Any]
SET = ("--set", "insecure-tiny")


def test_show(command: Command, desk: Desk, tiny_model: Model) -> None:
    done = command("model", "show", "tiny.safetensors", "--json")
    found = json.loads(done.out)
    assert found["identity"] == tiny_model.identity
    assert found["ranges"] == pytest.approx(dict(tiny_model.ranges))
    assert found["classes"] == [str(i) for i in range(10)]
    assert "layer1.0.relu1" in command("model", "show", "tiny.safetensors").out


def test_import_says_what_it_assumes(command: Command, desk: Desk, tiny_model: Model) -> None:
    np.savez(desk.folder / "plain.npz", **tiny_model.tensors)  # type: ignore[arg-type]
    done = command("model", "import", "plain.npz", "-o", "new.safetensors", "--network", "resnet8-tiny")
    assert done.code == 0, done.err
    assert "assumed to be normalised with mean 0.4914, 0.4822, 0.4465" in done.err
    assert "measure them with `fheinfer calibrate new.safetensors --data PATH`" in done.out
    found = fheinfer.load_model(desk.folder / "new.safetensors")
    assert found.tensors.keys() == tiny_model.tensors.keys()
    assert found.ranges == {}


def test_import_with_normalisation_and_classes(command: Command, desk: Desk, tiny_model: Model) -> None:
    np.savez(desk.folder / "plain.npz", **tiny_model.tensors)  # type: ignore[arg-type]
    names = [f"kind {i}" for i in range(10)]
    (desk.folder / "names.txt").write_text("\n".join(names))
    (desk.folder / "names.json").write_text(json.dumps(names))
    for classes in ("names.txt", "names.json", ",".join(names)):
        done = command(
            *("model", "import", "plain.npz", "-o", "new.safetensors", "--network", "resnet8-tiny"),
            *("--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.25", "--classes", classes),
        )
        assert done.code == 0, done.err
        assert "assumed" not in done.err
        found = fheinfer.load_model(desk.folder / "new.safetensors")
        assert (found.mean, found.std, list(found.classes)) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.25), names)


def test_two_classes_of_one_name_are_refused(refused: Callable[..., None], desk: Desk) -> None:
    where = ("model", "import", "tiny.safetensors", "-o", "new.safetensors")
    refused(2, "--classes has 'cat' twice; give each class a name of its own", *where, "--classes", "cat,dog,cat")


def test_another_number_of_classes_is_what_the_file_says(command: Command, desk: Desk) -> None:
    from fheinfer.frontends import zoo

    model = random_model(zoo.network("resnet8-tiny", 100), 3)
    np.savez(desk.folder / "plain.npz", **model.tensors)  # type: ignore[arg-type]
    done = command("model", "import", "plain.npz", "-o", "new.safetensors", "--network", "resnet8-tiny")
    assert done.code == 0, done.err
    assert len(fheinfer.load_model(desk.folder / "new.safetensors").classes) == 100


def test_a_checkpoint_that_was_not_imported_says_what_to_run(
    refused: Callable[..., None], desk: Desk, tiny_model: Model
) -> None:
    np.savez(desk.folder / "net.npz", **tiny_model.tensors)  # type: ignore[arg-type]
    refused(3, "fheinfer model import", "infer", *SET, "--model", "net.npz", "--image", "tiny.png")


@pytest.mark.parametrize("arguments", [("--mean", "0.5,0.5,0.5"), ("--mean", "a,b,c", "--std", "1,1,1")])
def test_normalisation_that_cannot_be(refused: Callable[..., None], desk: Desk, arguments: tuple[str, ...]) -> None:
    refused(2, "--mean", "model", "import", "tiny.safetensors", "-o", "new.safetensors", *arguments)


@pytest.mark.parametrize(
    ("says", "arguments"),
    [
        ("--set", ("infer", "--plan", "plan", *SET, "--image", "tiny.png")),
        ("--act", ("infer", "--plan", "plan", "--act", "relu:27", "--image", "tiny.png")),
        ("--model", ("infer", "--plan", "plan", "--model", "tiny.safetensors", "--image", "tiny.png")),
        ("name it with --model", ("infer", "--plan", "plan", "--plain", "--image", "tiny.png")),
        ("--keys", ("infer", "--plan", "plan", "--backend", "slots", "--keys", "keys", "--image", "tiny.png")),
        ("--resume", ("infer", "--plan", "plan", "--backend", "slots", "--resume", "--image", "tiny.png")),
        ("--threads", ("infer", "--plan", "plan", "--backend", "slots", "--threads", "2", "--image", "tiny.png")),
        ("--set", ("keygen", "plan", *SET)),
        ("--rotations", ("keygen", "plan", "--add", "--rotations", "fast")),
        ("--force", ("keygen", "plan", "--add", "--force")),
        ("--set", ("encrypt", *SET, "--keys", "keys/setinsecure-tiny", "--image", "tiny.png", "-o", "in.ct")),
        ("--set", ("decrypt", *SET, "--client", "plan", "tiny.png")),
        ("--passphrase-file", ("export", "out", *SET, "--passphrase-file", "tiny.png")),
        ("--margin", ("plan", "--plan", "plan", "--margin", "2")),
        ("--keys", ("accuracy", *SET, "--keys", "keys")),
        ("--seed", ("accuracy", *SET, "--seed", "3")),
        ("--threads", ("infer", "--plan", "plan", "--threads", "0", "--image", "tiny.png")),
        ("-x; see `fheinfer infer --help`", ("infer", "-x")),
        ("no size", ("infer", "--plan", "plan", "--memory", "much", "--image", "tiny.png")),
        ("an image by --image, or an array", ("encrypt", *SET, "-o", "in.ct")),
        ("--depth changes nothing", ("encrypt", *SET, "--image", "tiny.png", "--depth", "12", "-o", "in.ct")),
        ("--depth changes nothing", ("encrypt", *SET, "--input", "none.npy", "--depth", "12", "-o", "in.ct")),
        ("--depth changes nothing", ("infer", "--plan", "plan", "--images", ".", "--depth", "12")),
        ("--depth", ("infer", "--plan", "plan", "--image", "tiny.png", "--depth", "33")),
    ],
)
def test_options_that_change_nothing_or_cannot_be(
    refused: Callable[..., None], desk: Desk, says: str, arguments: tuple[str, ...]
) -> None:
    refused(2, says, *arguments)


def test_memory_bounds_what_evaluating_takes(command: Command, desk: Desk) -> None:
    given = ("infer", "--plan", "plan", "--image", "tiny.png", "--json", "--memory")
    done = command(*given, "1MB")
    assert (done.code, "memory" in done.err) == (6, True), done.err
    assert command(*given, "2GB", "--threads", 1).code == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GB", 6 * 10**9), ("500MB", 5 * 10**8), ("500 mb", 5 * 10**8), ("2GiB", 2**31), ("1.5kB", 1500), ("77", 77)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "6 TB", "6ib", "1e9", "GB", "9" * 40])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"not an array", b"\x93NUMPY\x01\x00\xff\xff{}", b"\x93NUMPY\x09\x00\x00\x00"]
)
def test_arrays_that_are_none(refused: Callable[..., None], desk: Desk, content: bytes) -> None:
    (desk.folder / "x.npy").write_bytes(content)
    refused(3, "x.npy: no array of numpy", "encrypt", *SET, "--input", "x.npy", "-o", "in.ct")


def test_arrays_that_do_not_fit(refused: Callable[..., None], desk: Desk) -> None:
    import os

    cases: list[tuple[Any, int, str]] = [
        (np.zeros((3, 9, 9)), 3, "float64 (3, 9, 9)"),
        (np.array([{}]), 3, "no array of numpy"),
        (np.zeros((3, 8, 8), complex), 3, "complex128"),
        (np.full((3, 8, 8), np.nan), 3, "NaN"),
        (np.full((3, 8, 8), 255.0), 8, "normalise it first"),
    ]
    for array, code, says in cases:
        np.save("x.npy", array, allow_pickle=True)
        refused(code, says, "encrypt", *SET, "--input", "x.npy", "-o", "in.ct")
    header = b"\x93NUMPY\x01\x00" + (70).to_bytes(2, "little")
    header += f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**12},)}}".ljust(69).encode() + b"\n"
    Path("x.npy").write_bytes(header)
    refused(3, "no array of numpy", "encrypt", *SET, "--input", "x.npy", "-o", "in.ct")
    Path("x.npy").unlink()
    os.mkfifo("x.npy")
    refused(3, "a pipe, socket or device", "encrypt", *SET, "--input", "x.npy", "-o", "in.ct")
