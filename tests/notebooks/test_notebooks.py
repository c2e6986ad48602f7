"""Notebooks run from top to bottom, on fheinfer alone, and are kept without outputs. What they claim they assert."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import fheinfer

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
ALLOWED = {"fheinfer", "matplotlib", "numpy", "torch", "collections", "dataclasses", "os", "pathlib", "tempfile"}
ALLOWED |= {"subprocess", "sys"}  # for the service of 08
TIMEOUT = 300
"""Seconds a cell may take: twenty times what it does, for machines that are busy."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all modules and of what is taken from them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def test_there_are_nine() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, 10)]


@each_notebook
def test_it_is_kept_without_outputs(path: Path) -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_of(path))
    book = json.loads(path.read_text())
    assert path.read_text() == json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    assert book["metadata"]["kernelspec"]["name"] == "python3"


@each_notebook
def test_it_imports_fheinfer_and_little_else(path: Path) -> None:
    names = imported(ast.parse("\n".join("".join(cell["source"]) for cell in code_of(path))))
    assert {name.partition(".")[0] for name in names} <= ALLOWED
    assert not [name for name in names if name.startswith("fheinfer") and "._" in name]


@each_notebook
def test_it_says_what_it_shows_and_how_long_it_takes_and_asserts_that_it_does(path: Path) -> None:
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    assert first.startswith(f"# {int(path.stem[:2])}. ")
    assert "You will see" in first
    assert "It takes" in first
    last = ast.parse("".join(code_of(path)[-1]["source"]))
    assert any(isinstance(statement, ast.Assert) for statement in last.body)


@each_notebook
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh kernel, in a folder of its own, without CIFAR-10."""
    pytest.importorskip("torch", reason="notebooks compare with PyTorch: pip install 'torch==2.13.*'")
    if path.stem.startswith("08"):
        pytest.importorskip("fastapi", reason="the notebook starts a service: pip install 'fheinfer[serve]'")
    import nbformat
    from nbclient import NotebookClient

    here = str(Path(fheinfer.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))
    monkeypatch.delenv("FHEINFER_DATA", raising=False)
    folder = tmp_path / "notebooks"
    shutil.copytree(path.parent, folder)
    book = nbformat.read(folder / path.name, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(book)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=TIMEOUT, kernel_name="python3", resources=where).execute()
    figures = [o for cell in book.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(figures) >= 2
