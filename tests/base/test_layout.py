"""Multiplexed packing: where elements stand, and that nothing stands twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fheinfer.errors import PlanError
from fheinfer.packing import Layout, input_layout, pack, rotated, slot_index, unpack


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    gap = draw(st.sampled_from([1, 2, 4]))
    rows, columns = (gap * 2 ** draw(st.integers(0, 3)) for _ in "hw")
    height, width = draw(st.integers(1, rows // gap)), draw(st.integers(1, columns // gap))
    return Layout(draw(st.integers(1, 40)), height, width, gap, rows, columns)


@given(layouts())
def test_every_element_has_a_slot_of_its_own_in_the_period(layout: Layout) -> None:
    slots = slot_index(layout).ravel()
    assert len(set(slots)) == layout.channels * layout.height * layout.width
    assert slots.min() >= 0
    assert slots.max() < layout.period
    assert layout.period & (layout.period - 1) == 0


@given(layouts())
def test_python_and_the_core_agree_on_slots(layout: Layout) -> None:
    expected = [
        [[layout.slot(c, y, x) for x in range(layout.width)] for y in range(layout.height)]
        for c in range(layout.channels)
    ]
    assert np.array_equal(slot_index(layout), expected)


@given(layouts(), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack_and_the_rest_is_zero(layout: Layout, seed: int) -> None:
    tensor = np.random.default_rng(seed).normal(size=(layout.channels, layout.height, layout.width))
    slots = pack(tensor, layout)
    assert slots.shape == (layout.period,)
    assert np.array_equal(unpack(slots, layout), tensor)
    assert np.count_nonzero(slots) == np.count_nonzero(tensor)


def test_channels_fill_the_cells_between_pixels_first() -> None:
    """ePrint 2021/1688: with gap 2, four channels share one grid."""
    layout = Layout(5, 2, 2, 2, 4, 4)
    assert [layout.slot(c, 0, 0) for c in range(5)] == [0, 1, 4, 5, 16]
    assert layout.slot(0, 1, 1) == 2 * 4 + 2
    assert layout.period == 32


def test_channels_of_an_image_lie_side_by_side() -> None:
    layout = input_layout((3, 32, 32))
    assert (layout.gap, layout.period) == (1, 4 * 32 * 32)
    assert layout.slot(2, 5, 7) == 2 * 1024 + 5 * 32 + 7


@pytest.mark.parametrize(
    "shape",
    [
        (0, 4, 4, 1, 4, 4),
        (1, 0, 4, 1, 4, 4),
        (1, 4, -1, 1, 4, 4),
        (1, 4, 4, 3, 16, 16),
        (1, 4, 4, 1, 4, 6),
        (1, 5, 4, 1, 4, 4),
        (1, 4, 4, 2, 4, 8),
    ],
    ids=str,
)
def test_impossible_layouts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="impossible layout"):
        Layout(*shape)


@given(layouts(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rotated_replicas_hold_the_tensor_rotated_further_and_further(layout: Layout, log: int, seed: int) -> None:
    assume(layout.blocks >= 2**log)
    rotation = layout.blocks >> log
    other = rotated(layout, rotation)
    tensor = np.random.default_rng(seed).normal(size=(layout.channels, layout.height, layout.width))
    assert other.period == layout.period << log
    assert np.array_equal(unpack(pack(tensor, other), other), tensor)
    grid = layout.grid_height * layout.grid_width
    for copy, slots in enumerate(pack(tensor, other).reshape(-1, layout.period)):
        assert np.array_equal(slots, np.roll(pack(tensor, layout), -copy * rotation * grid))


@pytest.mark.parametrize("rotation", [-1, 3, 4, 8])
def test_impossible_replica_rotations_are_refused(rotation: int) -> None:
    with pytest.raises(PlanError, match="impossible layout"):
        Layout(4, 2, 2, 1, 2, 2, rotation)
