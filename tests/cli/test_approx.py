"""`fheinfer approx`: what it prints, what it writes and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fheinfer.approx import activation, names

Command = Callable[..., Any]


def parsed(result: Any) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_list(command: Command) -> None:
    rows = parsed(command("approx", "list", "--json"))
    assert [row["name"] for row in rows] == list(names())
    shown = command("approx", "list")
    assert shown.code == 0
    for row in rows:
        assert row["name"] in shown.out


def test_show(command: Command) -> None:
    found = parsed(command("approx", "show", "2f12g1", "--json"))
    assert (found["degrees"], found["levels"], found["openfhe_levels"]) == ([3, 3, 3, 3], 9, 13)
    assert found["polynomials"] == [stage.tolist() for stage in activation("2f12g1").polynomials.stages]
    assert parsed(command("approx", "show", "f2g3", "--order", "f-first", "--json"))["degrees"] == [5, 7]
    powers = parsed(command("approx", "show", "f1", "--basis", "mono", "--json"))["polynomials"]
    assert powers == [[0, 1.5, 0, -0.5]]
    shown = command("approx", "show", "minimax:10")
    assert shown.code == 0
    for word in ("x (1 + p3(p2(p1(x)))) / 2", "11 in the native evaluator, 13", "2^-10.11", "0.0127", "2105.10879"):
        assert word in shown.out
    assert command("approx", "show", "square").code == 0


def test_generate(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    shown = command("approx", "generate", "--degrees", "3,5", "--eta", "13*2^-6", "--guard", "2^-6", "-o", path)
    assert shown.code == 0, shown.err
    assert "6 levels" in shown.out
    found = parsed(command("approx", "show", path, "--json"))
    assert (found["degrees"], found["bound"]) == ([3, 5], 1 + 2**-6)
    made = parsed(command("approx", "generate", "--alpha", 6, "--json"))
    assert [stage["degree"] for stage in made["stages"]] == [3, 7]
    searched = parsed(command("approx", "generate", "--alpha", 4, "--degrees", 5, "--json"))
    assert float(searched["eta"]) == 6 / 16


def test_plot(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    made = parsed(command("approx", "plot", "relu:27", "2f12g1", "silu:31", "maxpool2:a7", "-o", path, "--json"))
    assert made["plot"] == str(path)
    assert len(made["activations"]) == 4
    assert path.read_bytes().startswith(b"\x89PNG")
    assert command("approx", "plot", "max:minimax:13", "-o", tmp_path / "p.svg", "--extent", 1.5).code == 0
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()


@pytest.mark.parametrize(
    "says, arguments",
    [
        ("no activation 'f2f2'", ("show", "f2f2")),
        ("no basis", ("show", "a7", "--basis", "x")),
        ("no order", ("show", "a7", "--order", "x")),
        ("give --alpha", ("generate",)),
        ("4 to 14", ("generate", "--alpha", 20)),
        ("--degrees needs", ("generate", "--degrees", "3,3")),
        ("odd numbers", ("generate", "--degrees", "3;3", "--alpha", 5)),
        ("odd degree", ("generate", "--degrees", "4", "--eta", "0.1")),
        ("is no number", ("generate", "--alpha", 6, "--eta", "2**-6")),
        ("both lie between", ("generate", "--alpha", 6, "--eta", "2")),
        ("raise a degree", ("generate", "--alpha", 9, "--degrees", "3")),
        ("lower the guard", ("generate", "--alpha", 4, "--degrees", "1,1", "--guard", "0.9")),
        ("a precision between", ("generate", "--alpha", 0, "--degrees", "3")),
        ("no plot of that kind", ("plot", "a7", "-o", "a7.txt")),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    command: Command, says: str, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("approx", *arguments)
    assert result.code == 2
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert says in line
    assert not list(tmp_path.iterdir())


def test_a_missing_file_and_folder(command: Command, tmp_path: Path) -> None:
    assert command("approx", "show", tmp_path / "none.json").code == 3
    assert command("approx", "generate", "--alpha", 4, "-o", tmp_path / "none" / "a.json").code == 6


@pytest.mark.slow
def test_the_shipped_coefficients_can_be_written_again(command: Command, tmp_path: Path) -> None:
    from fheinfer.approx import minimax

    assert command("approx", "generate", "--published", "-o", tmp_path / "m.json").code == 0
    assert json.loads((tmp_path / "m.json").read_text()) == json.loads(minimax.DATA.read_text())
