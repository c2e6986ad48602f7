"""Who imports whom, who opens what: read from the sources, and watched in a process."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import fheinfer

PACKAGE = Path(fheinfer.__file__).parent
MODULES = {
    ".".join(("fheinfer", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

# A module imports only what stands on a line above its own, or on its own line. Imports inside functions and those for
# types only count like all others. A name covers all modules that begin with it and are not named themselves.
LAYERS = (
    "errors process",
    "optional machine storage leftovers progress",
    "speed tensor_file packing data.files",
    "model",
    "approx",
    "frontends",
    "crypto.parameter_set crypto.security",
    "crypto.generated",
    "crypto.params",
    "crypto.artifact crypto.verified",
    "crypto.ciphertexts",
    "crypto.client_tensors crypto.client_operations crypto.client_layers",
    "crypto.backends crypto.key_policy",
    "crypto.client_spec",
    "crypto",
    "compiler",
    "runtime",
    "client",
    "server worker",
    "evaluating runs",
    "local",
    "service.protocol service.receipts",
    "service",
    "data",
    "evaluation",
    "service.page",
    "train",
    "cli",
    "__main__",
)
PACKAGES = (
    "approx",
    "cli",
    "compiler",
    "crypto",
    "data",
    "evaluation",
    "frontends",
    "model",
    "runtime",
    "service",
    "train",
)
LATE = "fheinfer.optional"
"""The helper that imports what may be missing or is slow to load, by name."""


@cache
def imports(path: Path, *, nested: bool) -> tuple[str, ...]:
    """Modules imported by a file: all of them, or without `nested` those that loading it loads."""
    package = ".".join(("fheinfer", *path.relative_to(PACKAGE).parts[:-1]))

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if not nested and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if not nested and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                parents = package.split(".")
                base = ".".join(parents[: len(parents) + 1 - child.level]) if child.level else ""
                base = ".".join(filter(None, (base, child.module)))
                for alias in child.names:
                    name = f"{base}.{alias.name}"
                    yield name if name in MODULES or name == "fheinfer._core" else base
            elif nested and (name := imported_by_name(child)):
                yield name
            else:
                yield from walk(child)

    return tuple(walk(ast.parse(path.read_text())))


def imported_by_name(node: ast.AST) -> str:
    """The module of a call of `import_module("...")` or `__import__("...")`, or of such a helper; "" of all else."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return ""
    called = ast.unparse(node.func).rpartition(".")[2]
    return str(node.args[0].value) if called in ("import_module", "__import__", "late", "needs") else ""


def own(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in it."""
    return {name for name in imports(path, nested=True) if name in MODULES and name != "fheinfer"}


def reachable(start: str, *, nested: bool) -> set[str]:
    """`start` and all it imports, directly or not, the package's own __init__ apart."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            parent = name.rpartition(".")[0]
            waiting += [parent] if parent in MODULES and parent != "fheinfer" else []  # loaded before it
            if name in MODULES and name != "fheinfer":
                waiting.extend(imports(MODULES[name], nested=nested))
    return seen


PLACES = {name: index for index, names in enumerate(LAYERS) for name in names.split()}


def layer(name: str) -> int:
    parts = name.split(".")[1:]
    return next(PLACES[key] for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in PLACES)


def test_every_module_has_a_place_and_every_place_is_taken() -> None:
    for name in MODULES.keys() - {"fheinfer"}:
        layer(name)
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in MODULES.values() if path.parent != PACKAGE}
    assert folders == set(PACKAGES)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"fheinfer"}))
def test_a_module_imports_only_what_stands_above_it(name: str) -> None:
    assert not {i for i in own(MODULES[name]) if layer(i) > layer(name)}


def test_no_module_imports_itself_in_a_circle() -> None:
    """Strongly connected files, by Tarjan's algorithm; a package's __init__ is a file like any other."""
    edges = {name: own(path) - {name} for name, path in MODULES.items() if name != "fheinfer"}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            at = stack.index(name)
            circle = stack[at:]
            del stack[at:]
            if len(circle) > 1:
                circles.append(sorted(circle))

    for name in sorted(edges):
        if name not in number:
            visit(name)
    assert not circles


def test_only_the_package_imports_the_whole_package() -> None:
    """`import fheinfer` inside it would hide what is needed from these tests.

    `Model.calibrate` is a method because users look for it there; what it does is done two layers below.
    """
    users = {name for name, path in MODULES.items() if "fheinfer" in set(imports(path, nested=True))}
    allowed = {"fheinfer", "fheinfer.evaluating", "fheinfer.model.model"}
    assert users <= {*allowed, *(name for name in MODULES if name.startswith("fheinfer.cli"))}


def test_modules_are_imported_by_name_only_by_the_helper() -> None:
    users = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name | ast.Attribute):
                called = node.id if isinstance(node, ast.Name) else node.attr
                users |= {name} if called in ("import_module", "__import__") else set()
    own_code = "fheinfer.frontends.torch_export.sources"  # imports the user's, by the name that was given
    assert users <= {"fheinfer", LATE, own_code}


