"""What the command line prints, where and in what form: with a terminal, without one, and for strange text."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer import speed
from fheinfer.cli import display
from fheinfer.cli.display import EvaluationView, byte_bar, print_error, print_json, size, spinner, steps_bar, table
from fheinfer.cli.progress import Lines, duration

STRANGE = "keys[/z] [bold]x[/bold] :smile: \udcff\x1b[31m {0}"
PRINTED = "keys[/z] [bold]x[/bold] :smile: \\udcff\\x1b[31m {0}"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines() -> Callable[..., tuple[Lines, Clock, list[str]]]:
    """Progress in lines, a clock that stands until it is moved, and what was printed. No thread runs."""

    def make(amount: Any = "count", title: str = "images") -> tuple[Lines, Clock, list[str]]:
        clock, said = Clock(), list[str]()
        return Lines(title, amount, said.append, clock), clock, said

    return make


Make = Callable[..., tuple[Lines, Clock, list[str]]]


def test_a_line_after_two_seconds_and_then_every_ten(lines: Make) -> None:
    work, clock, said = lines()
    when = []
    for second in range(101):
        clock.now = float(second)
        before = len(said)
        work.update(second, 1000)
        when += [second] * (len(said) - before)
    assert when == [2, 12, 22, 32, 42, 52, 62, 72, 82, 92]
    assert said[1] == "images: 1 %, 12 of 1000, 12 s so far, 16 min 28 s left"


def test_short_work_has_a_line_for_every_tenth_and_not_more(lines: Make) -> None:
    work, clock, said = lines()
    for tenth in range(1, 301):
        clock.now = tenth / 10
        work.update(tenth, 300)
    assert 8 <= len(said) <= 11
    quick, clock, said = lines()
    for tenth in range(1, 20):
        clock.now = tenth / 10
        quick.update(tenth, 19)
    quick.stop(finished=True)
    assert said == []


def test_long_work_has_a_line_a_minute(lines: Make) -> None:
    work, clock, said = lines()
    for second in range(7200):
        clock.now = float(second)
        work.update(second, 72_000)
    assert 60 < len(said) < 180


def test_a_resumed_run_counts_its_speed_from_where_it_began(lines: Make) -> None:
    work, clock, said = lines()
    work.update(8, 10)
    clock.now = 20.0
    work.update(9, 10)
    assert said == ["images: 90 %, 9 of 10, 20 s so far, 20 s left"]


def test_bytes_notes_and_the_end(lines: Make) -> None:
    work, clock, said = lines("bytes", "making keys")
    clock.now = 3.0
    work.update(5e8, 1e9, "rotation 5")
    clock.now = 7.0
    work.stop(finished=True)
    assert said == ["making keys: 50 %, 500.00 MB of 1.00 GB, rotation 5, 3 s so far", "making keys: done in 7 s"]


def test_work_that_fails_is_not_done(lines: Make) -> None:
    work, clock, said = lines()
    clock.now = 3.0
    work.update(1, 2)
    work.stop(finished=False)
    assert len(said) == 1


def test_something_is_said_while_nothing_reports(capsys: pytest.CaptureFixture[str]) -> None:
    with spinner("loading"):
        time.sleep(3.5)
    said = capsys.readouterr().err
    assert re.fullmatch(r"loading: \d s so far\nloading: done in \d+ s\n", said), said


@pytest.mark.parametrize("bar", [byte_bar, steps_bar, spinner])
def test_quick_work_says_nothing_where_there_is_no_terminal(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(STRANGE) as tell:
        tell("x") if bar is spinner else tell(1, 2)
    assert capsys.readouterr() == ("", "")


def event(index: int, total: int = 4, **fields: Any) -> dict[str, Any]:
    return {
        "event": "step",
        "index": index,
        "total": total,
        "step": f"layer{index}[/z]",
        "op": "conv2d",
        "level": 5,
        "seconds": 1.5,
        "predicted": 1.0,
    } | fields


def test_an_evaluation_with_a_line_per_layer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "scale_seconds", lambda seconds: 2 * seconds)
    with EvaluationView(verbose=True) as view:
        view({"event": "plan", "seconds": [1.0, 1.0, 1.0, 1.0]})
        view({"event": "load", "what": "keys", "fraction": 0.5})
        for index in range(4):
            view(event(index))
        view({"event": "input", "name": "x"})
        view({"event": "something new"})
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 4
    assert printed[1] == "      2/4  layer1[/z]                     conv2d     level  5     1.50 s  (predicted 2.00)"


def test_an_evaluation_by_predicted_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, str]] = []
    with EvaluationView() as view:
        view.expect([1.0, 0.0, 8.0])
        monkeypatch.setattr(view._meter, "update", lambda done, total, note: told.append((done / total, note)))
        view({"event": "load", "what": "tables", "fraction": 1.0})
        view(event(0, 3))
        view(event(1, 3))
        view(event(2, 3))
    shares = [share for share, _ in told]
    assert shares == pytest.approx([0.9 / 9.9, 1.9 / 9.9, 1.901 / 9.9, 1.0], abs=1e-3)
    assert told[1][1] == "1/3 layer0[/z]"


def test_what_is_printed_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table(STRANGE, ["name[/z]", "n"], [[STRANGE, 1]])
    display.err.print("[/z] [bold]x[/bold] :smile:")
    print_error(STRANGE)
    out, err = capsys.readouterr()
    assert out.count(PRINTED) == 2
    assert "name[/z]" in out
    assert err == f"[/z] [bold]x[/bold] :smile:\nerror: {PRINTED}\n"


def test_an_error_of_two_lines_keeps_them_and_a_closed_stream_is_no_second_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    print_error("make it plain:\n  torch.save(x)")
    assert capsys.readouterr().err == "error: make it plain:\n  torch.save(x)\n"
    closed = (tmp_path / "x").open("w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    print_error("nobody reads this")


def test_a_table_without_a_terminal_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    row = ["x" * 100, *("1234567890.123" for _ in range(12))]
    table("wide", [f"column {i}" for i in range(13)], [row])
    out = capsys.readouterr().out
    assert "…" not in out
    assert any("x" * 100 in line and line.count("1234567890.123") == 12 for line in out.splitlines())


def test_json_has_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("inf"), float("nan"), 1, True, None, "[/z]\udcff"], "b": (0.5,)})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1, True, None, "[/z]\udcff"], "b": [0.5]}


@pytest.mark.parametrize(
    "n, says", [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (2e6, "2.00 MB"), (5e12, "5000.00 GB")]
)
def test_sizes(n: float, says: str) -> None:
    assert size(n) == says


@pytest.mark.parametrize("seconds, says", [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3900, "1 h 5 min")])
def test_durations(seconds: float, says: str) -> None:
    assert duration(seconds) == says


WORK = """
import sys, time
from fheinfer.cli.display import steps_bar, table, err
with steps_bar("images [/z]") as tell:
    for i in range(int(sys.argv[1])):
        tell(i, 1000)
        time.sleep(0.02)
