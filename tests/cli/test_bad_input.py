"""What can be wrong with what a person gives: a typed error, its exit code, one line, nothing left behind."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fheinfer import machine as memory
from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.params import parameter_set
from fheinfer.data import images
from fheinfer.model import ops
from fheinfer.model.builder import GraphBuilder
from tests.conftest import random_model

Refused = Callable[..., None]
SET = ("--set", "insecure-tiny")
MODEL = ("--model", "tiny.safetensors")
INFER = ("infer", *SET, *MODEL)
KEYGEN = ("keygen", *SET, *MODEL)


@pytest.fixture
def evaluate(desk: Any, tiny_input_file: Path) -> tuple[object, ...]:
    return ("evaluate", "--keys", desk.server, "--plan", "plan", "-i", tiny_input_file, "-o", "out.ct")


def replace(path: Path, data: bytes) -> None:
    """A new file of that name and mode: the old one is a hard link."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    at = len(data) * 2 // 3
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


DAMAGE = pytest.mark.parametrize(
    "damage",
    [truncate, flip, lambda data: b"", lambda data: data + b"\0"],
    ids=["truncated", "flipped", "empty", "extended"],
)


# Images


@pytest.mark.parametrize(
    "start",
    [("encrypt", *SET, "-o", "in.ct"), INFER, (*INFER, "--backend", "slots")],
    ids=["encrypt", "infer", "slots"],
)
def test_images(refused: Refused, desk: Any, start: tuple[object, ...]) -> None:
    refused(3, "none.png: no such image", *start, "--image", "none.png")
    refused(3, "a folder, not an image", *start, "--image", "keys")
    refused(3, "not an image", *start, "--image", "tiny.safetensors")
    (desk.folder / "half.png").write_bytes(truncate(desk.image.read_bytes()))
    refused(3, "damaged or truncated image", *start, "--image", "half.png")


