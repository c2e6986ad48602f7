"""What mkdocs.yml cannot say: pages that are written when the site is built, and pages that live outside docs/.

Links are written so that they work in a checkout. `on_page_markdown` turns those between docs/ and the rest of the
repository into links of the site; one that leads nowhere fails the build.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from docs.generate import http, reference
from docs.generate.notebooks import as_markdown

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
GENERATED: dict[str, Callable[[], str]] = {
    "reference/cli.md": reference.command_line,
    "reference/errors.md": reference.errors,
    "reference/graph.md": reference.operations,
}
"""Pages that exist in the site alone, and what writes them."""
MARKS: dict[str, Callable[[], str]] = {"<!-- messages -->": http.messages}
"""What a page is completed by in the site."""


def elsewhere() -> dict[str, str]:
    """Pages and files of the repository outside docs/, by the place that they have in the site."""
    found = {
        "SECURITY.md": "explanation/security.md",
        "CONTRIBUTING.md": "project/contributing.md",
        "CHANGELOG.md": "project/changelog.md",
        "LICENSE": "project/LICENSE",
        "notebooks/README.md": "project/notebooks.md",
        "examples/README.md": "project/examples.md",
    }
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        found[f"notebooks/{path.name}"] = f"project/notebooks/{path.stem}.md"
    for path in sorted(ROOT.glob("examples/*.py")):
        found[f"examples/{path.name}"] = f"project/examples/{path.name}"
    for path in sorted(ROOT.glob("weights/*.md")):
        found[f"weights/{path.name}"] = f"benchmarks/models/{path.name}"
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that docs/ does not have."""
    from mkdocs.structure.files import File

    for uri, write in GENERATED.items():
        files.append(File.generated(config, uri, content=write()))
    for source, uri in elsewhere().items():
        text = (ROOT / source).read_text()
        content = as_markdown(text) if source.endswith(".ipynb") else text
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between docs/ and the rest of the repository into links of the site."""
    places = elsewhere()
    here = {uri: source for source, uri in places.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        uri = path.removeprefix("docs/") if path.startswith("docs/") else places.get(path)
        if uri is None:
            return match[0]
        return f"]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    for mark, write in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links of the pages that docstrings and help texts name, as docs/explanation/precision.md."""
    folder = posixpath.dirname(page.url) or "."

    def link(match: re.Match[str]) -> str:
        named = match[0].removeprefix("docs/")
        found = files.get_file_from_path(elsewhere().get(named, named))
        return f'<a href="{posixpath.relpath(found.url, folder)}">{match[0]}</a>' if found else match[0]

    return re.sub(r"(?<![\w/>\"])(?:docs/[\w/-]+|SECURITY)\.md\b", link, html)
