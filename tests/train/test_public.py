"""Published networks must reach their published accuracy: the import is right to the last detail or it is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fheinfer.data import datasets as data
from fheinfer.frontends.importing import import_model
from fheinfer.train.evaluate import accuracy
from fheinfer.train.module import from_model

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("pattern", "normalisation", "percent"),
    [("chenyaofo_*", (None, None), 92.60), ("akamaster_*", IMAGENET, 91.73), ("snu_*", IMAGENET, 91.52)],
)
def test_an_imported_network_is_as_good_as_published(
    public_data: Path, pattern: str, normalisation: tuple[Sequence[float] | None, ...], percent: float
) -> None:
    (path,) = (public_data / "weights").glob(pattern)
    mean, std = normalisation
    model = import_model(path, mean=mean, std=std).model
    test = data.load(public_data / "cifar10", "test")
    score = accuracy(from_model(model), test, model.mean, model.std)
    assert 100 * score == pytest.approx(percent, abs=0.3)
