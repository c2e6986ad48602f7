"""The table of docs/reference/operations.md on ONNX's own tests. `python -m tests.frontends.onnx_table` writes it
anew."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import onnx

from fheinfer.frontends.onnx.importer import OPERATIONS
from fheinfer.frontends.onnx.outputs import FINALS
from tests.frontends.onnx_cases import KINDS, Case, Outcome, cases, try_case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "operations.md"
BEGIN, END = "<!-- ONNX's tests: begin -->\n", "<!-- ONNX's tests: end -->\n"
WRITTEN_OUT, UNSUPPORTED = "functions written out", "all other operations"


@cache
def outcomes(kind: str) -> tuple[tuple[Case, Outcome], ...]:
    """Every case of a kind, and how it ends."""
    return tuple((case, try_case(case)) for case in cases(kind))


def group(case: Case) -> str:
    """The row of a node case."""
    if case.operation in OPERATIONS or case.operation in FINALS:
        return case.operation
    return WRITTEN_OUT if case.name.endswith(("_expanded", "_expanded_ver18")) else UNSUPPORTED


def version() -> str:
    """The onnx package whose tests these are."""
    return str(onnx.__version__)


def table() -> str:
    """The section between the markers."""
    lines = [f"With the tests of onnx {version()}:\n", "| tests | cases | pass | refused |", "|---|---|---|---|"]
    for kind in KINDS:
        passed = sum(bool(outcome.way) for _, outcome in outcomes(kind))
        lines.append(f"| {kind} | {len(outcomes(kind))} | {passed} | {len(outcomes(kind)) - passed} |")
    total, real, passes = Counter[str](), Counter[str](), Counter[str]()
    for case, outcome in outcomes("node"):
        total[group(case)] += 1
        real[group(case)] += "is not a tensor of real numbers" not in outcome.reason
        passes[group(case)] += bool(outcome.way)
    lines += [
        "",
        "The node tests by operation:\n",
        "| operation | cases | of real numbers | pass |",
        "|---|---|---|---|",
    ]
    rows = [*sorted(set(total) - {WRITTEN_OUT, UNSUPPORTED}), WRITTEN_OUT, UNSUPPORTED]
    lines += [f"| {name} | {total[name]} | {real[name]} | {passes[name]} |" for name in rows]
    return "\n".join(lines) + "\n"


def written() -> str:
    """The section as it stands in the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def write() -> None:
    """Puts the section into the page."""
    page = PAGE.read_text()
    PAGE.write_text(page.partition(BEGIN)[0] + BEGIN + table() + END + page.partition(END)[2])


if __name__ == "__main__":
    write()
