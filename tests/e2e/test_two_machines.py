"""Client and server as two machines: processors of two families, and a client that has next to nothing installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE
from tests.conftest import TINY
from tests.e2e.conftest import F64

Process = Callable[..., Any]

CORE_NAME = """
import ctypes, numpy.linalg
paths = {line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line.lower()}
for path in paths:
    for name in ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename64_",
                 "openblas_get_corename"):
        function = getattr(ctypes.CDLL(path), name, None)
        if function is not None:
            function.restype = ctypes.c_char_p
            print(function().decode())
            raise SystemExit
"""


@dataclass(frozen=True)
class Machine:
    """A folder, a cache and a processor family of its own."""

    folder: Path
    family: str
    process: Process

    def run(self, *arguments: object, code: int = 0) -> Any:
        result = self.process(*arguments, cwd=self.folder, environment=self.environment)
        assert result.code == code, result.err
        return result

    @property
    def environment(self) -> dict[str, str]:
        cache = self.folder.parent / f"cache-{self.folder.name}"
        return {"OPENBLAS_CORETYPE": self.family, "XDG_CACHE_HOME": str(cache)}

    def compile(self, output: str) -> Plan:
        """Compiles the model in the folder."""
        self.run("compile", "model.safetensors", "--set", TINY, "-o", output)
        return fheinfer.load_plan(self.folder / output)

    def evaluate(self, output: str, plan: str = "plan", code: int = 0) -> Any:
        """Evaluates x.ct of the folder."""
        return self.run("evaluate", "--keys", "server", "--plan", plan, "-i", "x.ct", "-o", output, code=code)

    def as_family(self, family: str) -> Machine:
        """The same folder, moved to another processor."""
        return Machine(self.folder, family, self.process)


FAMILIES = ("Haswell", "SkylakeX", "Nehalem")
"""Processors that NumPy's LAPACK has code of its own for; one without AVX-512 cannot be the second."""


@pytest.fixture
def machines(process: Process, tmp_path: Path) -> tuple[Machine, Machine]:
    """A server and a client, of the first two families that this processor can play."""
    found: list[Machine] = []
    for family in FAMILIES:
        told = process(python=CORE_NAME, environment={"OPENBLAS_CORETYPE": family}).out.strip()
        if told.lower() == family.lower() and len(found) < 2:
            folder = tmp_path / ("client-machine" if found else "server-machine")
            folder.mkdir()
            found.append(Machine(folder, family, process))
    if len(found) < 2:
        pytest.skip(f"NumPy's LAPACK takes no two of {', '.join(FAMILIES)} for its processor here")
    return found[0], found[1]


def test_client_and_server_of_two_processor_families(
    machines: tuple[Machine, Machine],
    tiny_model_file: Path,
    tiny_image_file: Path,
    tiny_image: F64,
) -> None:
    """0.1 hashed what LAPACK computed, on both sides: the server refused every image of such a client."""
    server, client = machines
    shutil.copy(tiny_model_file, server.folder / "model.safetensors")
    plan = server.compile("plan")
    assert plan.activation == "relu:59"  # LAPACK fits it; also that of sets 1 and 4

    shutil.copy(server.folder / "plan" / CLIENT_FILE, client.folder)
    shutil.copy(tiny_image_file, client.folder / "image.png")
    client.run("keygen", CLIENT_FILE, "-o", "keys")
    client.run("encrypt", "--client", CLIENT_FILE, "--keys", "keys", "--image", "image.png", "-o", "x.ct")
    assert not list(client.folder.parent.glob("cache-client-machine/**/plan*"))  # nothing was compiled here

    shutil.copytree(client.folder / "keys" / "server", server.folder / "server")
    shutil.copy(client.folder / "x.ct", server.folder)
    server.evaluate("y.ct")
    server.as_family(client.family).evaluate("again.ct")
    assert (server.folder / "y.ct").read_bytes() == (server.folder / "again.ct").read_bytes()

    shutil.copy(server.folder / "y.ct", client.folder)
    decrypt = ("decrypt", "y.ct", "--client", CLIENT_FILE, "--keys", "keys", "--request", "x.ct", "--json")
    shown = json.loads(client.run(*decrypt, "--decimals", "9").out)
    clear = fheinfer.run_slots(plan, tiny_image)
    assert shown["index"] == clear.argmax()
    assert fheinfer.precision_bits(clear, np.array(shown["logits"])).minimum > 12

    # The other family computes other floats, and so makes another plan, which nobody compares with the first.
    other = server.as_family(client.family).compile("other")
    fitted = [name for name in plan.constants if not np.array_equal(plan.constants[name], other.constants[name])]
    assert (plan.identity != other.identity) == bool(fitted)
    for name in fitted:
        assert np.allclose(plan.constants[name], other.constants[name], rtol=0, atol=1e-9)
    if fitted:
        refused = server.evaluate("no.ct", "other", code=4)
        assert "name the plan that it was encrypted for with --plan" in refused.err
        assert not (server.folder / "no.ct").exists()
    assert fheinfer.Server().session(other, server.folder / "server").plan is other  # the same keys serve it


