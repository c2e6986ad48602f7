"""Linear maps of layers on slots, between packings of every kind, against PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fheinfer import _core
from fheinfer.compiler.maps import distances, linear_map, shape_key, shape_map
from fheinfer.compiler.passes.pack import kept_grid
from fheinfer.compiler.work import Work
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.packing import Packing, grid_packing, pack, unpack

SLOTS = 256


def work(made: _core.LinearMap, source: Packing) -> Work:
    """What a map takes."""
    evaluator = _core.TraceEvaluator(SLOTS, _core.LevelModel(1, 0, 0))
    _core.linear_map(evaluator, [evaluator.encrypt(1)] * source.ciphertexts, made)
    return Work.of(evaluator.report())


def applied(
    op: ops.Op, constants: dict[str, np.ndarray], x: np.ndarray, source: Packing, target: Packing
) -> np.ndarray:
    """The layer on slots: every slot of the result that holds no element is zero. Its shape alone counts the same."""
    made = linear_map(op, constants, source, target)
    assert work(made, source) == work(shape_map(op, constants, source, target), source)
    evaluator = _core.SlotsEvaluator(SLOTS, _core.LevelModel(1, 0, 0))
    xs = [evaluator.encrypt(slots, 1) for slots in pack(x, source)]
    ys = _core.linear_map(evaluator, xs, made)
    slots = [evaluator.decrypt(y) for y in ys]
    found = unpack(slots, target)
    np.testing.assert_allclose(np.stack(slots)[:, : target.total], pack(found, target), atol=1e-9)
    for one in slots:  # what repeats, repeats
        np.testing.assert_allclose(one, np.tile(one[: target.total], SLOTS // target.total), atol=1e-12)
    return found


@dataclass(frozen=True)
class Convolution:
    op: ops.Conv2d | ops.ConvTranspose2d
    channels: int
    size: tuple[int, int]
    weight: np.ndarray
    slots: int
    gap: tuple[int, int]

    def source(self) -> Packing:
        return grid_packing((self.channels, *self.size), self.slots, gap=self.gap)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    channels, outs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, dilation = draw(pair), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    stride = draw(pair)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = draw(st.integers(reach[0], 9)), draw(st.integers(reach[1], 9))
    transposed = draw(st.booleans())
    shape = (channels, outs // groups, *kernel) if transposed else (outs, channels // groups, *kernel)
    kind = ops.ConvTranspose2d if transposed else ops.Conv2d
    if transposed:
        padding = tuple(min(p, r // 2) for p, r in zip(padding, (reach[0], reach[0], reach[1], reach[1]), strict=True))
    op = kind(outs, kernel, stride, padding, "w", None, dilation, groups)
    weight = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape)
    gap = draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (4, 4)]))
    return Convolution(op, channels, size, weight, draw(st.sampled_from([64, 128, 256])), gap)


def expected(c: Convolution, x: np.ndarray) -> np.ndarray:
    return c.op.reference([torch.from_numpy(x)[None]], {"weight": torch.from_numpy(c.weight)})[0].numpy()


@settings(max_examples=150, deadline=None)
@given(convolutions(), st.booleans())
def test_convolutions_between_grids(c: Convolution, kept: bool) -> None:
    shape = c.op.infer([(c.channels, *c.size)])
    if min(shape) < 1:
        return
    try:
        source = c.source()
    except PlanError:  # a row of that gap is longer than the slots
        return
    target = kept_grid(c.op, source, shape, c.slots) if kept else None
    x = np.random.default_rng(0).normal(size=(c.channels, *c.size))
    y = applied(c.op, {"w": c.weight}, x, source, target or grid_packing(shape, c.slots))
    np.testing.assert_allclose(y, expected(c, x), atol=1e-9)


@pytest.mark.parametrize("rotations", [(0, 0), (64, 0), (32, 0), (0, 64), (0, 16), (64, 32), (16, 16)])
@pytest.mark.parametrize("outs", [4, 8, 16])
def test_rotated_replicas(rotations: tuple[int, int], outs: int) -> None:
    op = ops.Conv2d(outs, 3, 1, 1, "w")
    weight = np.random.default_rng(1).normal(size=(outs, 8, 3, 3))
    source, target = grid_packing((8, 4, 4), SLOTS), grid_packing((outs, 4, 4), SLOTS)
    source, target = source.rotated(rotations[0]), target.rotated(rotations[1])
    if max(source.total, target.total) > SLOTS or target.rotation >= target.period:
        pytest.skip("more replicas than slots")
    x = np.random.default_rng(2).normal(size=(8, 4, 4))
    y = applied(op, {"w": weight}, x, source, target)
    np.testing.assert_allclose(
        y, functional.conv2d(torch.from_numpy(x)[None], torch.from_numpy(weight), padding=1)[0], atol=1e-9
    )


def test_a_convolution_of_rotated_replicas_takes_a_part_of_the_diagonals() -> None:
    op, weight = ops.Conv2d(8, 3, 1, 1, "w"), np.ones((8, 8, 3, 3))
    equal = grid_packing((8, 4, 4), SLOTS)
    both = [linear_map(op, {"w": weight}, source, equal).diagonals for source in (equal, equal.rotated(64))]
    assert both == [72, 36]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.sampled_from([16, 64, 256]), st.integers(0, 9))
def test_linear_layers(outs: int, features: int, slots: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight, x = random.normal(size=(outs, features)), random.normal(size=features)
    source, target = grid_packing((features,), slots), grid_packing((outs,), slots)
    y = applied(ops.Linear(outs, "w"), {"w": weight}, x, source, target)
    np.testing.assert_allclose(y, weight @ x, atol=1e-9)


def test_a_linear_layer_needs_no_more_diagonals_than_outputs() -> None:
    op, weight = ops.Linear(8, "w"), np.ones((8, 200))
    found = linear_map(op, {"w": weight}, grid_packing((200,), SLOTS), grid_packing((8,), SLOTS))
    assert found.diagonals == 8
    assert len(found.rotate_and_sum) == 5  # 256 slots to 8


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_resampling(channels: int, height: int, width: int, out_height: int, out_width: int, gained: bool) -> None:
    random = np.random.default_rng(3)
    constants = {"r": random.normal(size=(out_height, height)), "c": random.normal(size=(out_width, width))}
    constants["g"] = random.normal(size=channels) if gained else np.ones(channels)
    op = ops.Resample((out_height, out_width), "r", "c", "g" if gained else None)
    x = random.normal(size=(channels, height, width))
    y = applied(op, constants, x, grid_packing(x.shape, 64), grid_packing((channels, out_height, out_width), 64))
    expected_ = constants["g"][:, None, None] * (constants["r"] @ x @ constants["c"].T)
    np.testing.assert_allclose(y, expected_, atol=1e-9)


@pytest.mark.parametrize("factor", [False, True])
def test_repacking(factor: bool) -> None:
    shape = (6, 5, 4)
    x, f = np.random.default_rng(4).normal(size=shape), np.arange(1.0, 7.0)
    source, target = grid_packing(shape, 64), grid_packing(shape, 256, gap=(2, 2))
    scattered = replace(grid_packing((120,), 64), shape=shape)
    constants = {"f": f}
    for before, after in ((source, target), (target, source), (scattered, target), (scattered, source)):
        y = applied(ops.Repack("f" if factor else None), constants, x, before, after)
        np.testing.assert_allclose(y, x * f[:, None, None] if factor else x, atol=1e-12)


def test_weights_that_are_zero_keep_rotations_and_cost_nothing() -> None:
    op = ops.Conv2d(2, 3, 1, 1, "w")
    weight = np.zeros((2, 2, 3, 3))
    weight[0, 1, 0, 0] = 1
    source = grid_packing((2, 4, 4), SLOTS)
    full, sparse = (linear_map(op, {"w": w}, source, source) for w in (np.ones_like(weight), weight))
    assert (full.first, full.second, full.giant_steps) == (sparse.first, sparse.second, sparse.giant_steps)
    assert sparse.diagonals < full.diagonals


def test_distances_are_those_of_the_diagonals() -> None:
    op = ops.Conv2d(8, 3, 1, 1, "w")
    packing = grid_packing((8, 4, 4), SLOTS)
    found = distances(op, packing, packing)
    assert found.shape == (8, 8, 3, 3)
    assert found.max() + 1 == linear_map(op, {"w": np.ones((8, 8, 3, 3))}, packing, packing).diagonals


COUNTS = {
    # (channels, side, rotation) of input and output, kernel: plaintexts, hoisted rotations, others, keys
    ((3, 32, 0), (16, 32, 0), 3): (36, 8, 3, 5),
    ((16, 32, 0), (16, 32, 0), 3): (144, 17, 7, 8),
    ((16, 32, 0), (32, 16, 0), 3): (128, 15, 8, 8),
    ((16, 32, 0), (32, 16, 0), 1): (32, 3, 8, 5),
    ((32, 16, 0), (32, 16, 0), 3): (392, 48, 7, 13),
    ((32, 16, 0), (64, 8, 0), 3): (324, 17, 21, 21),
    ((32, 16, 0), (64, 8, 0), 1): (100, 9, 13, 13),
    ((64, 8, 0), (64, 8, 0), 3): (900, 29, 32, 32),
    ((32, 16, 0), (32, 16, 4096), 3): (392, 48, 7, 13),
    ((32, 16, 4096), (32, 16, 0), 3): (196, 13, 17, 17),
    ((64, 8, 0), (64, 8, 2048), 3): (900, 29, 32, 32),
    ((64, 8, 0), (64, 8, 1024), 3): (900, 29, 32, 32),
    ((64, 8, 2048), (64, 8, 0), 3): (450, 14, 31, 18),
    ((64, 8, 1024), (64, 8, 0), 3): (225, 15, 17, 10),
}
"""The tables of docs/explanation/packing.md."""


@pytest.mark.parametrize("case", COUNTS, ids=str)
def test_the_counts_of_the_documentation(case: tuple[tuple[int, int, int], tuple[int, int, int], int]) -> None:
    (channels, side, rotation), (outs, out_side, out_rotation), kernel = case

    def on_the_grid(count: int, side: int, rotation: int) -> Packing:
        gap = 32 // side
        return grid_packing((count, side, side), 16384, gap=(gap, gap), height=32, width=32).rotated(rotation)

    source, target = on_the_grid(channels, side, rotation), on_the_grid(outs, out_side, out_rotation)
    op = ops.Conv2d(outs, kernel, side // out_side, kernel // 2, "w")
    trace = _core.TraceEvaluator(16384, _core.LevelModel(5, 0, 0))
    found = linear_map(op, {"w": np.ones((outs, channels, kernel, kernel))}, source, target)
    _core.linear_map(trace, [trace.encrypt(5)], found)
    report = trace.report()
    counts = (report.plain_multiplications, report.hoisted_key_switches, report.key_switches)
    assert (*(sum(c.values()) for c in counts), len(report.rotation_keys)) == COUNTS[case]


def test_the_map_of_a_shape_alone_is_not_evaluated() -> None:
    source = grid_packing((8,), SLOTS)
    found = shape_map(ops.Linear(8, "w"), {"w": np.ones((8, 8))}, source, source)
    evaluator = _core.SlotsEvaluator(SLOTS, _core.LevelModel(1, 0, 0))
    with pytest.raises(PlanError, match="a linear map of a shape alone has no weights"):
        _core.linear_map(evaluator, [evaluator.encrypt(np.ones(8), 1)], found)


def test_resamples_of_one_shape_that_join_other_pixels_are_told_apart() -> None:
    """What is kept of one network is no answer for another one whose tensors have the same names."""
    grid = grid_packing((1, 4, 4), SLOTS)
    op = ops.Resample((4, 4), "rows", "columns")
    alone = {"rows": np.eye(4), "columns": np.eye(4)}
    blurred = {"rows": np.eye(4) + np.eye(4, k=1), "columns": np.eye(4)}
    for constants in (alone, blurred, alone):
        assert shape_map(op, constants, grid, grid).diagonals == linear_map(op, constants, grid, grid).diagonals
    assert shape_key(op, alone) != shape_key(op, blurred)
