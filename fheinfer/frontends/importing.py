"""A model from the weights that other programs saved, for a network of the zoo. Nothing is guessed without a note."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fheinfer.data.files import printable
from fheinfer.errors import UsageError, WeightsError
from fheinfer.frontends import zoo
from fheinfer.frontends.checkpoints import match, read_checkpoint
from fheinfer.frontends.translation import Translated
from fheinfer.model.model import Model, is_model_file
from fheinfer.model.model import load as load_model

CIFAR: tuple[tuple[float, ...], tuple[float, ...]] = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation that most training scripts for CIFAR-10 normalise with; assumed where none are given."""
DEFAULT_NETWORK = "resnet20"


@dataclass(frozen=True)
class Imported:
    """A model, and what was recognised or assumed: a line each."""

    model: Model
    notes: tuple[str, ...]

    def told(self, quiet: bool) -> Model:
        """Returns the model, after its notes went to standard error; they do not with `quiet`."""
        if not quiet:
            print(f"imported {self.model.name}", *self.notes, sep="\n  ", file=sys.stderr)
        return self.model


def import_model(
    path: Path,
    network: str | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    ranges: Mapping[str, float] | None = None,
    entry: str | None = None,
    option_a: bool | None = None,
) -> Imported:
    """A checkpoint of a network of the zoo as a model; a model file of ours with other settings.

    Args:
        network: what the weights are of; resnet20 where nothing is said, and what the file says of a model file.
        mean, std: the input is (pixel / 255 - mean) / std per channel.
        classes: names of the outputs; numbers where none are given. How many there are is what the last layer says.
        ranges: largest |input| of every activation.
        entry, option_a: see `checkpoints.read_checkpoint` and `checkpoints.match`.

    Raises:
        WeightsError: no file of weights, or not of this network.
        UnknownNetworkError, UsageError: `network` or its classes cannot be.
    """
    require_both(mean, std)
    if is_model_file(path):
        model = load_model(path)
        if network is not None and network != model.name:
            raise WeightsError(f"{path}: a model of {model.name}, not of {network}")
        changed = replace(
            model,
            mean=tuple(mean or model.mean),
            std=tuple(std or model.std),
            classes=tuple(classes or model.classes),
        )
        changed = changed if ranges is None else changed.with_ranges(ranges)
        return Imported(changed, _normalisation(changed, given=True))
    name = network or DEFAULT_NETWORK
    checkpoint = read_checkpoint(path, entry)
    try:
        graph = zoo.network(name)
        count = checkpoint.classes()
        if graph.shapes[graph.output.name] != (count,):
            graph = zoo.network(name, count)
        found = match(checkpoint, graph.tensor_shapes(), option_a=option_a)
    except WeightsError as error:
        if network is not None:
            raise
        own = f"package.module:Class --weights {printable(path)}"
        raise WeightsError(f"{error}; taken for {name}: --network names another, {own} one of your own") from None
    channels = graph.input_shape[0]
    usual_mean, usual_std = CIFAR if channels == 3 else ((0.0,) * channels, (1.0,) * channels)
    model = Model(
        graph,
        found.arrays,
        tuple(mean or usual_mean),
        tuple(std or usual_std),
        tuple(classes or ()),
        ranges or {},
        {"imported from": path.name},
    )
    notes = [f"taken for {name} with {count} outputs" + ("" if network else " (--network says otherwise)")]
    return Imported(model, (*notes, *found.notes, *_normalisation(model, given=bool(mean and std))))


def model_of(
    translated: Translated,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str] | None,
    provenance: Mapping[str, str],
) -> Model:
    """A translated graph as a model, with 0 and 1 where no normalisation is given.

    Raises:
        UsageError: mean without std, or std without mean.
    """
    require_both(mean, std)
    channels = translated.graph.input_shape[0]
    return Model(
        translated.graph,
        translated.tensors,
        tuple(map(float, mean)) if mean is not None else (0.0,) * channels,
        tuple(map(float, std)) if std is not None else (1.0,) * channels,
        tuple(classes or ()),
        provenance=provenance,
        final=translated.final,
    )


def require_both(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuses half of a normalisation: the other half would be a guess.

    Raises:
        UsageError: mean without std, or std without mean.
    """
    if (mean is None) != (std is None):
        raise UsageError("mean and std go together: give both, or neither")


def _normalisation(model: Model, *, given: bool) -> tuple[str, ...]:
    numbers = f"mean {_words(model.mean)} and std {_words(model.std)}"
    if given:
        return (f"inputs are normalised with {numbers}",)
    return (f"inputs are assumed to be normalised with {numbers}, as most scripts do; --mean and --std say otherwise",)


def _words(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
