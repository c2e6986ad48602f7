"""Commands that README and the pages show are there, and so are their options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fheinfer.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "notebooks").glob("*.md"),
]


def shown(page: Path) -> Iterator[str]:
    """Every command of a page, in its lines and in its text, without what is said of it."""
    text = re.sub(r"\\\n *", "", page.read_text())
    blocks = re.findall(r"^ {4}.*|^```sh\n(?:.*\n)*?```", text, re.MULTILINE)
    lines = re.findall(r"^ *(?:\.venv/bin/)?(fheinfer [a-z].*)$", "\n".join(blocks), re.MULTILINE)
    for command in [*lines, *re.findall(r"`(fheinfer [^`\n]*)`", text)]:
        yield re.split(r" #| &&|; ", command)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_it_shows_is_there(page: Path) -> None:
    for line in shown(page):
        words, command = line.split()[1:], typer.main.get_command(app)
        known: Any = command
        while words and words[0] in getattr(known, "commands", {}):
            known = known.commands[words.pop(0)]
        if known is command:
            assert re.match(r"(-|[A-Z.])", words[0]), line  # no command at all, but an option or a placeholder
        options = {option for parameter in known.params for option in parameter.opts} | {"--help", "-h"}
        given = {re.split(r"[=,]", word.strip("[]().,"))[0] for word in words if re.match(r"[\[(]?-", word)}
        assert given <= options, line


def test_pages_show_commands() -> None:
    assert sum(len(list(shown(page))) for page in PAGES) > 100
