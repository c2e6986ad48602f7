"""What the commands of a client and of a server import, and what they need on the disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Desk

Process = Callable[..., Any]
RUN = """
import json, sys
from fheinfer.cli import main
try:
    main.main()
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted(sys.modules)]))
"""
CLIENT = ("fheinfer.model", "fheinfer.compiler", "fheinfer.approx", "fheinfer.server", "fheinfer.runtime.executor")


def modules(process: Process, folder: Path, *arguments: object) -> list[str]:
    """What a command imported; it has to succeed. The last line of its output is not its own."""
    code = RUN.replace("import json, sys\n", f"import json, sys\nsys.argv = {['fheinfer', *map(str, arguments)]!r}\n")
    done = process(python=code, cwd=folder)
    found = json.loads(done.out.splitlines()[-1])
    assert found[0] == 0, done.err
    return [str(name) for name in found[1]]


def loaded(names: list[str], *packages: str) -> list[str]:
    return [name for name in names for package in packages if name == package or name.startswith(f"{package}.")]


@pytest.fixture
def client_folder(desk: Desk, tmp_path: Path) -> Path:
    """client.json, an image and keys; no model, no plan."""
    folder = tmp_path / "client"
    folder.mkdir()
    shutil.copy(desk.image, folder)
    shutil.copytree(desk.keys, folder / "keys" / "setinsecure-tiny")
    return folder


def test_encrypt_needs_client_json_and_the_public_key(
    process: Process, client_folder: Path, desk: Desk, tiny_session: Any, tiny_client: Any
) -> None:
    keys = client_folder / "keys" / "setinsecure-tiny"
    shutil.rmtree(keys / "secret")
    for file in (keys / "server").iterdir():
        if file.name not in ("manifest.json", "public.key"):
            file.unlink()
    given = ("encrypt", "--set", "insecure-tiny", "--image", "tiny.png", "-o", "in.ct")
    names = modules(process, client_folder, *given)
    assert loaded(names, "torch", "matplotlib", "mpmath", *CLIENT) == []
    encrypted = (client_folder / "in.ct").read_bytes()
    assert tiny_client.decrypt(tiny_session.evaluate(encrypted), request=encrypted).shape == (10,)


def test_decrypt_needs_client_json_and_the_secret_key(
    process: Process, client_folder: Path, tiny_result_file: Path
) -> None:
    names = modules(process, client_folder, "decrypt", tiny_result_file, "--set", "insecure-tiny", "--json")
    assert loaded(names, "torch", "matplotlib", "mpmath", *CLIENT) == []


def test_keygen_needs_client_json_alone(process: Process, desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(desk.plan / "client.json", folder)
    names = modules(process, folder, "keygen", "client.json", "--json")
    assert loaded(names, "torch", "matplotlib", "mpmath", "PIL", *CLIENT) == []
    assert (folder / "keys" / "setinsecure-tiny" / "secret").is_dir()


def test_evaluate_imports_nothing_of_the_client(
    process: Process, desk: Desk, tiny_input_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copytree(desk.plan, folder / "plan")
    shutil.copytree(desk.server, folder / "keys")
    given = ("evaluate", "--plan", "plan", "--keys", "keys", "-i", tiny_input_file, "-o", "out.ct")
    names = modules(process, folder, *given)
    unwanted = ("torch", "matplotlib", "mpmath", "PIL", "fheinfer.client", "fheinfer.local", "fheinfer.evaluating")
    assert loaded(names, *unwanted) == []


def test_infer_with_a_plan_compiles_nothing(process: Process, desk: Desk) -> None:
    names = modules(process, desk.folder, "infer", "--plan", "plan", "--image", "tiny.png", "--json")
    assert (
        loaded(names, "torch", "matplotlib", "mpmath", "fheinfer.compiler.pipeline", "fheinfer.compiler.passes") == []
    )


def test_the_help_of_every_command_is_quick(process: Process, desk: Desk) -> None:
    """Nothing that a command needs to work is imported to describe it."""
    names = modules(process, desk.folder, "infer", "--help")
    assert loaded(names, "torch", "numpy", "PIL", "rich", "safetensors", "cryptography") == []


def test_without_asserts_it_refuses_the_same(process: Process, desk: Desk) -> None:
    for given, code, says in (
        (("infer", "--set", "1+minimax:7", "--image", "tiny.png"), 2, "say --set 1 --act minimax:7"),
        (("infer", "--plan", "plan", "--image", "none.png"), 3, "no such image"),
        (("decrypt", "--set", "insecure-tiny", "tiny.png"), 4, "tiny.png"),
        (("infer", "--plan", "plan", "--keys", "nothing", "--image", "tiny.png"), 5, "no keys in"),
    ):
        done = process(*given, cwd=desk.folder, options=("-O",))
        assert (done.code, says in done.err, done.out) == (code, True, ""), done.err
    done = process("infer", "--plan", "plan", "--image", "tiny.png", "--json", cwd=desk.folder, options=("-O",))
    assert done.code == 0, done.err


@pytest.mark.parametrize("command", ["infer", "precision", "train", "finetune", "calibrate", "accuracy", "search"])
def test_without_pytorch_it_says_so_in_one_line(process: Process, desk: Desk, command: str) -> None:
    (desk.folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    hide = "import sys, importlib.util as u; real = u.find_spec\n"
    hide += "u.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest)\n"
    given: dict[str, tuple[str, ...]] = {
        "infer": ("--plan", "plan", "--model", "tiny.safetensors", "--image", "tiny.png", "--plain"),
        "precision": ("--set", "insecure-tiny", "--model", "tiny.safetensors", "--image", "tiny.png"),
        "train": ("-o", "new.safetensors"),
        "finetune": ("tiny.safetensors", "--paf", "f1", "-o", "new.safetensors"),
        "calibrate": ("tiny.safetensors", "-o", "ranges.json"),
        "accuracy": ("--set", "insecure-tiny", "--model", "tiny.safetensors", "--data", "."),
        "search": ("--over", "margin", "--set", "insecure-tiny", "--model", "tiny.safetensors", "--data", "."),
    }
    argv = ["fheinfer", command, *given[command]]
    code = f"{hide}sys.argv = {argv!r}\nfrom fheinfer.cli.main import main\nmain()\n"
    done = process(python=code, cwd=desk.folder)
    assert (done.code, "pip install torch" in done.err, done.err.count("\n")) == (2, True, 1), done.err
    assert done.out == ""
