"""Ranges that no network has, and files of ranges that are none."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fheinfer.errors import CorruptArtifactError, InputError
from fheinfer.evaluation.ranges import MAX_BYTES, Histogram, Ranges, load, plausible_ranges
from fheinfer.model.model import Model
from tests.conftest import NETWORK, random_model
from tests.data.files import NO_FILES


@pytest.fixture(scope="module")
def weights() -> Model:
    return random_model(NETWORK, 1)


def saved(weights: Model, path: Path) -> Path:
    found = {node.name: Histogram(8.0, 5.0) for node in weights.graph.activations}
    Ranges(weights.name, weights.identity, 10, 1.2, found).save(path)
    return path


@given(st.lists(st.floats(1e-2, 1e3), max_size=20), st.integers(0, 3))
def test_what_networks_have_is_plausible(values: list[float], dead: int) -> None:
    plausible_ranges({str(i): value for i, value in enumerate([*values, *[0.0] * dead])})


@given(
    st.lists(st.floats(0.5, 50), min_size=1, max_size=20),
    st.integers(0, 20),
    st.sampled_from([1e300, 1e13, 1e9, math.inf, math.nan, -1.0]),
)
def test_one_absurd_range_is_named(values: list[float], at: int, absurd: float) -> None:
    values.insert(at, absurd)
    name = f"relu{values.index(absurd)}"
    with pytest.raises(InputError, match=rf"{name} is .*fheinfer calibrate"):
        plausible_ranges({f"relu{i}": value for i, value in enumerate(values)})


def test_a_range_that_is_alone_is_judged_by_itself() -> None:
    plausible_ranges({})
    plausible_ranges({"relu": 30.0})
    with pytest.raises(InputError, match=r"1e\+300"):
        plausible_ranges({"relu": 1e300})


def test_a_file_with_an_absurd_range_is_refused(weights: Model, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "r.json")
    assert set(load(path, weights).largest().values()) == {5.0}
    content = json.loads(path.read_text())
    content["activations"]["layer2.0.relu1"] |= {"bin_range": 2.0**60, "largest": 1e13}
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptArtifactError, match=r"r\.json: the range of layer2\.0\.relu1 is 1e\+13"):
        load(path, weights)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(weights: Model, tmp_path: Path, kind: str) -> None:
    NO_FILES[kind](tmp_path / "r.json")
    with pytest.raises(InputError, match=r"r\.json: "):
        load(tmp_path / "r.json", weights)


def test_a_huge_file_is_refused_unread(weights: Model, tmp_path: Path) -> None:
    os.truncate(saved(weights, tmp_path / "r.json"), MAX_BYTES + 1)
    with pytest.raises(InputError, match="more than the 16,777,216 that a file of ranges may have"):
        load(tmp_path / "r.json", weights)


def test_a_name_that_is_not_utf8_is_fine(weights: Model, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / os.fsdecode(b"caf\xe9.json"))
    assert load(path, weights).images == 10
    path.write_text("{}")
    with pytest.raises(CorruptArtifactError) as caught:
        load(path, weights)
    assert str(caught.value).isprintable()
