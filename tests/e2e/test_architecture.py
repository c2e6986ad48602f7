"""Who imports whom, who opens what: read from the sources, and watched in a process."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fheinfer

PACKAGE = Path(fheinfer.__file__).parent
MODULES = {
    ".".join(("fheinfer", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

# Every module below imports only modules of its own line or above it. A name stands for all modules that begin with it
# and are not named themselves.
LAYERS = (
    "errors cli.signals",
    "optional machine crypto.leftovers",
    "crypto.storage",
    "speed crypto.params crypto.artifact data data.resources",
    "packing approx",
    "model.graph model.verify",
    "frontends",
    "model",
    "evaluation.metrics compiler.policy",
    "crypto.keystore",
    "compiler",
    "runtime",
    "crypto.keygen",
    "client",
    "server",
    "crypto.export evaluation.plain evaluation.precision",
    "local evaluation.bench",
    "cli.progress",
    "cli.display",
    "data.datasets data.synthetic",
    "train",
    "evaluation",
    "cli.training cli.results cli.server cli.plan",
    "cli.model cli.approx cli.images",
    "cli.bench cli.accuracy",
    "cli.search",
    "cli",
    "cli.entry",
    "__main__",
)


def imports(path: Path, *, nested: bool) -> Iterator[str]:
    """Modules imported at the top of a file, with `nested` also those inside functions; never those for types only."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                for alias in child.names:
                    name = f"{base}.{alias.name}"
                    yield name if name in MODULES or name == "fheinfer._core" else base
            elif nested or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from walk(child)

    yield from walk(ast.parse(path.read_text()))


def reachable(start: str, *, nested: bool) -> set[str]:
    """`start` and all it imports, directly or not, the package's own __init__ apart."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            if name in MODULES and name != "fheinfer":
                waiting.extend(imports(MODULES[name], nested=nested))
    return seen


def test_client_and_server_never_import_each_other() -> None:
    assert "fheinfer.client" not in reachable("fheinfer.server", nested=True)
    assert "fheinfer.server" not in reachable("fheinfer.client", nested=True)
    assert "fheinfer.crypto.keystore" in reachable("fheinfer.server", nested=True)  # this walk does find things


def test_the_server_command_imports_nothing_of_the_client() -> None:
    assert "fheinfer.server" in reachable("fheinfer.cli.server", nested=True)
    assert "fheinfer.client" not in reachable("fheinfer.cli.server", nested=True)


def test_torch_is_imported_where_it_is_needed_and_nowhere_else() -> None:
    users = {name for name in MODULES if any(i.split(".")[0] == "torch" for i in imports(MODULES[name], nested=True))}
    apart = ("fheinfer.train", "fheinfer.evaluation", "fheinfer.data")
    assert {u for u in users if not u.startswith(apart)} == {"fheinfer.model.model", "fheinfer.frontends.tensor_files"}
    for start in ("fheinfer.server", "fheinfer.cli.server", "fheinfer.client", "fheinfer.cli.main"):
        assert not any(name.split(".")[0] == "torch" for name in reachable(start, nested=False))


PLACES = {name: index for index, names in enumerate(LAYERS) for name in names.split()}


def layer(name: str) -> int:
    parts = name.split(".")[1:]
    return next(PLACES[key] for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in PLACES)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"fheinfer"}))
def test_a_module_imports_only_what_stands_above_it(name: str) -> None:
    found = {i for i in imports(MODULES[name], nested=False) if i.startswith("fheinfer.") and i != "fheinfer._core"}
    assert not {i for i in found if layer(i) > layer(name)}


def test_secret_keys_are_named_in_client_code_only() -> None:
    """SecretKeys and ClientKeys: the two ways to a secret."""
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Name, ast.Attribute, ast.alias))
        and {getattr(node, key, "") for key in ("id", "attr", "name")} & {"SecretKeys", "ClientKeys"}
    }
    assert users == {"fheinfer.client", "fheinfer.crypto.export", "fheinfer.crypto.keygen", "fheinfer.evaluation.bench"}


WATCH = """
import json, sys
opened = []
EVENTS = ("open", "os.listdir", "os.scandir")
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in EVENTS else None)
from fheinfer.cli.main import main
try:
    main()
finally:
    print(json.dumps({"opened": opened, "modules": sorted(sys.modules)}))
"""


def test_evaluate_never_opens_the_secret_folder_and_never_imports_torch(
    process: Callable[..., Any],
    tiny_keys: Path,
    tiny_client: fheinfer.Client,
    tiny_plan: fheinfer.Plan,
    tiny_picture: Any,
    tiny_weights_file: Path,
    tmp_path: Path,
) -> None:
    """Watched by an audit hook, with the secret right beside the server folder; then again with it gone."""
    keys = tmp_path / "keys"
    shutil.copytree(tiny_keys / "setinsecure-tiny", keys)
    (tmp_path / "in.ct").write_bytes(tiny_client.encrypt(tiny_picture, tiny_plan.client))
    arguments = ["evaluate", "--keys", keys / "server", "--weights", tiny_weights_file, "-i", tmp_path / "in.ct"]
    result = process(*arguments, "-o", tmp_path / "out.ct", python=WATCH)
    assert result.code == 0, result.err
    seen = json.loads(result.out.splitlines()[-1])
    assert any("/server/relinearisation.key" in path for path in seen["opened"])
    assert not [path for path in seen["opened"] if path.startswith(str(keys / "secret"))]
    assert not [name for name in seen["modules"] if name.split(".")[0] == "torch"]

    shutil.rmtree(keys / "secret")
    result = process(*arguments, "-o", tmp_path / "again.ct")
    assert (result.code, result.out) == (0, "")
    assert tiny_client.decrypt((tmp_path / "again.ct").read_bytes()).shape == (10,)


def test_importing_fheinfer_is_light(process: Callable[..., Any]) -> None:
    result = process(python="import sys, fheinfer; print(sorted({m.split('.')[0] for m in sys.modules}))")
    assert result.code == 0
    assert not set(ast.literal_eval(result.out)) & {"torch", "matplotlib", "typer", "rich"}
