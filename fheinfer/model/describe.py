"""What a model takes and gives, in words: nothing of it is left to be guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from fheinfer.model.graph import Graph


class Described(Protocol):
    """What words are made of: the fields of a `Model`, which has them in its own."""

    @property
    def name(self) -> str: ...
    @property
    def graph(self) -> Graph: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def ranges(self) -> Mapping[str, float]: ...
    @property
    def provenance(self) -> Mapping[str, str]: ...
    @property
    def final(self) -> str: ...


LAYOUTS = {1: "numbers", 2: "channels x length", 3: "channels x height x width"}
"""Axes of an input, by how many there are."""
SHOWN = 8
"""Names and numbers that are listed; the rest are counted."""


def describe(model: Described) -> tuple[str, ...]:
    """Input layout, normalisation, outputs with their classes, and operations, one line for each."""
    shape = model.graph.input_shape
    size = " x ".join(map(str, shape))
    return (
        f"input: {size} ({LAYOUTS.get(len(shape), 'axes of the network')})",
        f"normalisation: {normalisation(shape, model.mean, model.std)}",
        *_outputs(model),
        f"operations: {_operations(model)}",
    )


def in_words(model: Described) -> str:
    """All that is known of a model, in lines under its name: `describe`, where it comes from, what was measured."""
    activations, measured = model.graph.activations, bool(model.ranges)
    ranges = ["ranges: " + ("measured" if measured else "missing: calibrate the model")] if activations else []
    origins = [f"{key}: {value}" for key, value in model.provenance.items()]
    return "\n  ".join([model.name, *describe(model), *ranges, *origins])


def normalisation(shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> str:
    """What is done to an input of that shape before it reaches the network."""
    image = len(shape) == 3
    if set(mean) == {0.0} and set(std) == {1.0}:
        files = ", and pixels of image files divided by 255" if image else ""
        return f"none (mean 0, std 1): arrays are taken as they are{files}"
    scaled = "pixels between 0 and 1" if image else "features"
    return f"of {scaled}, mean {_listed(mean)}, std {_listed(std)}"


def _outputs(model: Described) -> list[str]:
    final = f", then {model.final.replace('_', '-')} by the client" if model.final else ""
    lines = []
    for name in model.graph.outputs:
        shape = model.graph.shapes[name]
        lines.append(f"output {name!r}: {' x '.join(map(str, shape))} numbers{final}")
    if model.classes:
        numbered = model.classes == tuple(map(str, range(len(model.classes))))
        lines.append(f"classes: {'no names given' if numbered else _listed(model.classes)}")
    return lines


def _operations(model: Described) -> str:
    counts = Counter(node.op.kind for node in model.graph.nodes[1:])
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _listed(values: Sequence[float] | Sequence[str]) -> str:
    words = [f"{value:g}" if isinstance(value, float) else value for value in values[:SHOWN]]
    rest = len(values) - len(words)
    return ", ".join(words) + (f" and {rest} more" if rest else "")
