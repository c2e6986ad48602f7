"""Published networks must reach their published accuracy: the import is right to the last detail or it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fheinfer.data import datasets as data
from fheinfer.model.model import import_file
from fheinfer.train.evaluate import accuracy
from fheinfer.train.module import from_model


@pytest.mark.parametrize("pattern, percent", [("chenyaofo_*", 92.60), ("akamaster_*", 91.73), ("snu_*", 91.52)])
def test_an_imported_network_is_as_good_as_published(public_data: Path, pattern: str, percent: float) -> None:
    (path,) = (public_data / "weights").glob(pattern)
    weights = import_file(path)
    test = data.load(public_data / "cifar10", "test")
    score = accuracy(from_model(weights), test, weights.mean, weights.std)
    assert 100 * score == pytest.approx(percent, abs=0.3)
