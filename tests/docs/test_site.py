"""The site builds without a broken link, needs nothing from elsewhere, and its references are complete."""

from __future__ import annotations

import importlib.util
import json
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

import fheinfer
from fheinfer.cli.main import app
from fheinfer.model.ops import LOWERED, NETWORK

ROOT = Path(__file__).resolve().parents[2]


def loaded(file: str) -> Any:
    """A module of the checkout that is not installed."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


http, tables = loaded("docs/generate/http.py"), loaded("benchmarks/tables.py")

for module in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(module, reason="the site is built by the extra docs: pip install 'fheinfer[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Warnings, which broken links are, fail the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands(command: Any, path: str) -> Iterator[str]:
    """The names of all commands below one, and its own."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{path} {name}")


def test_every_page_is_reached_from_the_navigation(site: Path) -> None:
    navigation = text(site / "index.html").partition('class="md-nav md-nav--primary')[2].partition("md-content")[0]
    reached = {posixpath.normpath(unquote(link)) for link in re.findall(r'href="([^"#:]+)"', navigation)}
    pages = {page.relative_to(site).as_posix() for page in site.rglob("*.html")} - {"404.html", "index.html"}
    assert len(pages) > 20
    assert pages <= reached


def test_every_page_that_the_sources_name_is_there() -> None:
    kinds = (".py", ".cpp", ".h", ".md", ".ipynb", ".toml")
    sources = [
        path
        for name in ("fheinfer", "csrc", "tests", "benchmarks", "notebooks", "docs")
        for path in (ROOT / name).rglob("*")
    ]
    missing = {
        f"{path.relative_to(ROOT)}: {named}"
        for path in (*sources, *ROOT.glob("*.*"))
        if path.suffix in kinds and path != Path(__file__)
        for named in re.findall(r"(?<![\w/])docs/[\w/-]+\.md\b", path.read_text())
        if not (ROOT / named).exists()
    }
    assert missing == set()


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    outside = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)="?(?:https?:)?//')
    assert not [page for page in site.rglob("*.html") if outside.search(text(page))]
    assert not [
        sheet for sheet in site.rglob("*.css") if re.search(r"(?:url\(|@import)[\"' ]*(?:https?:)?//", text(sheet))
    ]


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = text(site / "reference" / "python.html")
    assert [name for name in fheinfer.__all__ if f'id="fheinfer.{name}"' not in page] == []


def test_every_command_is_in_the_reference(site: Path) -> None:
    page = text(site / "reference" / "cli.html")
    headings = set(re.findall(r"<h[1-4] [^>]*><code>([^<]*)</code>", page))
    known = set(commands(typer.main.get_command(app), "fheinfer")) - {"fheinfer"}
    assert {"fheinfer infer", "fheinfer approx list"} <= known
    assert headings == known


def test_every_request_and_message_of_the_service_is_in_the_reference(site: Path) -> None:
    pytest.importorskip("fastapi", reason="the service is an extra: pip install 'fheinfer[serve]'")
    page = text(site / "reference" / "http.html")
    api = http.described()
    found = {re.sub(r"\{\w+\}|\?.*", "", code) for code in re.findall(r"<code>([A-Z]+ /[^<]*)</code>", page)}
    for path, methods in api["paths"].items():
        for method in methods:
            assert re.sub(r"\{\w+\}", "", f"{method.upper()} {path}") in found
    assert [name for name in api["components"]["schemas"] if f"{name}<a" not in page] == []


def test_benchmarks_are_what_the_data_say() -> None:
    assert tables.PAGE.read_text() == tables.page(), "write it with `python -m benchmarks.tables`"
    assert tables.README.read_text() == tables.readme(), "write it with `python -m benchmarks.tables`"


def test_every_measurement_says_how_it_was_made() -> None:
    for section in json.loads(tables.RESULTS.read_text())["sections"]:
        for entry in section["tables"]:
            assert all(entry[key] for key in tables.MEASURED), entry["title"]
            assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry["date"]), entry["title"]
            assert {len(row) for row in entry["rows"]} == {len(entry["columns"])}, entry["title"]


def test_every_error_is_in_the_reference(site: Path) -> None:
    page = text(site / "reference" / "errors.html")
    for name, kind in vars(fheinfer.errors).items():
        if isinstance(kind, type) and issubclass(kind, fheinfer.errors.FheinferError):
            assert re.search(rf"<code>{name}</code></td>\s*<td>{kind.exit_code}</td>", page), name


def test_every_operation_is_in_the_reference(site: Path) -> None:
    page = text(site / "reference" / "graph.html")
    assert [kind for kind in {**NETWORK, **LOWERED} if f"<td><code>{kind}</code></td>" not in page] == []
