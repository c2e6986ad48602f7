"""docs/benchmarks/README.md and a table of README, written from benchmarks/results.json: `python -m benchmarks.tables`.

Figures are in results.json alone. Every table there has the machine, its other load, the command and the date of the
measurement; `notes` say what else a reader needs to know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks" / "README.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- in short: begin -->\n", "<!-- in short: end -->\n"
"""Where the first table stands in README."""
MEASURED = {"machine": "Machine", "load": "Other load", "command": "Measured by", "date": "Date"}
"""What every table says of its measurement, with the word for it."""

HEAD = """# Benchmarks

Written from `benchmarks/results.json` by `python -m benchmarks.tables`: a figure is changed there. Every table says on
which machine, beside what and how it was measured, and on which day it was recorded. The machines are shared: the same
bootstrap took 1.2 s alone and 4 s beside three other jobs, so compare only figures of the same table. Why they are what
they are, and what was tried: [performance](../explanation/performance.md).
"""


def rows(entry: dict[str, Any]) -> str:
    """The rows of a table, with its head."""
    columns = entry["columns"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *entry["rows"]])


def table(entry: dict[str, Any]) -> str:
    """One table with how it was measured."""
    measured = "\n".join(f"- {word}: {entry[key]}" for key, word in MEASURED.items())
    return "\n\n".join(filter(None, (f"### {entry['title']}", rows(entry), measured, entry.get("notes"))))


def sections() -> list[dict[str, Any]]:
    """All measurements."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text())["sections"]
    return found


def page() -> str:
    """The whole page."""
    parts = [HEAD.rstrip()]
    for section in sections():
        parts += [f"## {section['title']}", *filter(None, [section.get("text")]), *map(table, section["tables"])]
    return "\n\n".join(parts) + "\n"


def readme() -> str:
    """README with the first table as it should be."""
    before, _, rest = README.read_text().partition(BEGIN)
    return before + BEGIN + rows(sections()[0]["tables"][0]) + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
    README.write_text(readme())