def test_an_image_bomb(refused: Refused, desk: Any) -> None:
    """A PNG of a few bytes that declares 30,000 x 30,000 pixels, 2.7 GB of them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (desk.folder / "bomb.png").write_bytes(png)
    refused(3, "megapixels", *INFER, "--image", "bomb.png")


# Keys


@DAMAGE
@pytest.mark.parametrize("name", ["manifest.json", "public.key", "relinearisation.key", "to_sparse.key", "rotation"])
def test_damaged_server_keys(
    refused: Refused, desk: Any, evaluate: tuple[object, ...], name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = next(desk.server.glob("rotation_*")) if name == "rotation" else desk.server / name
    if name == "manifest.json" and damage(b"xx") == b"xx\0":
        replace(path, path.read_bytes() + b"}")
    else:
        replace(path, damage(path.read_bytes()) if name != "manifest.json" or damage is not flip else b'{"format": 1}')
    if name == "public.key":
        desk.secret.unlink()  # with it, the public key is not read
        refused(4, "public.key", "encrypt", *SET, "--image", "tiny.png", "-o", "in.ct")
    else:
        refused(4, path.name, *evaluate)


@DAMAGE
def test_a_damaged_secret(
    refused: Refused, desk: Any, tiny_result_file: Path, damage: Callable[[bytes], bytes]
) -> None:
    replace(desk.secret, damage(desk.secret.read_bytes()))
    refused(4, "secret.key", "decrypt", *SET, tiny_result_file)
    refused(4, "secret.key", *INFER, "--image", "tiny.png")


def test_damaged_server_keys_reach_the_client_as_the_same_error(refused: Refused, desk: Any) -> None:
    """`infer` evaluates in another process: its error arrives under its own type, and the run it began is gone."""
    path = desk.server / "relinearisation.key"
    replace(path, flip(path.read_bytes()))
    refused(4, "relinearisation.key", *INFER, "--image", "tiny.png")


def test_a_secret_that_others_can_read(refused: Refused, desk: Any, tiny_result_file: Path) -> None:
    replace(desk.secret, desk.secret.read_bytes())
    desk.secret.chmod(0o644)
    refused(5, "chmod 600", "decrypt", *SET, tiny_result_file)


def test_missing_keys(refused: Refused, desk: Any, tiny_input_file: Path, tiny_result_file: Path) -> None:
    refused(5, "no keys in", *INFER, "--keys", "nothing", "--image", "tiny.png")
    refused(5, "no keys in", "decrypt", "--keys", "nothing", tiny_result_file)
    refused(5, "no keys in", "evaluate", "--keys", "keys", "--plan", "plan", "-i", tiny_input_file, "-o", "out.ct")
    refused(5, "no keys in", "export", "out", "--keys", "nothing")
    next(desk.server.glob("rotation_*")).unlink()
    refused(5, "rotation_", "evaluate", "--keys", desk.server, "--plan", "plan", "-i", tiny_input_file, "-o", "out.ct")


def forged(source: Path, kind: Kind, **change: Any) -> bytes:
    """The same file with another parameter set or key in its header, and a checksum to match."""
    found = artifact.read(source, kind=kind, max_body=1 << 30)
    fields = {"identity": found.identity, "key_id": found.key_id, **change}
    return artifact.to_bytes(Artifact(kind, fields["identity"], fields["key_id"], found.metadata, bytes(found.body)))


OTHER_SET = {"identity": parameter_set(2).identity}
OTHER_KEY = {"key_id": "0f" * 16}


@pytest.mark.parametrize(
    ("change", "says"), [(OTHER_SET, "another parameter set"), (OTHER_KEY, "another key")], ids=["set", "key"]
)
def test_keys_of_another_set_or_owner(
    refused: Refused, desk: Any, evaluate: tuple[object, ...], tiny_result_file: Path, change: dict[str, Any], says: str
) -> None:
    replace(desk.secret, forged(desk.secret, Kind.SECRET_KEY, **change))
    refused(4, says, "decrypt", *SET, tiny_result_file)
    path = desk.server / "conjugation.key"
    replace(path, forged(path, Kind.CONJUGATION_KEY, **change))
    refused(4, says, *evaluate)


def test_a_folder_of_keys_of_another_set(refused: Refused, desk: Any) -> None:
    refused(
        4,
        "these are of set insecure-tiny (native)",
        *("infer", *SET, *MODEL, "--backend", "openfhe", "--keys", desk.keys, "--image", "tiny.png"),
    )


def test_keys_are_not_replaced_without_force(refused: Refused, desk: Any) -> None:
    refused(5, "--force", *KEYGEN)


# Ciphertexts


@DAMAGE
def test_damaged_ciphertexts(
    refused: Refused, desk: Any, tiny_input_file: Path, tiny_result_file: Path, damage: Callable[[bytes], bytes]
) -> None:
    (desk.folder / "bad.ct").write_bytes(damage(tiny_input_file.read_bytes()))
    refused(4, "", "evaluate", "--keys", desk.server, "--plan", "plan", "-i", "bad.ct", "-o", "out.ct")
    (desk.folder / "bad.ct").write_bytes(damage(tiny_result_file.read_bytes()))
    refused(4, "", "decrypt", *SET, "bad.ct")
    refused(4, "bad.ct", "export", "out", *SET, "--ciphertext", "bad.ct")


@pytest.mark.parametrize(
    ("change", "says"), [(OTHER_SET, "another parameter set"), (OTHER_KEY, "another key")], ids=["set", "key"]
)
def test_ciphertexts_of_another_set_or_key(
    refused: Refused, desk: Any, tiny_input_file: Path, tiny_result_file: Path, change: dict[str, Any], says: str
) -> None:
    (desk.folder / "bad.ct").write_bytes(forged(tiny_input_file, Kind.CIPHERTEXT, **change))
    refused(4, says, "evaluate", "--keys", desk.server, "--plan", "plan", "-i", "bad.ct", "-o", "out.ct")
    (desk.folder / "bad.ct").write_bytes(forged(tiny_result_file, Kind.CIPHERTEXT, **change))
    refused(4, says, "decrypt", *SET, "bad.ct")


def test_files_mistaken_for_one_another(
    refused: Refused, desk: Any, tiny_input_file: Path, tiny_result_file: Path
) -> None:
    says = "input.ct: this ciphertext is an encrypted input; decrypt what `fheinfer evaluate` wrote"
    refused(4, says, "decrypt", *SET, tiny_input_file)
    refused(
        4,
        "name the plan that it was encrypted for with --plan, or encrypt it again",
        "evaluate",
        "--keys",
        desk.server,
        "--plan",
        "plan",
        "-i",
        tiny_result_file,
        "-o",
        "o.ct",
    )
    refused(4, "secret key, not a ciphertext", "decrypt", *SET, desk.secret)
    refused(4, "not a key or ciphertext", "decrypt", *SET, desk.image)
    refused(4, "not a regular file, and a ciphertext was expected there", "decrypt", *SET, desk.keys)
    for cut, says in ((tiny_result_file.read_bytes()[:5], "incomplete"), (b"", "empty")):
        (desk.folder / "cut.ct").write_bytes(cut)
        refused(4, says, "decrypt", *SET, "cut.ct")
    refused(
        3, "a file with the passphrase was expected", "decrypt", *SET, tiny_result_file, "--passphrase-file", "keys"
    )
    refused(4, "larger than", "decrypt", *SET, desk.server / "relinearisation.key")


def test_missing_ciphertexts(refused: Refused, desk: Any) -> None:
    refused(3, "none.ct: no such file", "decrypt", *SET, "none.ct")
    refused(
        3, "none.ct: no such file", "evaluate", "--keys", desk.server, "--plan", "plan", "-i", "none.ct", "-o", "out.ct"
    )


# Weights, sets, networks


def rewritten(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    with safe_open(path, framework="np") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    tensors[name] = change(tensors[name])
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: np.ascontiguousarray(a[:, :-1]), "expected floats"),
        (lambda a: np.full_like(a, np.nan), "holds NaN"),
        (lambda a: np.full_like(a, np.inf), "holds NaN or infinite"),
        (lambda a: a.astype(np.int32), "expected floats"),
        (lambda a: a + 1, "changed since it was written"),
    ],
    ids=["shape", "nan", "infinite", "integers", "changed"],
)
def test_weights(
    refused: Refused, desk: Any, evaluate: tuple[object, ...], change: Callable[[Any], Any], says: str
) -> None:
    rewritten(desk.model, "layer1.0.conv1.weight", change)
    refused(3, says, *INFER, "--image", "tiny.png")
    refused(3, says, "evaluate", *SET, *MODEL, *evaluate[1:3], *evaluate[5:])
    refused(3, says, "compile", "tiny.safetensors", *SET)
    refused(3, says, "plan", *SET, *MODEL)


def test_weights_files_that_are_no_weights(refused: Refused, desk: Any) -> None:
    for name, says in (
        ("none.safetensors", "none.safetensors"),
        ("tiny.png", "no model of fheinfer"),
        ("keys", "keys"),
    ):
        refused(3, says, "infer", *SET, "--model", name, "--image", "tiny.png")
    (desk.folder / "half.safetensors").write_bytes(truncate(desk.model.read_bytes()))
    refused(3, "no model of fheinfer", "plan", *SET, "--model", "half.safetensors")
    refused(3, "tiny.png: ", "model", "import", "tiny.png", "-o", "new.safetensors")


def test_unknown_names(refused: Refused, desk: Any, tiny_result_file: Path) -> None:
    says = "no parameter set '9'; there are 1, 2, 3, 4"
    refused(2, says, "infer", "--set", "9", *MODEL, "--image", "tiny.png")
    refused(2, says, "keygen", "--set", "9")
    refused(2, says, "plan", "--set", "9", *MODEL)
    refused(2, says, "decrypt", "--set", "9", tiny_result_file)
    refused(2, says, "export", "out", "--set", "9")
    says = "no rotation keys of the kind 'new'; there are "
    refused(2, says, *KEYGEN, "--rotations", "new", "-o", "other")
    refused(2, says, "plan", *SET, *MODEL, "--rotations", "new")
    refused(2, "--set 1+minimax:7: an activation is no part of a set", "plan", "--set", "1+minimax:7")
    refused(2, "say --set 1 --act f1g2", "infer", "--set", "1+f1g2", "--image", "tiny.png")
    refused(2, "no network called 'resnet21'", "plan", *SET, "--network", "resnet21")
    says = "no backend 'gpu'; there are native, openfhe"
    refused(2, f"{says}, slots", *INFER, "--image", "tiny.png", "--backend", "gpu")
    refused(2, says, "plan", *SET, *MODEL, "--backend", "gpu")


def test_a_network_that_does_not_fit_the_set(refused: Refused, desk: Any) -> None:
    """A row of pixels is never cut: one longer than the slots has no packing."""
    g = GraphBuilder("wide", (1, 1, 1024))
    g.add("output", ops.Relu(), "input")
    random_model(g.build(), 1).save(desk.folder / "wide.safetensors")
    refused(7, "a row of 1024 pixels needs 1024 slots", "plan", *SET, "--model", "wide.safetensors")
    refused(7, "a row of 1024 pixels needs 1024 slots", "keygen", *SET, "--model", "wide.safetensors", "-o", "new")
    refused(7, "a row of 1024 pixels needs 1024 slots", "compile", "wide.safetensors", *SET, "-o", "new")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--ring", 11), "12 to 16, not 11"),
        (("--ring", 17), "12 to 16, not 17"),
        (("--chain", "weird"), "one of plain, composite, not 'weird'"),
        (("--digits", -1), "digits: 1 to 20, not -1"),
        (("--levels", 0), "levels: 1 to 100, not 0"),
        (("--scale-bits", 99), "bits of the scale: 18 to 47, not 99"),
        (("--slots", 1000), "'1000' is no number of slots"),
        (("--ring", 13, "--slots", 8192), "slots at N = 2^13: 1 to 12, not 13"),
        (("--bootstraps", "--ring", 13), "only plain chains at N = 2^16 bootstrap"),
        ((*SET, "--no-bootstraps"), "--bootstraps changes nothing here: a named set"),
    ],
)
def test_choices_that_no_set_has(refused: Refused, desk: Any, given: tuple[object, ...], says: str) -> None:
    refused(2, says, "compile", "tiny.safetensors", *given, "-o", "new")


def test_a_network_that_fits_none_of_the_sets_that_were_asked_for(refused: Refused, desk: Any) -> None:
    compile_ = ("compile", "tiny.safetensors", "-o", "new")
    refused(6, "no parameter set runs this network within 1 MB: the smallest, n16-", *compile_, "--memory", "1MB")
    says = "fits no ring of N = 2^12 to 2^16 at 128 bits with ring as asked: it takes "
    refused(7, says, *compile_, "--ring", 12)
    refused(7, "of which 'relu1' takes 6; leave that open, or take a polynomial", *compile_, "--ring", 12)
    refused(7, "with ring, bootstraps as asked", *compile_, "--ring", 12, "--no-bootstraps")


def test_plan_takes_no_limits_that_change_nothing(refused: Refused, desk: Any) -> None:
    refused(2, "12 to 16, not 11", "plan", *MODEL, "--ring", 11)
    refused(2, "--memory changes nothing here: it is part of the plan", "plan", "--plan", "plan", "--memory", "1GB")
    refused(2, "--levels changes nothing here: a named set", "plan", *SET, *MODEL, "--levels", 3)
    refused(2, "--ring changes nothing here: --network", "plan", "--network", "resnet8-tiny", "--ring", 13)


def test_nothing_to_resume(refused: Refused, desk: Any, evaluate: tuple[object, ...]) -> None:
    refused(3, "nothing to resume", *INFER, "--image", "tiny.png", "--resume")
    refused(2, "--checkpoints", *evaluate, "--resume")
    refused(2, "--checkpoints", *evaluate, "--keep-layers")


# The machine


def test_too_little_memory_is_said_before_anything_is_made(
    refused: Refused, desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 29)
    spec = ClientSpec.load(desk.plan)
    spec.model_copy(update={"params": parameter_set(1)}).save(desk.folder / "client.json")
    refused(6, "GiB of memory and 0.5 GiB are free", "keygen", "client.json", "-o", "new")


def test_too_little_disk_is_said_before_anything_is_made(
    refused: Refused, desk: Any, disk: Callable[[str], Path]
) -> None:
    small = disk("size=20m")
    refused(6, "its disk has", *KEYGEN, "-o", small / "keys")
    assert list(small.iterdir()) == []


def test_a_disk_that_fills_up(
    refused: Refused,
    desk: Any,
    disk: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    evaluate: tuple[object, ...],
) -> None:
    small = disk("size=20m")
    # `fheinfer.crypto.keygen` is the function; the module of that name is behind it.
    monkeypatch.setattr(sys.modules["fheinfer.crypto.keygen"], "require_disk", lambda path, size: None)
    refused(6, "the disk is full", *KEYGEN, "-o", small / "keys")
    assert list(small.iterdir()) == []
    tiny = disk("size=16k")
    refused(6, "the disk is full", "encrypt", *SET, "--image", "tiny.png", "-o", tiny / "in.ct")
    refused(6, "its disk has 0.02 MB free", *evaluate[:-1], tiny / "out.ct")  # asked before it computes
    refused(6, "the disk is full", *INFER, "--image", "tiny.png", "--runs", tiny / "runs")
    refused(6, "the disk is full", "export", tiny / "out", *SET)
    assert list(tiny.iterdir()) == []


@pytest.fixture
def read_only(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    if os.geteuid() == 0:  # permissions do not stop root
        disk: Callable[[str], Path] = request.getfixturevalue("disk")
        return disk("ro")
    (tmp_path / "closed").mkdir(mode=0o500)
    return tmp_path / "closed"


def test_a_read_only_folder(refused: Refused, desk: Any, read_only: Path, evaluate: tuple[object, ...]) -> None:
    says = "cannot write in"
    refused(6, says, *KEYGEN, "-o", read_only / "keys")
    refused(6, says, "encrypt", *SET, "--image", "tiny.png", "-o", read_only / "in.ct")
    refused(6, says, *evaluate[:-1], read_only / "out.ct")
    refused(6, says, *evaluate, "--checkpoints", read_only / "run")
    refused(6, says, *INFER, "--image", "tiny.png", "--runs", read_only / "runs")
    refused(6, says, "export", read_only / "out", *SET)
    refused(6, says, "precision", *SET, *MODEL, "--image", "tiny.png", "--plot", read_only / "bits.png")
    refused(6, "cannot write", "model", "import", "tiny.safetensors", "-o", read_only / "w.safetensors")
    refused(6, says, "compile", "tiny.safetensors", *SET, "-o", read_only / "plan")


def test_a_folder_that_is_a_file(refused: Refused, desk: Any, evaluate: tuple[object, ...]) -> None:
    refused(5, "", *KEYGEN, "-o", "tiny.png")
    refused(6, "", "encrypt", *SET, "--image", "tiny.png", "-o", "tiny.png/in.ct")
    refused(6, "", *evaluate[:-1], "tiny.png/out.ct")
    refused(6, "", *INFER, "--image", "tiny.png", "--runs", "tiny.png")
    refused(6, "", "export", "tiny.png", *SET)


def test_a_stop_is_not_an_error_of_the_program(
    refused: Refused, command: Callable[..., Any], desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "read_image", stop)
    refused(130, "stopped; `fheinfer infer --resume` goes on", *INFER, "--image", "tiny.png")
    monkeypatch.setattr("fheinfer.model.model.load", stop)
    assert command("compile", "tiny.safetensors", "-o", "new").err == "error: stopped\n"


def test_errors_of_a_process_are_one_line_without_a_traceback(desk: Any, process: Callable[..., Any]) -> None:
    result = process("decrypt", *SET, "none.ct", cwd=desk.folder)
    assert (result.code, result.out) == (3, "")
    assert result.err.splitlines() == ["error: none.ct: no such file; check the path"]
