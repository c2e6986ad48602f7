"""Pooling and fully connected layers against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer.errors import BackendError, PlanError
from fheinfer.packing import Layout, input_layout, pack, unpack

LEVELS = _core.LevelModel(top=6, after_bootstrap=4, bootstrap_min=1)
EXACT = 1e-9


@st.composite
def inputs(draw: st.DrawFn) -> Layout:
    gap = draw(st.sampled_from([1, 2, 4]))
    grid = [gap * 2 ** draw(st.integers(0, 2)) for _ in "hw"]
    height, width = (draw(st.integers(1, size // gap)) for size in grid)
    return Layout(draw(st.integers(1, 20)), height, width, gap, *grid)


@settings(max_examples=100)
@given(
    inputs(),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 4]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(list(_core.KeyPolicy.__members__.values())),
)
def test_linear_equals_the_matrix_product(
    layout: Layout, outputs: int, mask: bool, biased: bool, repeats: int, seed: int, keys: _core.KeyPolicy
) -> None:
    assume(outputs <= layout.grid_height * layout.grid_width)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(layout.channels, layout.height, layout.width))
    weight, bias = rng.normal(size=(outputs, x.size)), rng.normal(size=outputs) if biased else np.zeros(0)
    out = _core.linear_output(layout, outputs)
    evaluator = _core.SlotsEvaluator(layout.period * repeats, LEVELS, keys)
    y = _core.linear(evaluator, evaluator.encrypt(pack(x, layout), 5), weight, bias, layout, out, mask)
    expected = weight @ x.ravel() + (bias if biased else 0)
    periods = evaluator.decrypt(y).reshape(-1, out.period)
    assert np.abs(periods[:, :outputs] - expected).max() < EXACT
    assert evaluator.level(y) == (3 if mask else 4)
    if mask:  # the client decrypts the logits and nothing else
        assert np.array_equal(periods[:, outputs:], np.zeros_like(periods[:, outputs:]))


@settings(max_examples=60)
@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([1, 2]), st.integers(0, 2**32 - 1))
def test_vectors_of_any_lengths(features: int, outputs: int, repeats: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight, bias = rng.normal(size=features), rng.normal(size=(outputs, features)), rng.normal(size=outputs)
    layout = input_layout((features,))
    out = _core.linear_output(layout, outputs)
    evaluator = _core.SlotsEvaluator(out.period * repeats, LEVELS)
    y = _core.linear(evaluator, evaluator.encrypt(pack(x, layout), 5), weight, bias, layout, out, False)
    slots = evaluator.decrypt(y).reshape(-1, out.period)
    assert np.abs(slots[:, :outputs] - (weight @ x + bias)).max() < EXACT
    assert np.array_equal(slots[:, outputs:], np.zeros_like(slots[:, outputs:]))  # so the next layer needs no mask
    trace = _core.TraceEvaluator(out.period * repeats, LEVELS)
    _core.linear(trace, trace.encrypt(5), weight, bias, layout, out, False)
    assert len(trace.report().rotation_keys) <= 3 * np.sqrt(layout.period)


@settings(max_examples=100)
@given(inputs(), st.sampled_from([1, 4]), st.integers(0, 2**32 - 1))
def test_sum_pool_adds_up_each_channel(layout: Layout, repeats: int, seed: int) -> None:
    assume(not layout.height & (layout.height - 1) and not layout.width & (layout.width - 1))
    x = np.random.default_rng(seed).normal(size=(layout.channels, layout.height, layout.width))
    out = _core.sum_pool_output(layout)
    evaluator = _core.SlotsEvaluator(layout.period * repeats, LEVELS)
    y = _core.sum_pool(evaluator, evaluator.encrypt(pack(x, layout), 5), layout)
    assert (out.height, out.width, out.period) == (1, 1, layout.period)
    assert np.abs(unpack(evaluator.decrypt(y), out)[:, 0, 0] - x.sum(axis=(1, 2))).max() < EXACT
    assert evaluator.level(y) == 5


def test_pool_and_linear_end_resnet20() -> None:
    """64 channels of 8x8 at gap 4 to ten logits: slots around them after pooling do not affect the logits."""
    layout = Layout(64, 8, 8, 4, 32, 32)
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(64, 8, 8)), rng.normal(size=(10, 64)), rng.normal(size=10)
    pooled = _core.sum_pool_output(layout)
    out = _core.linear_output(pooled, 10)
    evaluator = _core.SlotsEvaluator(16384, LEVELS)
    y = _core.sum_pool(evaluator, evaluator.encrypt(pack(x, layout), 5), layout)
    slots = evaluator.decrypt(_core.linear(evaluator, y, weight, bias, pooled, out, True))
    assert np.abs(slots[:10] - (weight @ x.sum(axis=(1, 2)) + bias)).max() < EXACT
    assert not slots[10 : out.period].any()


@pytest.mark.parametrize("size", [(3, 4), (4, 5), (6, 6)], ids=str)
def test_pooling_needs_sides_that_are_powers_of_two(size: tuple[int, int]) -> None:
    layout = Layout(2, *size, 1, 8, 8)
    evaluator = _core.SlotsEvaluator(128, LEVELS)
    with pytest.raises(PlanError, match="powers of two"):
        _core.sum_pool(evaluator, evaluator.encrypt(np.zeros(128), 5), layout)


def test_more_outputs_than_a_grid_holds_are_refused() -> None:
    with pytest.raises(PlanError, match="does not fit a grid of 16"):
        _core.linear_output(Layout(4, 1, 1, 1, 4, 4), 17)


@pytest.mark.parametrize(("weights", "biases"), [(0, 0), (19, 0), (21, 0), (20, 4), (20, 6)])
def test_weights_and_biases_of_the_wrong_size_are_refused(weights: int, biases: int) -> None:
    layout = Layout(4, 1, 1, 2, 8, 8)
    out = _core.linear_output(layout, 5)
    evaluator = _core.SlotsEvaluator(64, LEVELS)
    x = evaluator.encrypt(np.zeros(64), 5)
    with pytest.raises(PlanError, match="of the wrong size"):
        _core.linear(evaluator, x, np.ones(weights), np.ones(biases), layout, out, False)


def test_a_mask_needs_a_level_of_its_own() -> None:
    layout = Layout(4, 1, 1, 2, 8, 8)
    out = _core.linear_output(layout, 5)
    evaluator = _core.SlotsEvaluator(64, LEVELS)
    x = evaluator.encrypt(np.zeros(64), 1)
    assert evaluator.level(_core.linear(evaluator, x, np.ones(20), np.zeros(0), layout, out, False)) == 0
    with pytest.raises(BackendError, match="no level left"):
        _core.linear(evaluator, x, np.ones(20), np.zeros(0), layout, out, True)
