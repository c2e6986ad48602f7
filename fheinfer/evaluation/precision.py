"""Compares an encrypted run, layer by layer, with the same plan on slots and with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fheinfer.client import Client
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import Step
from fheinfer.errors import CorruptArtifactError
from fheinfer.evaluation.metrics import Precision, precision_bits
from fheinfer.model.ops import Bootstrap, SumPool
from fheinfer.optional import needs
from fheinfer.storage import PRIVATE, atomic_write

Layers = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class LayerPrecision:
    """The precision of one step, in bits as `metrics.precision_bits`.

    Against slots it is the encryption's share of the error; against PyTorch, that of the polynomials as well (None
    where PyTorch has no such layer).
    """

    step: str
    op: str
    level: int
    seconds: float
    largest: float
    slots_minimum: float
    slots_median: float
    torch_minimum: float | None
    torch_median: float | None


def compare(plan: Plan, client: Client, checkpoints: Path, slots: Layers, torch: Layers) -> list[LayerPrecision]:
    """Decrypts and compares the layers that a server kept in `checkpoints`; the client runs it, with its secret key.

    Args:
        slots: every step's values on the slots backend.
        torch: every node's values in PyTorch, may be empty.
    """
    rows = []
    for index, step in enumerate(plan.steps):
        values, seconds = _read(plan, client, checkpoints, index)
        clear = slots[step.name]
        ours = precision_bits(clear, values)
        theirs = _against(step, values, torch)
        rows.append(
            LayerPrecision(
                step.name,
                step.op.kind,
                step.level,
                seconds,
                float(np.abs(clear).max()),
                ours.minimum,
                ours.median,
                theirs.minimum if theirs else None,
                theirs.median if theirs else None,
            )
        )
    return rows


def layer_bits(plan: Plan, values: Layers, reference: Layers) -> dict[str, Precision]:
    """Measures how close `values` are to `reference`, for every step that both have, in the order of the plan.

    Args:
        values: as `run_slots`, `simulated_layers` or `encrypted_layers` give them, (C, H, W) by step.
        reference: the same of another run, or the layers of PyTorch (`plain_layers`).
    """
    found = {step.name: _against(step, values[step.name], reference) for step in plan.steps if step.name in values}
    return {name: bits for name, bits in found.items() if bits}


def encrypted_layers(plan: Plan, client: Client, checkpoints: Path) -> dict[str, NDArray[np.float64]]:
    """Decrypts every layer that a server kept in `checkpoints`: (C, H, W) by step. Needs the secret key.

    Raises:
        CorruptArtifactError: layers of another plan.
    """
    return {step.name: _read(plan, client, checkpoints, i)[0] for i, step in enumerate(plan.steps)}


def _read(plan: Plan, client: Client, checkpoints: Path, index: int) -> tuple[NDArray[np.float64], float]:
    """Values of that step, and the seconds it took."""
    step, path = plan.steps[index], checkpoints / f"layer_{index:03d}.ct"
    metadata, decrypted = client.read_slots(path)
    if metadata.get("step") != step.name or metadata.get("plan") != plan.identity:
        raise CorruptArtifactError(f"{path} is not layer {step.name!r} of this plan; run the evaluation again")
    return step.values(decrypted), float(metadata.get("seconds", 0.0))


def _against(step: Step, values: NDArray[np.float64], reference: Layers) -> Precision | None:
    exact = reference.get(step.name)
    if exact is None:
        return None
    if isinstance(step.op, SumPool) and exact.ndim == 1:  # PyTorch's mean: ours sums, the division is in the next layer
        exact = exact * math.prod(step.in_packings[0].shape[1:])
    return precision_bits(exact.reshape(values.shape), values)


def plot(rows: list[LayerPrecision], path: Path, title: str) -> None:
    """Draws the bits by layer: against slots and against PyTorch, minimum and median."""
    with needs("matplotlib", "a plot"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.add_subplot()
    x = range(len(rows))
    axes.fill_between(x, [r.slots_minimum for r in rows], [r.slots_median for r in rows], alpha=0.25, color="tab:blue")
    axes.plot(x, [r.slots_minimum for r in rows], color="tab:blue", label="against slots, minimum")
    axes.plot(x, [r.slots_median for r in rows], color="tab:blue", linestyle=":", label="against slots, median")
    known = [(i, r) for i, r in enumerate(rows) if r.torch_minimum is not None]
    axes.plot(
        [i for i, _ in known],
        [r.torch_minimum or 0.0 for _, r in known],
        "o",
        color="tab:orange",
        markersize=4,
        label="against PyTorch, minimum",
    )
    for i in (i for i, r in enumerate(rows) if r.op == Bootstrap.kind):
        axes.axvline(i, color="0.85", zorder=0)
    axes.set_xticks(list(x), [r.step for r in rows], rotation=90, fontsize=6)
    axes.set_ylabel("bits")
    axes.set_title(title)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right", title="grey lines: bootstraps")
    image = BytesIO()
    figure.savefig(image, dpi=150, format=path.suffix.lower().removeprefix("."))
    atomic_write(path, [image.getvalue()], PRIVATE)
