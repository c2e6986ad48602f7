"""A plot of activations: the function that is approximated, the approximation, and the error."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from fheinfer.approx.composition import F64
from fheinfer.approx.forms import Activation, Maximum, MaxPool
from fheinfer.approx.measure import missed
from fheinfer.optional import needs
from fheinfer.storage import atomic_write

FORMATS = (".png", ".svg", ".pdf")
_SMALLEST, _LARGEST = 1e-12, 1e9  # errors that are drawn


def plot(activations: Sequence[Activation], path: Path, extent: float = 1.05) -> None:
    """Plots function and approximations over |x| <= extent times the range; below, |error| on a logarithmic axis.

    Max is drawn over a - b with b = 0, max-pool as one of its comparisons. Values far outside the range are cut off.

    Raises:
        UsageError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    with needs("matplotlib", "a plot"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    drawn = [a.pair if isinstance(a, MaxPool) else a for a in activations]
    for function, x in {a.function: _inputs(a, extent) for a in drawn}.items():
        exact = _exact(next(a for a in drawn if a.function == function), x)
        upper.plot(x, exact, color="0.6", linewidth=4, label=function)
    for shown, a in zip(activations, drawn, strict=True):
        x = _inputs(a, extent)
        with np.errstate(all="ignore"):
            difference = np.nan_to_num(missed(a, x), nan=_LARGEST).clip(-_LARGEST, _LARGEST)
        upper.plot(x, _exact(a, x) + difference, linewidth=1, label=f"{shown.name}, {shown.levels} levels")
        lower.semilogy(x, np.abs(difference).clip(_SMALLEST), linewidth=1, label=shown.name)
    scale = max(a.scale for a in drawn)
    heights = np.concatenate([_exact(a, _inputs(a, extent)) for a in drawn])
    upper.set_ylim(min(float(heights.min()), 0) - 0.2 * scale, float(heights.max()) + 0.2 * scale)
    lower.set_ylim(1e-7 * scale, 10 * scale)
    for edge in {s * a.scale for a in drawn for s in (-1, 1)}:
        lower.axvline(edge, color="0.8", zorder=0)
        upper.axvline(edge, color="0.8", zorder=0)
    upper.set_ylabel("value")
    lower.set_ylabel("|error|")
    lower.set_xlabel("a - b" if all(isinstance(a, Maximum) for a in drawn) else "x")
    lower.grid(alpha=0.3)
    upper.grid(alpha=0.3)
    upper.legend(loc="upper left")
    image = BytesIO()
    figure.savefig(image, dpi=150, format=path.suffix.lower().removeprefix("."))
    atomic_write(path, [image.getvalue()])


def _inputs(activation: Activation, extent: float) -> F64:
    near = np.geomspace(1e-5, 1, 1500)
    uniform = np.linspace(-1, 1, 3001)
    return np.union1d(uniform, np.concatenate([near, -near])) * activation.scale * extent


def _exact(activation: Activation, x: F64) -> F64:
    return activation.exact(x, np.zeros_like(x)) if isinstance(activation, Maximum) else activation.exact(x)
