"""Arrays and CSV files as inputs of commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fheinfer.cli.arrays import arrays_input
from fheinfer.errors import InputError
from tests.crypto.specs import an_input, spec

VECTOR = (3,)


@pytest.fixture(autouse=True)
def _small_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHEINFER_ALLOW_INSECURE", "1")


@pytest.fixture
def vectors() -> Any:
    return spec(input=an_input(VECTOR), mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 0.5))


def test_lines_of_numbers_are_vectors(vectors: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n1,2,3\n\n3, 6, 3.5\n")
    found = arrays_input(path, vectors)
    assert list(found) == ["x.csv:2", "x.csv:4"]
    assert found["x.csv:2"].tolist() == [0.0, 0.0, 0.0]
    assert found["x.csv:4"].tolist() == [1.0, 1.0, 1.0]
    path.write_text("1,2,3")
    assert list(arrays_input(path, vectors)) == ["x.csv:1"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "no line of numbers; write 3 of them on a line"),
        ("a,b,c\n", "no line of numbers"),
        ("1,2\n", "line 1 has 2 numbers, and the network takes 3"),
        ("1,2,3\n1,2,x\n", "line 2 has something that is no number"),
        ("\0\0\0\n1,2,3,4", "line|numbers"),
        ("1,2,3\n" + "1," * 200_000, "no number"),
    ],
)
def test_lines_that_are_no_vectors_are_refused(vectors: Any, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        arrays_input(path, vectors)
    assert "\n" not in str(caught.value)


def test_an_array_has_one_input_or_many(vectors: Any, tmp_path: Path) -> None:
    many = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "many.npy", many)
    np.save(tmp_path / "one.npy", many[0])
    assert list(arrays_input(tmp_path / "many.npy", vectors)) == ["many.npy:0", "many.npy:1"]
    one = arrays_input(tmp_path / "one.npy", vectors)["one.npy"]
    assert np.allclose(one, (many[0] - [1, 2, 3]) / [2, 4, 0.5])
    np.save(tmp_path / "wrong.npy", np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"takes numbers of shape \(3,\)"):
        arrays_input(tmp_path / "wrong.npy", vectors)


def test_sequences_are_taken_as_they_are(tmp_path: Path) -> None:
    many = np.arange(24.0).reshape(2, 3, 4)
    np.save(tmp_path / "many.npy", many)
    found = arrays_input(tmp_path / "many.npy", spec(input=an_input((3, 4)), mean=(0.0,) * 3, std=(1.0,) * 3))
    assert np.array_equal(list(found.values()), many)


def test_an_image_is_no_line_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2,3\n")
    with pytest.raises(InputError, match=r"takes no vector; save it with numpy\.save"):
        arrays_input(tmp_path / "x.csv", spec())


def test_infer_takes_arrays(
    process: Callable[..., Any], tiny_plan_folder: Path, tiny_keys: Path, tiny_image: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "one.npy", tiny_image)
    np.save(tmp_path / "two.npy", np.stack([tiny_image, tiny_image[:, ::-1]]))
    arguments = ("infer", "--plan", tiny_plan_folder, "--keys", tiny_keys, "--json", "--input")
    one = process(*arguments, tmp_path / "one.npy")
    two = process(*arguments, tmp_path / "two.npy")
    assert (one.code, two.code) == (0, 0), one.err + two.err
    logits = json.loads(one.out)["logits"]
    images = json.loads(two.out)["images"]
    assert [row["image"] for row in images] == ["two.npy:0", "two.npy:1"]
    assert np.abs(np.array(images[0]["logits"]) - logits).max() < 1e-2 * np.abs(logits).max()
