"""Progress of long work on standard error: a bar on a terminal, and a line every so often where there is none.

Lines come 2 s after the start, then every 10 s (every minute after ten), and sooner when another tenth is done. A
thread prints them, so that something is said also while nothing reports. Each is written at once: Ctrl-C leaves no half
line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fheinfer.storage import shown

Amount = Literal["bytes", "count", "percent", "unknown"]
"""What is counted; "unknown" is work whose length nobody knows."""

FIRST, EVERY, LATER, PATIENCE, TENTH = 2.0, 10.0, 60.0, 600.0, 0.1


class Meter:
    """One piece of work, as a context manager; `update` tells how far it is."""

    def __init__(self, title: str, amount: Amount, console: Console) -> None:
        animated = console.is_terminal and not console.is_dumb_terminal
        self._shows: _Bar | Lines = _Bar(title, amount, console) if animated else Lines(title, amount, console.print)

    def __enter__(self) -> Self:
        self._shows.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shows.stop(finished=kind is None)

    def update(self, done: float, total: float, note: str | None = None) -> None:
        """So much of the total is done; `note` takes the place of the title."""
        self._shows.update(done, total, note)

    def print(self, line: str) -> None:
        """A line that stays, above the bar."""
        self._shows.print(line)


class _Bar:
    def __init__(self, title: str, amount: Amount, console: Console) -> None:
        amounts: dict[Amount, tuple[ProgressColumn, ...]] = {
            "bytes": (BarColumn(), DownloadColumn()),
            "count": (BarColumn(), MofNCompleteColumn()),
            "percent": (BarColumn(), TextColumn("{task.percentage:>3.0f} %")),
            "unknown": (),
        }
        left = (TextColumn("left"), TimeRemainingColumn()) if amount != "unknown" else ()
        spinner = (SpinnerColumn(),) if amount == "unknown" else ()
        name = TextColumn("{task.description}", markup=False)
        columns = (*spinner, name, *amounts[amount], TimeElapsedColumn(), *left)
        self._rich = Progress(*columns, console=console, transient=True)
        self._task = self._rich.add_task(shown(title), total=None)

    def start(self) -> None:
        self._rich.start()

    def stop(self, *, finished: bool) -> None:
        self._rich.stop()

    def update(self, done: float, total: float, note: str | None) -> None:
        known = total if total > 0 else None
        self._rich.update(self._task, completed=done, total=known, description=None if note is None else shown(note))

    def print(self, line: str) -> None:
        self._rich.console.print(shown(line, len(line)), markup=False, highlight=False)


class Lines:
    """The same as lines. `write` prints one; with a `clock` of its own a test calls `tick` itself."""

    def __init__(
        self,
        title: str,
        amount: Amount,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._amount, self._clock = shown(title), amount, clock
        self._write = write
        self._done = self._total = 0.0
        self._first: float | None = None  # a resumed run starts in the middle, and the speed counts from there
        self._note = ""
        self._began = self._printed_at = clock()
        self._printed_part = 0.0
        self._lines = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._began = self._printed_at = self._clock()
        self._thread.start()

    def stop(self, *, finished: bool) -> None:
        """The last line says how long it took, where there were lines before."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()  # at most the line it is in
        if finished and self._lines:
            self._write(f"{self._title}: done in {duration(self._clock() - self._began)}")

    def update(self, done: float, total: float, note: str | None = None) -> None:
        with self._lock:
            self._done, self._total = done, total
            if note is not None:
                self._note = shown(note)
            if self._first is None and total > 0:
                self._first = self._printed_part = done / total
        self.tick()

    def print(self, line: str) -> None:
        with self._lock:
            self._write(shown(line, len(line)))
            self._printed_at, self._printed_part = self._clock(), self._part()

    def tick(self) -> None:
        """Prints a line if it is time for one."""
        with self._lock:
            now = self._clock()
            if self._due(now):
                self._write(self._line(now))
                self._printed_at, self._printed_part = now, self._part()
                self._lines += 1

    def _run(self) -> None:
        with suppress(OSError, ValueError):  # standard error is gone; whoever prints next finds out
            while not self._stop.wait(1.0):
                self.tick()

    def _part(self) -> float:
        return self._done / self._total if self._total > 0 else 0.0

    def _due(self, now: float) -> bool:
        since = now - self._printed_at
        if since < FIRST:
            return False
        if not self._lines or self._part() - self._printed_part >= TENTH:
            return True
        return since >= (EVERY if now - self._began < PATIENCE else LATER)

    def _line(self, now: float) -> str:
        elapsed, part, says = now - self._began, self._part(), []
        if self._total > 0:
            says.append(f"{100 * part:.0f} %")
            if self._amount == "bytes":
                says.append(f"{size(self._done)} of {size(self._total)}")
            elif self._amount == "count":
                says.append(f"{self._done:.0f} of {self._total:.0f}")
        if self._note:
            says.append(self._note)
        says.append(f"{duration(elapsed)} so far")
        if self._first is not None and part - self._first > 0 and part < 1:
            says.append(f"{duration(elapsed * (1 - part) / (part - self._first))} left")
        return f"{self._title}: {', '.join(says)}"


def size(n: float) -> str:
    """Bytes for people, decimal units."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 3 min 20 s, 1 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
