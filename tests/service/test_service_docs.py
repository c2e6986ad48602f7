"""What the pages about the service say is so: the tests that they name are there, and limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from fheinfer.service import queue
from fheinfer.service.http import service as module

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "service.md").read_text()
THREATS = (ROOT / "docs" / "explanation" / "threats.md").read_text()


def test_every_test_it_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", THREATS))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 40
    assert not named - there


def test_every_row_of_the_threats_names_a_test() -> None:
    section = THREATS.split("## What it withstands")[1].split("## What is not protected")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    assert not [row for row in rows if "`test_" not in row.rsplit("|", 2)[1]]


def test_the_architecture_names_every_module() -> None:
    said = (ROOT / "docs" / "explanation" / "architecture.md").read_text().split("## The service")[1].split("\n## ")[0]
    modules = (ROOT / "fheinfer" / "service").glob("[a-z]*.py")
    assert [path.name for path in modules if f"`{path.name}`" not in said] == []


def test_limits_are_those_of_the_code() -> None:
    assert queue.BURST == 2
    assert "may do two jobs in a row" in TEXT
    assert "go on for up to two jobs in a row" in (ROOT / "docs" / "how-to" / "scaling.md").read_text()
    requests, submits, refused = module.REQUESTS, module.SUBMITS, module.REFUSED
    assert f"{requests.burst} at once, then {requests.per_second} per second" in TEXT
    assert f"{submits.burst} at once, then one per second, or as many as all workers" in TEXT
    assert (submits.per_second, refused.per_second) == (1, 0.2)
    assert f"Wrong tokens: {refused.burst} from an address at once, then one in five seconds" in TEXT
