"""Reference pages that are written from the code when the site is built."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command_line() -> str:
    """Every command with its options, as typer documents them."""
    typer = [sys.executable, "-m", "typer", "fheinfer.cli.main", "utils", "docs", "--name", "fheinfer"]
    text = subprocess.run(typer, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n?", "", text)  # cut short there, and whole below
    text = text.replace("# `fheinfer`\n", "# Command line\n", 1)
    return re.sub(r"`[^`\n]*`|```.*?```|<", lambda m: "&lt;" if m[0] == "<" else m[0], text, flags=re.DOTALL)


def errors() -> str:
    """The exception tree with the exit code of each."""
    from fheinfer import errors

    lines = [
        "# Errors and exit codes",
        "",
        "Everything that goes wrong on purpose is a class of `fheinfer.errors`, with a message of one line that says "
        "what is wrong, where, and what to do. Who catches a class also catches those that are indented below it. The "
        "command line prints the line and ends with the exit code; 0 is success, and a signal ends a command with 128 "
        "and its number (Ctrl-C: 130). The HTTP service answers with the same names (`kind`), so that a remote client "
        "raises the same classes.",
        "",
        "| class | exit code | raised for |",
        "|---|---|---|",
    ]
    for name, meaning in re.findall(r"(\w+Error)(?: +(?:exit code )?\d+)?(?: +(\S.*))?$", str(errors.__doc__), re.M):
        kind: type[errors.FheinferError] = getattr(errors, name)
        depth = sum(issubclass(base, errors.FheinferError) for base in kind.__mro__) - 1
        lines.append(f"| {'&emsp;&emsp;' * depth}`{name}` | {kind.exit_code} | {meaning} |")
    return "\n".join(lines) + "\n"


def operations() -> str:
    """Operations of model files and of plans, with their fields."""
    from fheinfer.model.ops import LOWERED, NETWORK

    lines = [
        "# Operations of a graph",
        "",
        "What the front ends make of a network, and the compiler of that: `op` in [a model and a plan]"
        "(formats.md#models), with these fields. [Operations](operations.md) says what of PyTorch and ONNX becomes "
        "which. Fields that name a tensor are in italics.",
    ]
    for heading, table in (("In a model", NETWORK), ("In a plan", LOWERED)):
        lines += ["", f"## {heading}", "", "| op | fields | meaning |", "|---|---|---|"]
        for kind, op in table.items():
            given = ", ".join(f"*{f.name}*" if f.name in op.TENSORS else f.name for f in fields(op))
            meaning = (inspect.getdoc(op) or "").partition("\n\n")[0].replace("\n", " ")
            lines.append(f"| `{kind}` | {given} | {_plain(meaning)} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text whose stars, underscores and bars are those signs and no Markdown, but for what is code already."""
    return re.sub(r"`[^`]*`|[*_|<]", lambda m: m[0] if m[0][0] == "`" else f"&#{ord(m[0])};", text)
