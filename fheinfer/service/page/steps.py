"""One input on its way, and the steps of it that the page shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fheinfer.errors import FheinferError

F64 = NDArray[np.float64]
Shown = dict[str, Any]
"""What goes to the browser, in JSON's types."""

STEPS = ("keys", "encrypt", "upload", "queue", "layers", "result", "decrypt")
SAMPLE = 64 * 64
"""Bytes of an encrypted input that are kept to be shown, from its middle: in front of them is a header in clear."""
HEX = 24
"""Of them, how many are shown as numbers."""


class Stopped(Exception):
    """The person stopped this run."""


@dataclass
class Step:
    """A step of a run.

    seconds  that it took, or has taken so far
    part     how much of it is done, 0 to 1, where that is known
    facts    what else there is to say of it, by name
    """

    state: Literal["todo", "now", "done"] = "todo"
    began: float = 0.0
    took: float = 0.0
    part: float | None = None
    facts: Shown = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began if self.state == "now" else self.took


@dataclass
class Run:
    """An input, and what became of it. Written by the thread that computes it, read by all.

    pixels   the image as the network sees it, uint8 (H, W, C)
    x        the same normalised, as it is encrypted
    compare  whether the network is computed in clear, too
    error    why it failed; while it waits for the service, why that does not answer
    note     why there is nothing in clear to compare the answer with, where that was asked for
    sample   bytes from the middle of the encrypted input, whose size is `sent`
    """

    id: int
    model: str
    name: str
    pixels: NDArray[np.uint8]
    x: F64
    compare: bool
    created: float = field(default_factory=time.time)
    state: Literal["running", "waiting", "done", "failed", "stopped"] = "running"
    steps: dict[str, Step] = field(default_factory=lambda: {name: Step() for name in STEPS})
    error: FheinferError | None = None
    note: str | None = None
    answers: list[Shown] | None = None
    sample: bytes = b""
    sent: int = 0
    job: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    version: int = 0

    @property
    def going_on(self) -> bool:
        return self.state in ("running", "waiting")

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """A step begins, and is done at the end of the block.

        Raises:
            Stopped: the person does not want it any more.
        """
        self.begin(name)
        yield self.steps[name]
        self.end(name)

    def begin(self, name: str) -> None:
        if self.stopping.is_set():
            raise Stopped
        step = self.steps[name]
        if step.state == "todo":
            step.began, step.state = time.monotonic(), "now"
        self.changed()

    def end(self, name: str) -> None:
        step = self.steps[name]
        if step.state == "now":
            step.took, step.state, step.part = step.seconds, "done", None
        self.changed()

    def follow(self, event: Mapping[str, Any]) -> None:
        """Takes an event of the remote client.

        Raises:
            Stopped: see `step`.
        """
        if self.stopping.is_set():
            raise Stopped
        kind = event["event"]
        if kind == "away":
            return
        self.resume()
        if kind == "keygen":
            self._progress("keys", event["fraction"], doing="make")
        elif kind == "upload":
            self._progress("keys", event["done"] / max(1, event["total"]), doing="upload", bytes=event["total"])
        elif kind == "queued":
            self._progress("queue", None, position=event["position"])
        elif kind == "step":
            self.end("queue")
            self.begin("layers")
            left = event.get("seconds_left")
            self._progress("layers", event["index"] / max(1, event["total"]), left=left, layers=event["total"])
        self.changed()

    def resume(self) -> None:
        """The service answers (again)."""
        if self.going_on:
            self.state, self.error = "running", None
        self.changed()

    def wait(self, error: FheinferError) -> None:
        """The service does not answer."""
        self.state, self.error = "waiting", error
        self.changed()

    def finish(self, state: Literal["done", "failed", "stopped"], error: FheinferError | None = None) -> None:
        for step in self.steps.values():
            if step.state == "now":
                step.took, step.state, step.part = step.seconds, "todo", None
        self.state, self.error = state, error
        self.changed()

    def changed(self) -> None:
        self.version += 1

    def shown(self) -> Shown:
        """All of it but the image."""
        steps = [
            {"name": name, "state": step.state, "seconds": round(step.seconds, 2), "part": step.part, **step.facts}
            for name, step in self.steps.items()
        ]
        height, width = self.pixels.shape[:2]
        return {
            "id": self.id,
            "model": self.model,
            "name": self.name,
            "created": self.created,
            "compare": self.compare,
            "state": self.state,
            "steps": steps,
            "error": None if self.error is None else shown_error(self.error),
            "note": self.note,
            "answers": self.answers,
            "sent": {"bytes": self.sent, "hex": self.sample[:HEX].hex(" ")} if self.sent else None,
            "width": width,
            "height": height,
        }

    def _progress(self, name: str, part: float | None, **facts: object) -> None:
        step = self.steps[name]
        step.part, step.facts = part, facts


def shown_error(error: Exception) -> Shown:
    """An error as the page shows it: its kind, which the page has a sentence for, and its line."""
    return {"kind": type(error).__name__, "message": str(error)}
