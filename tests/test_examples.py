"""What people run first does run: README's program, the example, and the benchmark of networks on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Result

ROOT = Path(__file__).parents[1]
Process = Callable[..., Result]


for module, package in (("torch", "torch"), ("sklearn", "scikit-learn")):
    pytest.importorskip(module, reason=f"README's program needs it: pip install {package}")


def run(process: Process, code: str) -> str:
    done = process(python=code, cwd=ROOT)
    assert done.code == 0, done.err
    return done.out


def test_the_program_of_the_readme(process: Process) -> None:
    section = (ROOT / "README.md").read_text().partition("## Your own network")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    out = run(process, code)
    assert "Sequential, plan " in out
    encrypted, clear = re.findall(r"\[([^\[\]]*)\]", out)[-2:]
    first, second = (np.array([float(n) for n in re.split(r"[,\s]+", text.strip())]) for text in (encrypted, clear))
    assert first.shape == second.shape == (2,)
    assert np.abs(first - second).max() < 0.1 * np.abs(second).max()


def test_the_example(process: Process) -> None:
    out = run(process, (ROOT / "examples" / "breast_cancer.py").read_text())
    right = re.search(r"([\d.]+) % of 114 others right", out)
    assert right is not None
    assert float(right[1]) > 93
    differences = [float(n) for n in re.findall(r"largest difference from PyTorch ([\d.]+)", out)]
    assert len(differences) == 10
    assert max(differences) < 0.1


def test_the_benchmark_of_networks(process: Process) -> None:
    code = "from benchmarks.networks import main; main(['breast-cancer', '--inputs', '3'])"
    header, _, row = run(process, code).splitlines()
    assert len(row.split("|")) == len(header.split("|"))
    assert row.rstrip().endswith("| 3 of 3 |")
