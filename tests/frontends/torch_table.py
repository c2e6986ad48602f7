"""The table of docs/reference/operations.md on modules of PyTorch. `python -m tests.frontends.torch_table` writes it
anew.

What it says of each operation is what `test_torch_operations` checks.
"""

from __future__ import annotations

from pathlib import Path

from tests.frontends.torch_cases import CASES, Case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "operations.md"
BEGIN, END = "<!-- PyTorch's operations: begin -->", "<!-- PyTorch's operations: end -->"

_LAYERS = "linear conv1d conv2d conv3d batchnorm1d batchnorm2d batchnorm3d"
_POOLS = "avgpool1d avgpool2d avgpool3d maxpool1d maxpool2d maxpool3d"
_ARITHMETIC = "add sub mul div neg mean sum prod bmm mm matmul exp log sqrt eq gt lt"
_ACTIVATIONS = "relu leakyrelu prelu elu gelu silu sigmoid tanh softmax"
_VIEWS = "cat chunk select squeeze flatten permute transpose"
HEIR = frozenset(f"{_LAYERS} {_POOLS} {_ARITHMETIC} {_ACTIVATIONS} {_VIEWS}".split(" "))
"""One-operation modules of HEIR's coverage list (github.com/google/heir, issue 2923), in its spelling."""


def base(case: Case) -> str:
    """Name of a case's operation."""
    return case.name.partition(" (")[0]


def detail(case: Case) -> str:
    """What tells it from the other cases of its operation."""
    return case.name.partition(" (")[2].rstrip(")")


def table() -> str:
    """The section between the marks."""
    rows = ["| operation | in HEIR's list | imports and equals PyTorch | refused |", "|---|---|---|---|"]
    operations = {base(case): [c for c in CASES if base(c) == base(case)] for case in CASES}
    for name, cases in operations.items():
        listed = "yes" if name.replace("_", "") in HEIR else ""
        good = ", ".join(detail(case) or "yes" for case in cases if not case.refused)
        bad = "; ".join(f"{detail(case)}: {case.refused}".removeprefix(": ") for case in cases if case.refused)
        rows.append(f"| {name} | {listed} | {good} | {bad} |")
    taken = [name for name, cases in operations.items() if any(not case.refused for case in cases)]
    of_heir = [name for name in operations if name.replace("_", "") in HEIR]
    count = (
        f"{len(taken)} of {len(operations)} operations import, in {sum(not case.refused for case in CASES)} forms; of "
        f"the {len(of_heir)} of HEIR's list {len(set(taken) & set(of_heir))}."
    )
    return "\n".join([BEGIN, count, "", *rows, END])


def written(page: str) -> str:
    """The page with the section as it should be."""
    before, _, rest = page.partition(BEGIN)
    return before + table() + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
