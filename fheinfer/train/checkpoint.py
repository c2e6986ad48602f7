"""A training run between two epochs, on disk."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fheinfer.errors import CorruptArtifactError, MismatchError, StorageError
from fheinfer.train.recipe import Recipe


@dataclass
class Checkpoint:
    """`epoch` epochs are done; `best` is the averaged state that did best on the held-out images, `curve` the mean loss
    and the held-out accuracy (0..1) of each."""

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
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        content = {**vars(self), "recipe": asdict(self.recipe)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, temporary)
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise StorageError(f"{path}: cannot write the checkpoint ({error})") from None
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, network: str, recipe: Recipe) -> Checkpoint:
        """The checkpoint of this network and recipe.

        Raises:
            CorruptArtifactError: the file is not a whole checkpoint.
            MismatchError: it belongs to another network or recipe.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            found = cls(**{**content, "recipe": Recipe(**content["recipe"])})
        except Exception as error:  # torch raises many kinds on bad files
            reason = str(error).partition("\n")[0][:60]
            raise CorruptArtifactError(f"{path}: not a checkpoint, delete it to start again ({reason})") from None
        if (found.network, found.recipe) != (network, recipe):
            raise MismatchError(f"{path}: a checkpoint of another network or recipe; delete it to start again")
        return found
