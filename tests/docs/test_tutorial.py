"""The tutorial of one's own network runs as it stands, first in Python, then on the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "own-network.md"
Process = Callable[..., Result]

for module, package in (("torch", "torch"), ("sklearn", "scikit-learn")):
    pytest.importorskip(module, reason=f"the tutorial needs it: pip install {package}")


def test_it_runs(process: Process, tmp_path: Path) -> None:
    text = PAGE.read_text()
    done = process(python="\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), cwd=tmp_path)
    assert done.code == 0, done.err
    encrypted, clear = re.findall(r"\[([\d ]+)\]", done.out)[-2:]
    assert encrypted == clear
    commands = [shlex.split(line)[1:] for line in re.findall(r"^    (fheinfer .*)$", text, re.MULTILINE)]
    assert [command[0] for command in commands] == ["compile", "keygen", "infer"]
    for command in commands:
        done = process(*command, cwd=tmp_path)
        assert done.code == 0, done.err
    assert re.findall(r"inputs.npy:\d\W+(\d)", done.out) == encrypted.split()
