"""What a training command cannot work with is one line, an exit code of its kind, and no file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fheinfer.data.cifar import PER_MOSAIC
from fheinfer.errors import MismatchError
from fheinfer.evaluation import ranges as module
from fheinfer.evaluation.ranges import Histogram, Ranges
from fheinfer.model.model import Model


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "--data", "NOWHERE"), 3, "no such folder or file of data"),
        (("train", "--data", "SHORT"), 3, "do not fill mosaics of 1,000"),
        (("train", "--network", "resnet21"), 2, "no network called 'resnet21'"),
        (("train", "--network", "resnet8-tiny+tanh"), 2, "no PAF 'tanh'"),
        (("train", "--network", "resnet8-tiny", "--recipe", "bits=1"), 2, "bits cannot be 1"),
        (("train", "--network", "resnet8-tiny", "--recipe", "prune=half"), 2, "'prune=half' is no NAME=VALUE"),
        (("train", "--network", "resnet8-tiny", "--recipe", "alternate=2"), 2, "'alternate=2' is no NAME=VALUE"),
        (("train", "--network", "resnet8-tiny", "--recipe", "progressive=1"), 2, "progressive is for PAFs"),
        (("train", "--network", "checkerboard"), 3, "inputs of the shape (3, 32, 32), and the network takes (2,)"),
        (("train", "--network", "resnet8-tiny", "--teacher", "NOWHERE"), 3, "NOWHERE"),
        (("finetune", "RELU", "--paf", "relu"), 2, "no PAF 'relu'"),
        (("finetune", "RELU", "--to", "cubic"), 2, "no PAF 'cubic'"),
        (("finetune", "RELU", "--to", "quadratic", "--paf", "f1"), 2, "--to quadratic says which"),
        (("finetune", "RELU", "--paf", "f1", "--data", "NOWHERE"), 3, "no such folder"),
        (("finetune", "RELU", "--paf", "f1", "--recipe", "dynamic=1", "--recipe", "settle=0"), 2, "settle cannot be 0"),
        (("calibrate", "RELU", "--data", "SHORT"), 3, "do not fill mosaics"),
    ],
    ids=str,
)
def test_it_is_refused_in_one_line(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    mosaics: Path,
    relu_file: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    short, out = tmp_path / "SHORT", tmp_path / "out.safetensors"
    shutil.copytree(mosaics, short)
    np.save(short / "train_labels.npy", np.zeros(PER_MOSAIC + 1, np.uint8))
    places = {"NOWHERE": tmp_path / "NOWHERE", "SHORT": short, "RELU": relu_file}
    given = [places.get(a, a) for a in arguments]
    if "--data" not in arguments:
        given += ["--data", mosaics]
    result = command(*given, "-o", out)
    lines = [line for line in result.err.splitlines() if not line.startswith("training:")]  # how far it is, where slow
    assert (result.code, len(lines)) == (code, 1), result.err
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == [short]


def test_ranges_of_another_network_are_refused(relu_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    found = {node.name: Histogram() for node in relu_model.graph.activations}
    other = replace(relu_model, tensors={name: 2 * array for name, array in relu_model.tensors.items()})
    Ranges("resnet20", other.identity, 1, 1.2, found).save(path)
    with pytest.raises(MismatchError, match="fheinfer calibrate"):
        module.load(path, relu_model)
