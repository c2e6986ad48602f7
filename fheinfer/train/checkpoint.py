"""A training run between two epochs, on disk."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fheinfer.errors import CorruptArtifactError, MismatchError
from fheinfer.model.graph import Graph
from fheinfer.storage import atomic_write, read_small, storage_errors
from fheinfer.train.recipe import Recipe

MAX_BYTES = 4 << 30
"""Larger files are refused unread; ResNet110's is 35 MB."""


@dataclass
class Checkpoint:
    """A run of which `epoch` epochs are done.

    network         name of the graph
    model, average  state of the module and of its moving average
    best            the averaged state that did best on the held-out images
    curve           mean loss and held-out accuracy (0..1) of each epoch
    """

    network: str
    recipe: Recipe
    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_accuracy: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Replaces the file at once or not at all; an interrupt leaves the file that was there.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        content = io.BytesIO()
        torch.save({**vars(self), "recipe": asdict(self.recipe)}, content)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, [content.getbuffer()])

    @classmethod
    def load(cls, path: Path, graph: Graph, recipe: Recipe) -> Checkpoint:
        """Reads the checkpoint of this network and recipe.

        Raises:
            FileNotFoundError, StorageError: see `storage.read_small`.
            CorruptArtifactError: the file is not a whole checkpoint.
            MismatchError: it belongs to another network or recipe.
        """
        data = read_small(path, MAX_BYTES, "a checkpoint")
        try:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            found = cls(**{**content, "recipe": Recipe(**content["recipe"])})
        except Exception as error:  # torch raises many kinds on bad files
            reason = str(error).partition("\n")[0][:60]
            raise CorruptArtifactError(f"{path}: not a checkpoint, delete it to start again ({reason})") from None
        fits = all(_shapes(state) in ({}, graph.tensor_shapes()) for state in (found.model, found.average, found.best))
        if not fits or (found.network, found.recipe) != (graph.name, recipe):
            raise MismatchError(f"{path}: a checkpoint of another network or recipe; delete it to start again")
        return found


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
