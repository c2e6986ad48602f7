"""What commands need to use a service: its address and token, and what is shown while it works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fheinfer.cli import choices, unlock
from fheinfer.cli.display import err
from fheinfer.cli.progress import Amount, Meter
from fheinfer.errors import CorruptArtifactError, FheinferError, InputError
from fheinfer.service.remote import Remote, RemoteModel
from fheinfer.storage import read_small, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

MAX_TOKEN = 4096
"""Bytes of a file with a token."""


def connect(url: str, token_file: Path | None, keys: Path | None = None, **options: Any) -> Remote:
    """A service, with the token in a file, or in the environment.

    Args:
        options: others of `Remote`.

    Raises:
        InputError, StorageError: no such file, or none with a token.
        UsageError, TokenError: see `Remote`.
    """
    return Remote(url, _token(token_file), keys=choices.KEYS / "servers" if keys is None else keys, **options)


def opened(remote: Remote, model: Path | None, accept_plan: bool, passphrase_file: Path | None) -> RemoteModel:
    """A model of the service, with the passphrase of its keys; asks for it where `unlock.passphrase_of` does.

    Raises:
        FheinferError: see `Remote.open` and `unlock.passphrase_of`.
    """
    found = remote.open(None if model is None else str(model), accept_plan=accept_plan)
    found.keys.passphrase = unlock.passphrase_of(found.folder.keys, passphrase_file)
    return found


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        lines = read_small(file, MAX_TOKEN, "a file with a token").decode("ascii", "replace").split()
    except FileNotFoundError:
        raise InputError(f"{shown(file)}: no such file; put the token on its first line") from None
    except CorruptArtifactError as error:
        raise InputError(str(error)) from None
    if not lines:
        raise InputError(f"{shown(file)}: it is empty; put the token on its first line")
    return lines[0]


@dataclass
class Answers:
    """Outputs of inputs by name, seconds of evaluation of each, and what all took: seconds by phase, bytes.

    failures  of inputs whose job failed, by name
    error     that ended it before all inputs were done
    """

    outputs: dict[str, dict[str, F64]] = field(default_factory=dict)
    each: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, FheinferError] = field(default_factory=dict)
    error: BaseException | None = None


def evaluated(model: RemoteModel, inputs: Mapping[str, F64]) -> Answers:
    """All inputs evaluated by the service, under bars; where something ends that early, those that were done.

    Raises what `RemoteModel.evaluate` does, where no input was done.
    """
    done, began = Answers(), time.perf_counter()
    with RemoteView(len(inputs)) as view:
        try:
            for one in model.evaluate(inputs, view, done.failures.__setitem__):
                done.outputs[one.name], done.sizes = one.outputs, one.sizes
                if one.job.started is not None and one.job.finished is not None:
                    done.each[one.name] = one.job.finished - one.job.started
        except (FheinferError, KeyboardInterrupt) as error:
            done.error = error
    reasons = [reason for reason in (done.error, *done.failures.values()) if reason is not None]
    if not done.outputs and reasons:
        raise reasons[0]
    ready = view.keys_at or began
    done.seconds = {"keys": ready - began, "answers": time.perf_counter() - ready, "evaluate": sum(done.each.values())}
    return done


class RemoteView:
    """Follows the events of a `RemoteModel`: keys, upload, place in the queue, layers; of many inputs the number done.

    keys_at  when keys were there (`time.perf_counter`)
    """

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._meter: Meter | None = None
        self._title = ""
        self.keys_at: float | None = None
        self._layers_at: float | None = None
        self._away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._meter is not None:
            self._meter.__exit__(*error)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes an event; those it does not know are ignored."""
        if event["event"] == "away" and not self._away:
            (err if self._meter is None else self._meter).print("no answer from the service, trying again")
        self._away = event["event"] == "away"
        match event["event"]:
            case "keygen":
                self._show("making keys", "percent", event["fraction"], 1)
            case "upload":
                self._show("uploading keys", "bytes", event["done"], event["total"])
            case "encrypt":
                self.keys_at = self.keys_at or time.perf_counter()
                self._evaluating(0, 1, "encrypting")
            case "queued":
                self._evaluating(0, 1, f"number {event['position']} in the queue")
            case "step":
                self._layers_at = self._layers_at or time.perf_counter()
                done, left = time.perf_counter() - self._layers_at, event["seconds_left"]
                done, total = (event["index"], event["total"]) if left is None else (done, done + left)
                self._evaluating(done, total, f"{event['index']}/{event['total']}")
            case "decrypt":
                self._done += 1
                self._evaluating(1, 1, "decrypting")

    def _evaluating(self, done: float, total: float, note: str) -> None:
        if self._total == 1:
            self._show("evaluating", "percent", done, total, note)
        else:
            self._show("inputs", "count", self._done, self._total)

    def _show(self, title: str, amount: Amount, done: float, total: float, note: str | None = None) -> None:
        if self._meter is None or title != self._title:
            if self._meter is not None:
                self._meter.__exit__(None, None, None)
            self._meter, self._title = Meter(title, amount, err), title
            self._meter.__enter__()
        self._meter.update(done, total, note)
