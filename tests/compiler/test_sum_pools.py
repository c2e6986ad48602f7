"""Sums of all pixels by rotations, on slots, of images of every size and packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer.compiler.sum_pools import sum_packing, sum_pool, summable
from fheinfer.compiler.views import view
from fheinfer.model import ops
from fheinfer.packing import Packing, grid_packing, pack, unpack

SLOTS = 256


def summed(x: np.ndarray, source: Packing) -> np.ndarray:
    """The sums on slots; slots without an element are 1, as an activation may leave them."""
    evaluator = _core.SlotsEvaluator(SLOTS, _core.LevelModel(1, 0, 0))
    others = 1 - pack(np.ones(source.shape), source)
    xs = [evaluator.encrypt(slots, 1) for slots in pack(x, source) + others]
    target = sum_packing(source, x.shape[:1])
    ys = sum_pool(evaluator, xs, source)
    assert len(ys) == target.ciphertexts
    return unpack([evaluator.decrypt(y) for y in ys], target)


@settings(deadline=None)
@given(
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 40), st.integers(1, 16)),
    gap=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2, 4])),
)
def test_every_size(channels: int, size: tuple[int, int], gap: tuple[int, int]) -> None:
    """Also of a channel that is larger than the slots, whose last band has fewer rows than the others."""
    x = np.random.default_rng(1).normal(size=(channels, *size))
    source = grid_packing(x.shape, SLOTS, gap=gap)
    assert summable(source)
    np.testing.assert_allclose(summed(x, source), x.sum(axis=(1, 2)), atol=1e-9)


def test_a_sum_takes_a_rotation_for_each_bit_and_one_for_each_that_is_set() -> None:
    evaluator = _core.TraceEvaluator(SLOTS, _core.LevelModel(1, 0, 0))
    sum_pool(evaluator, [evaluator.encrypt(1)], grid_packing((4, 7, 7), SLOTS))
    assert sum(evaluator.report().key_switches.values()) == 2 * (2 + 2)


def test_part_of_an_image_is_summed_where_its_bands_stand_alike() -> None:
    whole = grid_packing((3, 40, 16), SLOTS)  # bands of 16 rows
    assert whole.start.shape == (3, 3)
    x = np.random.default_rng(2).normal(size=whole.shape)
    for op, part in (
        (ops.Slice(2, 3, 14), x[:, :, 3:14]),
        (ops.Slice(1, 16, 40), x[:, 16:]),
        (ops.Slice(0, 1, 3), x[1:]),
    ):
        source, used = view(op, [whole], part.shape)
        assert summable(source)
        assert len(used) == source.ciphertexts
        np.testing.assert_allclose(summed(part, source), part.sum(axis=(1, 2)), atol=1e-9)


@pytest.mark.parametrize(
    ("op", "shape"), [(ops.Slice(1, 8, 40), (3, 32, 16)), (ops.Permute((2, 1, 0)), (16, 40, 3))], ids=["rows", "order"]
)
def test_other_views_are_repacked_before(op: ops.Op, shape: tuple[int, int, int]) -> None:
    """Bands of eight rows in the two halves of ciphertexts, and channels for columns."""
    source, _ = view(op, [grid_packing((3, 40, 16), SLOTS)], shape)
    assert not summable(source)
