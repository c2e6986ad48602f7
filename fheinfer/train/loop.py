"""Training a network: data, checkpoints, and what comes out of it. `run` has the epochs, `report` the results."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fheinfer.data import datasets
from fheinfer.data.labelled import DataSet, part_of_whole, split
from fheinfer.data.loaders import from_python, is_array
from fheinfer.errors import UsageError
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model, load
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.observer import TrainingObserver, measuring, unobserved
from fheinfer.train.recipe import Recipe
from fheinfer.train.report import write_report
from fheinfer.train.run import Run

_LEAST_STD = 1e-6


def train(
    network: str | Graph,
    out: str | os.PathLike[str],
    data: Any,
    recipe: Recipe,
    resume: bool = False,
    observer: TrainingObserver = unobserved,
    teacher: Model | None = None,
    fused: bool = False,
    start: Model | None = None,
) -> Model:
    """Trains a network of the zoo, by name and with an output for each class, or any other graph on `data`.

    Writes the model file `out`, and a model card beside it, and returns that model. Its classes are called as those of
    `start`, or `teacher`, or as the data calls them. Where the mean and std of the recipe are not as many numbers as
    the input has channels or features, those of the training data are measured.

    Args:
        data: a path, as `datasets.load` takes it, None for $FHEINFER_DATA; or what `data.loaders.from_python` takes,
            with labels: a DataLoader, a tuple (inputs, labels) of arrays or tensors, a `DataSet`. Where it has no
            parts, a tenth is for the test; or a tuple of two of any of these, (for training, for the test). It is read
            once: of a loader that augments, one version of each example is seen.

    After every epoch a checkpoint is written beside `out`; an interrupt loses the epoch it falls into and nothing
    more. With `resume` a run goes on from there and ends with the same weights as one that was never stopped.
    A run begins with the weights that `start` has under the same name and of the same shape; all others are random.
    `fused` compiles the network with torch.compile: several times as fast with quadratics, for a minute at the start,
    the need of a C++ compiler, and sums in another order.

    Raises:
        DatasetError: the data cannot be used, has no labels, or inputs of another shape.
        GraphError: the layers of the network are not those that can be trained.
        UsageError: the loss is no longer a number (the last good checkpoint is kept); a recipe for PAFs without one;
            fewer outputs than the data has classes.
        PlanError: diagonals are to be pruned of a network that cannot be evaluated encrypted.
        CorruptArtifactError, MismatchError: a checkpoint that cannot be resumed from.
        StorageError: a file cannot be written.
    """
    out = Path(out)
    if teacher is not None:
        recipe = replace(recipe, teacher=teacher.identity)
    if start is not None:
        recipe = replace(recipe, start=start.identity)
    graph = network if isinstance(network, Graph) else zoo.network(network)
    training, test = parts(graph, data)  # now, so that a missing file does not show after the training
    if isinstance(network, str) and len(training.classes) not in (0, _outputs(graph)):
        graph = zoo.network(network, len(training.classes))
    names = _class_names(graph, training, start, teacher)
    _require_outputs(graph, training)
    if names:
        training, test = training.labelled_as(names), test.labelled_as(names)
    if start is not None and len(recipe.mean) != len(start.mean) == graph.input_shape[0]:
        recipe = replace(recipe, mean=start.mean, std=start.std)
    elif start is None:
        recipe = normalised_by(graph, recipe, training)
    fitting, held_out = split(training)
    checkpoint = checkpoint_path(out)
    if resume and checkpoint.exists():
        state = Checkpoint.load(checkpoint, graph, recipe)
    else:
        state = Checkpoint(graph.name, recipe)
    run = Run(state, graph, fitting, held_out, observer, teacher, fused, start)
    while state.epoch < recipe.epochs:
        run.epoch()
        state.save(checkpoint)
    progress = measuring(observer, state.epoch, recipe.epochs)
    final = next((model.final for model in (start, teacher) if model), "")
    write_report(state, graph, fitting, held_out, test, out, progress, fused, names, final)
    trained = load(out)  # hours of work: the checkpoint goes only when what replaces it can be read
    checkpoint.unlink(missing_ok=True)
    return trained


def parts(graph: Graph, data: Any) -> tuple[DataSet, DataSet]:
    """Returns (examples for training, for the test) as the network takes them; `data` as of `train`.

    Raises:
        DatasetError: see `train`.
    """
    shape = graph.input_shape
    if data is None or isinstance(data, str | os.PathLike):
        path = datasets.source(None if data is None else Path(data))
        training, test = (datasets.load(path, part, shape) for part in ("train", "test"))
    elif isinstance(data, tuple) and len(data) == 2 and not any(map(is_array, data)):
        training, test = (
            from_python(each, shape, part=part) for each, part in zip(data, ("train", "test"), strict=True)
        )
    else:
        whole = from_python(data, shape)
        training, test = (whole.take(part_of_whole(len(whole), part)) for part in ("train", "test"))
    return training.require_labels(), test.require_labels()


def normalised_by(graph: Graph, recipe: Recipe, data: DataSet) -> Recipe:
    """Returns the recipe with a mean and std for the network's input: its own where they fit, else those of the data.

    Real inputs that are no vectors, or were normalised before, are taken as they are: mean 0 and std 1.
    """
    count = graph.input_shape[0]
    given = recipe.mean != Recipe.mean or recipe.std != Recipe.std
    fits = len(recipe.mean) == len(recipe.std) == count
    if fits and (data.images or given):
        return recipe
    if not data.images and (data.normalised or len(graph.input_shape) > 1):
        return replace(recipe, mean=(0.0,) * count, std=(1.0,) * count)
    values = data.inputs / np.float32(255) if data.images else data.inputs
    axes = tuple(range(values.ndim - 1))  # channels and features are last
    mean, std = values.mean(axes, dtype=np.float64), values.std(axes, dtype=np.float64)
    std[std < _LEAST_STD] = 1.0  # a feature that is always the same
    return replace(recipe, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _class_names(graph: Graph, data: DataSet, *models: Model | None) -> tuple[str, ...]:
    """Names of the outputs: those of the first model that has as many, or of the data where those are numbers."""
    outputs = _outputs(graph)
    named = [m.classes for m in models if m and len(m.classes) == outputs]
    numbers = tuple(map(str, range(outputs)))
    candidates = [names for names in (*named, data.classes) if len(names) == outputs]
    return next((names for names in candidates if names != numbers), candidates[0] if candidates else ())


def _outputs(graph: Graph) -> int:
    return graph.shapes[graph.output.name][0]


def _require_outputs(graph: Graph, data: DataSet) -> None:
    largest = int(data.labels.max())
    if largest >= _outputs(graph):
        raise UsageError(
            f"the data has labels up to {largest} and {graph.name} has {_outputs(graph)} outputs; "
            "train a network with an output for each class"
        )


def checkpoint_path(out: Path) -> Path:
    """Returns where `train` keeps the checkpoint of a run that writes `out`."""
    return out.with_suffix(".checkpoint")