WATCH = """
import json, sys
for name in ("torch", "matplotlib", "mpmath"):
    sys.modules[name] = None
opened = []
EVENTS = ("open", "os.listdir", "os.scandir")
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in EVENTS else None)
from fheinfer.cli.main import main
try:
    main()
finally:
    print(json.dumps({"opened": opened, "modules": sorted(name for name, module in sys.modules.items() if module)}))
"""
ELSEWHERE = (
    "fheinfer.approx",
    "fheinfer.compiler",
    "fheinfer.frontends",
    "fheinfer.model",
    "fheinfer.runtime",
    "fheinfer.server",
    "fheinfer.train",
)
"""Packages that a client has no use for."""


@pytest.fixture
def bare(process: Process, tmp_path: Path) -> Callable[..., Any]:
    """bare(folder, "encrypt", ...): in a process without PyTorch, Matplotlib and mpmath, which opens no model."""

    def run(folder: Path, *arguments: object, code: int = 0) -> Any:
        environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        result = process(*arguments, cwd=folder, python=WATCH, environment=environment)
        assert result.code == code, result.err
        seen = json.loads(result.out.splitlines()[-1])
        assert "fheinfer.cli.main" in seen["modules"]
        assert not [name for name in seen["modules"] if name.startswith(ELSEWHERE)]
        assert not [path for path in seen["opened"] if path.endswith((".safetensors", ".pt", ".onnx", ".json.gz"))]
        return result, seen["opened"]

    return run


def test_a_client_needs_client_json_and_keys_and_nothing_else(
    bare: Callable[..., Any],
    tiny_plan: Plan,
    tiny_image_file: Path,
    tiny_image: F64,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    tiny_plan.client.save(folder / CLIENT_FILE)
    bare(folder, "keygen", CLIENT_FILE, "-o", "keys")
    assert sorted(path.name for path in folder.iterdir()) == [CLIENT_FILE, "keys"]

    bare(folder, "encrypt", "--keys", "keys", "--image", tiny_image_file, "-o", "x.ct")
    session = fheinfer.Server().session(tiny_plan, folder / "keys" / "server")
    (folder / "y.ct").write_bytes(session.evaluate((folder / "x.ct").read_bytes()))
    decrypt = ("decrypt", "y.ct", "--keys", "keys", "--request", "x.ct", "--json")
    result, opened = bare(folder, *decrypt)
    assert any(path.endswith("secret.key") for path in opened)
    clear = fheinfer.run_slots(tiny_plan, tiny_image)
    assert json.loads(result.out.rpartition('{"opened"')[0])["index"] == clear.argmax()


def test_a_sender_needs_the_public_key_alone(
    bare: Callable[..., Any],
    tiny_plan: Plan,
    tiny_keys: Path,
    tiny_client: fheinfer.Client,
    tiny_session: Any,
    tiny_image_file: Path,
    clear: F64,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "sender"
    server = folder / "keys" / "server"
    server.mkdir(parents=True)
    tiny_plan.client.save(folder / CLIENT_FILE)
    for name in ("public.key", "manifest.json"):
        shutil.copy(tiny_keys / "server" / name, server)
    client = ("--client", CLIENT_FILE, "--keys", "keys")
    _, opened = bare(folder, "encrypt", *client, "--image", tiny_image_file, "-o", "x.ct")
    assert any(path.endswith("public.key") for path in opened)
    encrypted = (folder / "x.ct").read_bytes()
    result = tiny_session.evaluate(encrypted)
    assert fheinfer.precision_bits(clear, tiny_client.decrypt(result, request=encrypted)).minimum > 12
    (folder / "y.ct").write_bytes(result)
    refused, _ = bare(folder, "decrypt", "y.ct", *client, code=5)
    assert "no secret key here" in refused.err
