"""Data as Python has it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fheinfer.data.labelled import UNKNOWN, DataSet
from fheinfer.data.loaders import from_python
from fheinfer.errors import DatasetError

SHAPE = (3, 4, 5)
X = torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 7


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield from zip(X.chunk(4), Y.chunk(4), strict=True)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: DataLoader(TensorDataset(X, Y), batch_size=6), id="DataLoader"),
        pytest.param(lambda: TensorDataset(X, Y), id="Dataset"),
        pytest.param(batches, id="generator"),
        pytest.param(lambda: [{"x": a, "y": b} for a, b in batches()], id="dicts"),
        pytest.param(lambda: (X, Y), id="pair"),
        pytest.param(lambda: (X.numpy(), Y.numpy()), id="arrays"),
        pytest.param(lambda: [(x.numpy().astype(np.float64), int(y)) for x, y in zip(X, Y, strict=True)], id="pairs"),
        pytest.param(lambda: DataSet(X.numpy(), Y.numpy(), normalised=True), id="DataSet"),
    ],
)
def test_every_form_is_the_same_data(data: Any) -> None:
    found = from_python(data(), SHAPE)
    assert np.array_equal(found.inputs, X.numpy())
    assert found.labels.tolist() == Y.tolist()
    assert found.normalised


@pytest.mark.parametrize("data", [X, X.numpy(), list(X.chunk(3)), X[0], TensorDataset(X)])
def test_labels_need_not_be_there(data: Any) -> None:
    found = from_python(data, SHAPE)
    assert np.array_equal(found.inputs[0], X[0].numpy())
    assert (found.labels == UNKNOWN).all()


@pytest.mark.parametrize("targets", [Y + 0.5, torch.rand(20, 4)])
def test_targets_of_regressions_are_no_labels(targets: torch.Tensor) -> None:
    for data in ((X, targets), TensorDataset(X, targets), DataLoader(TensorDataset(X, targets), batch_size=6)):
        found = from_python(data, SHAPE)
        assert (len(found), found.labelled, len(found.notes)) == (20, False, 1)


@pytest.mark.parametrize("first", [False, True])
def test_uint8_arrays_are_pixels_in_either_order(first: bool) -> None:
    pixels = torch.randint(0, 256, (20, 4, 5, 3), dtype=torch.uint8)
    found = from_python(pixels.permute(0, 3, 1, 2) if first else pixels, SHAPE)
    assert found.images
    assert np.array_equal(found.inputs, pixels.numpy())


def test_a_limit_spreads_over_arrays_and_ends_endless_iterables() -> None:
    x = np.arange(40, dtype=np.float32)[:, None]
    assert from_python(x, (1,), 4).inputs.ravel().tolist() == [0, 10, 20, 30]
    assert from_python(TensorDataset(X, Y), SHAPE, 4).labels.tolist() == [0, 5, 3, 1]
    endless = (np.full((8, 1), float(n)) for n in count())
    assert from_python(endless, (1,), 20).inputs.ravel().tolist() == [0.0] * 8 + [1.0] * 8 + [2.0] * 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "data is a int"),
        ([], "no examples"),
        (X[:, :2], "inputs of the shape"),
        ([(X[:3], Y[:2])], "a batch has 3 inputs and 2 labels"),
        ([X[:3], torch.zeros(2, 3, 8, 8)], "in one data set"),
        ([("a", 1)], "not numbers"),
        ([([[1, 2], [3]], 1)], "no array of numbers"),
        (X * float("nan"), "NaN"),
        ([(X[:3], Y[:3]), (X[:3], torch.zeros(3, 2))], "labels of the shapes"),
        ("/nowhere", "no such folder or file"),
    ],
)
def test_what_is_no_data_is_refused(data: Any, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        from_python(data, SHAPE)


def test_paths_are_data_sets(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X.numpy(), y=Y.numpy())
    assert len(from_python(tmp_path / "data.npz", SHAPE)) == 20
    assert len(from_python(str(tmp_path / "data.npz"), SHAPE, 7)) == 7