def test_no_assert_checks_anything() -> None:
    """`python -O` leaves them out: what must hold is checked by an `if` with a typed error, or by a type."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id in ("__debug__", "AssertionError"))
    ]
    assert not found


def test_the_walk_finds_imports_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "sample.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "import fheinfer.errors\n"
        "from fheinfer import packing\n"
        "if TYPE_CHECKING:\n    from fheinfer.client import Client\n"
        "def f():\n    from fheinfer.server import Server\n"
        "class C:\n    async def g(self):\n        if True:\n            import fheinfer.local\n"
        "from . import storage\n"
        "h = lambda: __import__('fheinfer.machine')\n"
    )
    at_once = {"fheinfer.errors", "fheinfer.packing", "fheinfer.storage"}
    late = {"fheinfer.client", "fheinfer.server", "fheinfer.local", "fheinfer.machine"}
    assert own(tmp_path / "sample.py") == at_once | late
    assert set(imports(tmp_path / "sample.py", nested=False)) == at_once | {"typing"}


def test_client_and_server_never_import_each_other() -> None:
    assert "fheinfer.client" not in reachable("fheinfer.server", nested=True)
    assert "fheinfer.server" not in reachable("fheinfer.client", nested=True)
    assert "fheinfer.crypto.keystore" in reachable("fheinfer.server", nested=True)  # this walk does find things


def test_a_client_needs_no_model_and_no_compiler() -> None:
    found = reachable("fheinfer.client", nested=True)
    apart = ("fheinfer.model", "fheinfer.compiler", "fheinfer.frontends", "fheinfer.approx", "fheinfer.runtime")
    assert not [name for name in found if name.startswith(apart)]


def test_the_server_command_imports_nothing_of_the_client() -> None:
    assert "fheinfer.server" in reachable("fheinfer.cli.server", nested=True)
    assert "fheinfer.client" not in reachable("fheinfer.cli.server", nested=True)


CLIENT_SIDE = {
    name
    for name in MODULES
    if name.removeprefix("fheinfer.").removeprefix("service.").split(".")[0]
    in (
        "client",
        "local",
        "connection",
        "following",
        "page",
        "remembered",
        "remote",
        "remote_keys",
        "remote_model",
        "uploading",
    )
}
SERVER_SIDE = {"fheinfer.server", "fheinfer.worker"} | {
    f"fheinfer.service.{name}" for name in ("store", "database", "uploads", "catalogue", "retention", "dispatcher")
}


@pytest.mark.parametrize("start", ["fheinfer.service.http.serving", "fheinfer.cli.serve"])
def test_the_http_process_imports_no_client_and_evaluates_nothing(start: str) -> None:
    found = reachable(start, nested=True)
    assert "fheinfer.service.uploads" in found  # this walk does find things
    assert not found & (CLIENT_SIDE | {"fheinfer.server", "fheinfer.worker", "fheinfer.runtime.executor"})


def test_the_remote_client_imports_nothing_of_the_service() -> None:
    found = reachable("fheinfer.service.remote", nested=True)
    assert "fheinfer.client" in found
    assert not found & SERVER_SIDE
    assert not [name for name in found if name.startswith("fheinfer.service.http")]


def test_torch_is_imported_where_it_is_needed_and_nowhere_else() -> None:
    users = {name for name in MODULES if any(i.split(".")[0] == "torch" for i in imports(MODULES[name], nested=True))}
    apart = ("fheinfer.train", "fheinfer.evaluation", "fheinfer.data", "fheinfer.frontends", "fheinfer.model.ops")
    assert {u for u in users if not u.startswith(apart)} <= {LATE}
    for start in ("fheinfer.server", "fheinfer.cli.server", "fheinfer.client", "fheinfer.cli.main"):
        assert not any(name.split(".")[0] == "torch" for name in reachable(start, nested=False))


def test_ray_is_imported_where_workers_are_made_and_nowhere_else() -> None:
    users = {name for name in MODULES if any(i.split(".")[0] == "ray" for i in imports(MODULES[name], nested=True))}
    assert users == {f"fheinfer.service.ray_{name}" for name in ("cluster", "node")}
    assert not any(name.split(".")[0] == "ray" for start in MODULES for name in reachable(start, nested=False))
    for start in ("ray_folder", "ray_node", "ray_workers"):
        assert "fheinfer.client" not in reachable(f"fheinfer.service.{start}", nested=True)


def test_secret_keys_are_named_in_client_code_only() -> None:
    """SecretKeys and ClientKeys: the two ways to a secret."""
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name | ast.Attribute | ast.alias)
        and {getattr(node, key, "") for key in ("id", "attr", "name")} & {"SecretKeys", "ClientKeys"}
    }
    makers = {f"fheinfer.crypto.backends.{name}" for name in ("base", "native", "openfhe")}  # of evaluation keys
    assert {"fheinfer.client", "fheinfer.crypto.keygen"} <= users
    assert (
        users
        <= {"fheinfer.client", "fheinfer.crypto.export", "fheinfer.crypto.keygen", "fheinfer.evaluation.kernels"}
        | makers
    )


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
    tiny_plan_folder: Path,
    tiny_image: Any,
    tmp_path: Path,
) -> None:
    """Watched by an audit hook, with the secret right beside the server folder; then again with it gone."""
    keys = tmp_path / "keys"
    shutil.copytree(tiny_keys, keys)
    (tmp_path / "in.ct").write_bytes(tiny_client.encrypt(tiny_image))
    arguments = ["evaluate", "--keys", keys / "server", "--plan", tiny_plan_folder, "-i", tmp_path / "in.ct"]
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