table("wide", ["name", "number"], [["x" * 60, "1234567890"]])
"""


def on_terminal(*arguments: str, interrupt: float | None = None) -> str:
    """What a program writes to a terminal of 40 columns, and the last of it after Ctrl-C."""
    master, slave = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(fheinfer.__file__).parent.parent),
        "COLUMNS": "40",
        "TERM": "xterm",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    if interrupt:
        time.sleep(interrupt)
        process.send_signal(signal.SIGINT)
    text = b""
    try:
        while chunk := os.read(master, 65536):
            text += chunk
    except OSError:  # Linux says EIO at the end
        pass
    os.close(master)
    process.wait()
    return text.decode()


def test_a_terminal_gets_a_bar_that_goes_away_and_a_table_without_lost_digits() -> None:
    text = on_terminal("30")
    assert "images [/z]" in text
    assert "\x1b[2K" in text  # the line of the bar is erased
    last = text.rpartition("\x1b[2K")[2]
    assert "images" not in last
    assert last.count("x") >= 60  # folded over several lines
    assert "…" not in last


def test_an_interrupt_leaves_no_half_line() -> None:
    text = on_terminal("2000", interrupt=3.0)
    assert "images [/z]" in text
    after = text.rpartition("\x1b[2K")[2]
    assert "images" not in after.partition("Traceback")[0]
