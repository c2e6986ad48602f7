"""Training a network: data, checkpoints, and what comes out of it. `run` has the epochs, `report` the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fheinfer.data import datasets as dataset
from fheinfer.data.datasets import LabelledImages
from fheinfer.errors import UsageError
from fheinfer.evaluation.inputs import sized_for
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model, load
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.observer import TrainingObserver, measuring, unobserved
from fheinfer.train.recipe import Recipe
from fheinfer.train.report import write_report
from fheinfer.train.run import Run


def train(
    network: str | Graph,
    out: Path,
    data: Path | None,
    recipe: Recipe,
    resume: bool = False,
    observer: TrainingObserver = unobserved,
    teacher: Model | None = None,
    fused: bool = False,
    start: Model | None = None,
) -> None:
    """Trains a network of the zoo, by name, or any other graph on the images in `data`.

    Writes the model file `out`, and a model card beside it. Its classes are called as those of `start`, or `teacher`.

    After every epoch a checkpoint is written beside `out`; an interrupt loses the epoch it falls into and nothing
    more. With `resume` a run goes on from there and ends with the same weights as one that was never stopped.
    A run begins with the weights that `start` has under the same name and of the same shape; all others are random.
    `fused` compiles the network with torch.compile: several times as fast with quadratics, for a minute at the start,
    the need of a C++ compiler, and sums in another order.

    Raises:
        DatasetError: the data folder cannot be used.
        GraphError: the network takes no images, or its layers are not those that can be trained.
        UsageError: the loss is no longer a number (the last good checkpoint is kept); a recipe for PAFs without one;
            fewer outputs than the images have classes.
        PlanError: diagonals are to be pruned of a network that cannot be evaluated encrypted.
        CorruptArtifactError, MismatchError: a checkpoint that cannot be resumed from.
        StorageError: a file cannot be written.
    """
    if teacher is not None:
        recipe = replace(recipe, teacher=teacher.identity)
    if start is not None:
        recipe = replace(recipe, start=start.identity)
    graph = network if isinstance(network, Graph) else zoo.network(network)
    folder = dataset.folder(data)
    # Now, so that a missing file does not show after the training.
    test = sized_for(graph, dataset.load(folder, "test"))
    fitting, held_out = (sized_for(graph, part) for part in dataset.split(dataset.load(folder, "train")))
    _require_outputs(graph, fitting)
    checkpoint = checkpoint_path(out)
    if resume and checkpoint.exists():
        state = Checkpoint.load(checkpoint, graph, recipe)
    else:
        state = Checkpoint(graph.name, recipe)
    run = Run(state, graph, fitting, held_out, observer, teacher, fused, start)
    while state.epoch < recipe.epochs:
        run.epoch()
        state.save(checkpoint)
    named = next((m.classes for m in (start, teacher) if m and len(m.classes) == _outputs(graph)), ())
    progress = measuring(observer, state.epoch, recipe.epochs)
    write_report(state, graph, fitting, held_out, test, out, progress, fused, named)
    load(out)  # hours of work: the checkpoint goes only when what replaces it can be read
    checkpoint.unlink(missing_ok=True)


def _outputs(graph: Graph) -> int:
    return graph.shapes[graph.output.name][0]


def _require_outputs(graph: Graph, images: LabelledImages) -> None:
    largest = int(images.labels.max())
    if largest >= _outputs(graph):
        raise UsageError(
            f"the images have labels up to {largest} and {graph.name} has {_outputs(graph)} outputs; "
            "train a network with an output for each class"
        )


def checkpoint_path(out: Path) -> Path:
    """Returns where `train` keeps the checkpoint of a run that writes `out`."""
    return out.with_suffix(".checkpoint")
