"""Why a parameter set was chosen: each choice with its value, its reason and what else there was.

`why.json` beside a plan has it for `fheinfer plan --why`: nobody needs it to run the plan, and it is no part of its
identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fheinfer.storage import parse_json, read_small, write_json

FILE_NAME = "why.json"
MAX_BYTES = 1 << 20
"""Bytes of a why.json."""


@dataclass(frozen=True)
class Alternative:
    """Another value of a choice, with the best set that has it.

    seconds  predicted, with two threads of the reference machine
    bits     that encryption is expected to keep of the largest output
    memory   bytes of a server, with the rotation keys that take less; None in a file from before this was written
    """

    value: str
    set: str
    seconds: float
    bits: float
    memory: int | None = None


@dataclass(frozen=True)
class Reason:
    """One choice. alternatives: without the value that was taken; those within the memory limit first, by time."""

    choice: str
    value: str
    reason: str
    alternatives: tuple[Alternative, ...] = ()


def lines(reasons: Sequence[Reason]) -> list[str]:
    """The reasons as text, one line per choice and one per alternative."""
    out = []
    for r in reasons:
        out.append(f"{r.choice}: {r.value} ({r.reason})")
        for a in r.alternatives:
            memory = "" if a.memory is None else f", {a.memory / 1e6:,.0f} MB"
            out.append(f"  instead {a.value}: {a.seconds:.3g} s, {a.bits:.0f} bits{memory}, set {a.set}")
    return out


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    plan: str
    reasons: tuple[Reason, ...]


def save(folder: Path, plan: str, reasons: Sequence[Reason]) -> None:
    """Writes `why.json` beside the plan of that identity.

    Raises:
        StorageError: see `storage.atomic_write`.
    """
    write_json(folder / FILE_NAME, {"format": 1, "plan": plan, "reasons": [asdict(reason) for reason in reasons]})


def load(folder: Path, plan: str) -> tuple[Reason, ...]:
    """Reads it; nothing where there is none, or where it is of another plan.

    Raises:
        CorruptArtifactError: too large, not JSON, or a field that is missing or unknown.
    """
    path = folder / FILE_NAME
    try:
        raw = read_small(path, MAX_BYTES, "the reasons of a plan")
    except FileNotFoundError:
        return ()
    found = parse_json(raw, path, _File, "delete it, or compile the model again")
    return found.reasons if found.plan == plan else ()
