"""Packings: every element has a place, views are other numbers for the same places, files are checked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fheinfer.compiler.views import view
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.packing import Packing, canonical, grid_packing, pack, plain, rounded_up, spread, unpack

shapes = st.one_of(
    st.tuples(st.integers(1, 70)),
    st.tuples(st.integers(1, 9), st.integers(1, 30)),
    st.tuples(st.integers(1, 20), st.integers(1, 13), st.integers(1, 13)),
)
gaps = st.sampled_from([(1, 1), (2, 2), (1, 4), (4, 2)])


@given(shapes, gaps, st.sampled_from([64, 128, 1024]))
def test_every_element_has_a_place_of_its_own(shape: tuple[int, ...], gap: tuple[int, int], slots: int) -> None:
    assume(rounded_up(canonical(shape)[2] * gap[1]) * gap[0] <= slots)
    packing = grid_packing(shape, slots, gap=gap)
    places = packing.places()
    assert places.shape == shape
    assert packing.distinct
    assert places.min() >= 0
    assert places.max() < packing.ciphertexts * packing.period <= packing.ciphertexts * slots
    assert len(np.unique(places // packing.period)) == packing.ciphertexts  # no ciphertext is empty
    x = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(unpack(pack(x, packing), packing), x)
    assert np.count_nonzero(plain(1.0, packing)) == x.size


@given(shapes, gaps)
def test_through_a_file(shape: tuple[int, ...], gap: tuple[int, int]) -> None:
    packing = grid_packing(shape, 1024, gap=gap)
    assert Packing.from_json(json.loads(json.dumps(packing.to_json())), 1024) == packing


def test_a_channel_larger_than_the_slots_is_cut_into_bands() -> None:
    packing = grid_packing((3, 20, 12), 64)
    assert (packing.band, packing.start.shape, packing.ciphertexts) == (4, (3, 5), 15)


def test_a_row_longer_than_the_slots_is_refused() -> None:
    with pytest.raises(PlanError, match="a row of 100 pixels needs 128 slots and there are 64"):
        grid_packing((1, 2, 100), 64)


def test_replicas_are_rotated() -> None:
    packing = grid_packing((4, 2, 2), 64).rotated(8)
    x = np.arange(16.0).reshape(4, 2, 2)
    first, second = pack(x, packing)[0].reshape(2, 16)
    np.testing.assert_array_equal(first, np.arange(16))
    np.testing.assert_array_equal(second, np.roll(np.arange(16), -8))


@pytest.mark.parametrize("changed", [
    {"start": [[0], [4], [8], [99]]},
    {"start": [[0], [4], [8], [-1]]},
    {"start": [[0], [4], [8]]},
    {"start": [[0.5], [4], [8], [12]]},
    {"start": "0"},
    {"start": [[0], [4], [8], [15]], "ciphertexts": 2},
    {"ciphertexts": 1 << 20},
    {"block": 1 << 20},
    {"period": 12},
    {"period": 128},
    {"rotation": 3},
    {"rotation": 16},
    {"grid": [4, 2, 3]},
    {"grid": [0, 2, 2]},
    {"shape": [1 << 40]},
    {"strides": [-1, 1]},
    {"band": 0},
    {"ciphertexts": True},
    {"ciphertexts": 1 << 24},
    {"extra": 1},
])  # fmt: skip
def test_impossible_files_are_refused(changed: dict[str, Any]) -> None:
    content = grid_packing((4, 2, 2), 64).to_json() | changed
    with pytest.raises(ValueError, match=r"packing|replicas"):
        Packing.from_json(content, 64)


@st.composite
def views(draw: st.DrawFn) -> tuple[ops.Op, list[tuple[int, ...]]]:
    shape = draw(shapes)
    kind = draw(st.sampled_from(["reshape", "permute", "slice", "concat", "expand"]))
    axis = draw(st.integers(0, len(shape) - 1))
    if kind == "reshape":
        return ops.Reshape((int(np.prod(shape)),)), [shape]
    if kind == "permute":
        return ops.Permute(tuple(draw(st.permutations(range(len(shape)))))), [shape]
    if kind == "slice":
        start = draw(st.integers(0, shape[axis] - 1))
        return ops.Slice(axis, start, draw(st.integers(start + 1, shape[axis])), draw(st.integers(1, 3))), [shape]
    if kind == "expand":
        ones = tuple(1 if i == axis else size for i, size in enumerate(shape))
        return ops.Expand(shape), [ones]
    count = draw(st.integers(1, 3))
    parts = [tuple(draw(st.integers(1, 5)) if i == axis else n for i, n in enumerate(shape)) for _ in range(count)]
    return ops.Concat(axis, count), parts


@given(views(), st.sampled_from([64, 512]))
def test_a_view_is_other_numbers_for_the_same_slots(case: tuple[ops.Op, list[tuple[int, ...]]], slots: int) -> None:
    import torch

    op, shapes_ = case
    sources = [grid_packing(shape, slots) for shape in shapes_]
    xs = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes_)]
    packing, chosen = view(op, sources, op.infer(shapes_))
    # A longer period holds a shorter one several times.
    every = [
        np.tile(slots_, packing.period // source.period)
        for x, source in zip(xs, sources, strict=True)
        for slots_ in pack(x, source)
    ]
    found = unpack([every[i] for i in chosen], packing)
    expected = op.reference([torch.from_numpy(x)[None] for x in xs], {})[0].numpy()
    np.testing.assert_array_equal(found, expected)


def test_slices_of_channels_leave_ciphertexts_behind() -> None:
    source = grid_packing((8, 4, 4), 32)
    packing, chosen = view(ops.Slice(0, 2, 4, 1), [source], (2, 4, 4))
    assert (source.ciphertexts, packing.ciphertexts, chosen) == (4, 1, (1,))
    assert packing.is_image


def test_a_pixel_unshuffle_is_a_view_with_regular_rows() -> None:
    source = grid_packing((1, 4, 4), 64)
    packing, _ = view(ops.Slice(1, 1, 4, 2), [source], (1, 2, 4))
    assert (packing.row, packing.column, packing.is_image) == (8, 1, True)


def test_spread_and_canonical() -> None:
    assert spread(2.0, (3, 2, 2)).shape == ()
    assert spread(np.ones(3), (3, 2, 2)).shape == (3, 1, 1)
    assert spread(np.ones((1, 2, 2)), (3, 2, 2)).shape == (1, 2, 2)
    assert [canonical(s) for s in ((5,), (5, 7), (5, 7, 9), (2, 5, 7, 9))] == [
        (5, 1, 1),
        (5, 1, 7),
        (5, 7, 9),
        (10, 7, 9),
    ]
