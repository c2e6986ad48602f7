"""The convolution kernel against PyTorch in float64, and its cost against what the papers publish."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.errors import PlanError, UsageError
from fheinfer.packing import Layout, diagonals, pack, rotated, unpack

torch = pytest.importorskip("torch")

F64 = NDArray[np.float64]
LEVELS = _core.LevelModel(top=6, after_bootstrap=4, bootstrap_min=1)
EXACT = 1e-9


@dataclass(frozen=True)
class Case:
    channels: int
    out: int
    height: int
    width: int
    gap: int
    grid: tuple[int, int]
    kernel: int
    stride: int
    padding: int
    repeats: int = 1
    bias: bool = True
    keys: _core.KeyPolicy = _core.KeyPolicy.fast
    copies_in: int = 1
    copies_out: int = 1

    @property
    def layout(self) -> Layout:
        return rotated_replicas(Layout(self.channels, self.height, self.width, self.gap, *self.grid), self.copies_in)

    @property
    def conv(self) -> _core.Conv2d:
        return _core.Conv2d(self.kernel, self.stride, self.padding)

    @property
    def output(self) -> Layout:
        return rotated_replicas(_core.conv2d_output(self.layout, self.out, self.conv), self.copies_out)


def rotated_replicas(layout: Layout, copies: int) -> Layout:
    """So many copies, each rotated by an equal part of the blocks; no more than there are blocks."""
    copies = min(copies, layout.blocks)
    return rotated(layout, layout.blocks // copies if copies > 1 else 0)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    gap = draw(st.sampled_from([1, 2, 4]))
    grid = tuple(gap * 2 ** draw(st.integers(0, 3)) for _ in "hw")
    height, width = (draw(st.integers(1, size // gap)) for size in grid)
    kernel = draw(st.integers(1, 5))
    return Case(
        channels=draw(st.integers(1, 10)),
        out=draw(st.integers(1, 10)),
        height=height,
        width=width,
        gap=gap,
        grid=(grid[0], grid[1]),
        kernel=kernel,
        stride=draw(st.sampled_from([1, 2, 4])),
        padding=draw(st.integers(0, kernel)),
        repeats=draw(st.sampled_from([1, 2, 4])),
        bias=draw(st.booleans()),
        keys=draw(st.sampled_from(list(_core.KeyPolicy.__members__.values()))),
        copies_in=draw(st.sampled_from([1, 2, 4, 8])),
        copies_out=draw(st.sampled_from([1, 2, 4, 8])),
    )


def reference(case: Case, x: F64, weight: F64, bias: F64) -> F64:
    """What PyTorch computes."""
    tensors = torch.tensor(x)[None], torch.tensor(weight), torch.tensor(bias) if case.bias else None
    return np.asarray(torch.nn.functional.conv2d(*tensors, case.stride, case.padding)[0].numpy())


def convolve(case: Case, x: F64, weight: F64, bias: F64) -> tuple[Layout, F64, int]:
    """Output layout, all slots and level of the kernel on the slots evaluator."""
    out = case.output
    slots = max(case.layout.period, out.period) * case.repeats
    evaluator = _core.SlotsEvaluator(slots, LEVELS, case.keys)
    y = _core.conv2d(evaluator, evaluator.encrypt(pack(x, case.layout), 5), weight, bias, case.layout, out, case.conv)
    return out, evaluator.decrypt(y), evaluator.level(y)


def tensors(case: Case, seed: int) -> tuple[F64, F64, F64]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(case.channels, case.height, case.width))
    weight = rng.normal(size=(case.out, case.channels, case.kernel, case.kernel))
    return x, weight, rng.normal(size=case.out) if case.bias else np.zeros(0)


@settings(max_examples=300)
@given(cases(), st.integers(0, 2**32 - 1))
@example(Case(16, 16, 32, 32, 1, (32, 32), 3, 1, 1), 0)
@example(Case(16, 32, 32, 32, 1, (32, 32), 3, 2, 1, bias=False), 1)
@example(Case(16, 32, 16, 16, 2, (32, 32), 1, 2, 0), 2)
@example(Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1), 3)
@example(Case(5, 7, 8, 8, 2, (16, 16), 5, 1, 2, repeats=4), 4)
@example(Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1, copies_out=4), 5)
@example(Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1, copies_in=4), 6)
@example(Case(32, 64, 16, 16, 2, (32, 32), 3, 2, 1, copies_in=2, copies_out=4), 7)
@example(Case(16, 16, 4, 4, 1, (4, 4), 5, 1, 2, copies_in=16), 8)
def test_equals_pytorch_and_repeats_through_all_slots(case: Case, seed: int) -> None:
    height, width = ((s + 2 * case.padding - case.kernel) // case.stride + 1 for s in (case.height, case.width))
    assume(height > 0 and width > 0)
    assume(height * case.gap * case.stride <= case.grid[0] and width * case.gap * case.stride <= case.grid[1])
    x, weight, bias = tensors(case, seed)
    out, slots, level = convolve(case, x, weight, bias)
    expected = reference(case, x, weight, bias)
    assert np.abs(unpack(slots, out) - expected).max() < EXACT
    periods = slots.reshape(-1, out.period)
    assert np.abs(periods - periods[0]).max() < EXACT
    # Nothing but the output: the next layer, and a bootstrap, take every slot as it is.
    assert np.abs(periods[0] - pack(expected, out)).max() < EXACT
    assert level == 4


def traced(case: Case, slots: int = 32768) -> Any:
    trace = _core.TraceEvaluator(slots, LEVELS, case.keys)
    _, weight, bias = tensors(case, 0)
    _core.conv2d(trace, trace.encrypt(5), weight, bias, case.layout, case.output, case.conv)
    return trace.report()


def test_five_keys_serve_the_3x3_convolution_by_optimized_vector_encoding() -> None:
    """Nine kernel offsets: 2 column rotations hoisted on the input, 2 row rotations hoisted on each of 3 columns; then
    a Horner sum over 16 channel distances."""
    report = traced(Case(16, 16, 32, 32, 1, (32, 32), 3, 1, 1), 16384)
    assert set(report.rotation_keys) == {-32, -1, 1, 32, 1024}
    assert sum(report.hoisted_key_switches.values()) == 8
    assert sum(report.key_switches.values()) == 15
    assert sum(report.plain_multiplications.values()) == 9 * 16
    assert dict(report.rescales) == {6: 1}


@pytest.mark.parametrize(
    ("case", "keys"),
    [
        (Case(16, 16, 32, 32, 1, (32, 32), 3, 1, 1, keys=_core.KeyPolicy.minimal), {-32, -1, 1, 32, 1024}),
        (Case(32, 32, 16, 16, 2, (32, 32), 3, 1, 1, keys=_core.KeyPolicy.minimal), {-32, -1, 1, 32, 1024}),
        (Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1, keys=_core.KeyPolicy.minimal), {-224, -1, 1, 32, 1024}),
    ],
    ids=["16-16", "32-32", "64-64"],
)
def test_five_keys_serve_every_3x3_convolution_under_the_minimal_policy(case: Case, keys: set[int]) -> None:
    """For as many key switches as with a key for every column."""
    few, many = traced(case), traced(dataclasses.replace(case, keys=_core.KeyPolicy.fast))
    assert set(few.rotation_keys) == keys
    assert not few.hoisted_key_switches
    switches = [sum(r.key_switches.values()) + sum(r.hoisted_key_switches.values()) for r in (few, many)]
    assert switches[0] == switches[1]
    assert few.plain_multiplications == many.plain_multiplications


@pytest.mark.parametrize(
    ("case", "diagonals"),
    [
        (Case(16, 16, 32, 32, 1, (32, 32), 3, 1, 1), 144),
        (Case(16, 32, 32, 32, 1, (32, 32), 3, 2, 1), 128),
        (Case(16, 32, 32, 32, 1, (32, 32), 1, 2, 0), 32),
        (Case(32, 32, 16, 16, 2, (32, 32), 3, 1, 1), 392),
        (Case(32, 64, 16, 16, 2, (32, 32), 3, 2, 1), 324),
        (Case(32, 64, 16, 16, 2, (32, 32), 1, 2, 0), 100),
        (Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1), 900),
    ],
    ids=["16-16", "16-32/2", "short 16-32", "32-32", "32-64/2", "short 32-64", "64-64"],
)
def test_as_many_diagonals_as_published(case: Case, diagonals: int) -> None:
    """reference/activations.md, section 4.3: single-shot multiplexed packing of ResNet20's layers, one level each."""
    report = traced(case)
    assert sum(report.plain_multiplications.values()) == diagonals
    assert sum(report.rescales.values()) == 1


@pytest.mark.parametrize(
    ("case", "diagonals", "hoisted", "other", "keys"),
    [
        (Case(32, 32, 16, 16, 2, (32, 32), 3, 1, 1), 392, 48, 7, 13),
        (Case(32, 32, 16, 16, 2, (32, 32), 3, 1, 1, copies_out=2), 392, 48, 7, 13),
        (Case(32, 32, 16, 16, 2, (32, 32), 3, 1, 1, copies_in=2), 196, 6, 29, 10),
        (Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1), 900, 14, 60, 17),
        (Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1, copies_out=4), 900, 14, 60, 17),
        (Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1, copies_in=2), 450, 14, 31, 18),
        (Case(64, 64, 8, 8, 4, (32, 32), 3, 1, 1, copies_in=4), 225, 14, 17, 18),
    ],
)
def test_rotated_replicas_take_a_part_of_the_work(
    case: Case, diagonals: int, hoisted: int, other: int, keys: int
) -> None:
    report = traced(case, 16384)
    assert sum(report.plain_multiplications.values()) == diagonals
    assert sum(report.hoisted_key_switches.values()) == hoisted
    assert sum(report.key_switches.values()) == other
    assert len(report.rotation_keys) == keys


def test_the_stem_needs_a_quarter_of_the_published_diagonals() -> None:
    """144 published. The three input channels here repeat after four blocks, so diagonals that far apart are one."""
    assert sum(traced(Case(3, 16, 32, 32, 1, (32, 32), 3, 1, 1)).plain_multiplications.values()) == 144 // 4


@settings(max_examples=60)
@given(cases())
def test_keys_and_rotations_depend_on_shapes_alone(case: Case) -> None:
    """Keys are made before the weights are known: zeros in a weight must not take a rotation away."""
    try:
        dense = traced(case)
    except PlanError:
        assume(False)
    trace = _core.TraceEvaluator(32768, LEVELS, case.keys)
    zeros = np.zeros(case.out * case.channels * case.kernel**2)
    _core.conv2d(trace, trace.encrypt(5), zeros, np.zeros(0), case.layout, case.output, case.conv)
    for name in ("rotation_keys", "key_switches", "hoisted_key_switches"):
        assert getattr(trace.report(), name) == getattr(dense, name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(cases())
def test_the_layouts_say_how_many_diagonals_there_are(case: Case) -> None:
    """Each as often as replicas of the output differ where those of the input do not. (With rotated replicas whose
    channels do not fill their blocks some are missing, or there twice.)"""

    def full(layout: Layout) -> bool:
        return layout.channels == layout.blocks * layout.gap**2

    try:
        assume(not (case.layout.replica_rotation and case.output.replica_rotation))
        if case.layout.replica_rotation or case.output.replica_rotation:
            assume(full(case.layout) and full(case.output))
        for size, outputs in ((case.height, case.output.height), (case.width, case.output.width)):
            reads = [range(-(k - case.padding), size - (k - case.padding)) for k in range(case.kernel)]
            # A kernel offset that reads no pixel has a diagonal of zeros, which is omitted.
            assume(all(any(y * case.stride in at for y in range(outputs)) for at in reads))
        made = sum(traced(case).plain_multiplications.values())
    except PlanError:
        assume(False)
    counted = diagonals(case.layout, case.output, case.kernel, case.padding).max() + 1
    assert made % counted == 0
    if not case.layout.replica_rotation and not case.output.replica_rotation:
        assert made == counted


@pytest.mark.parametrize(
    "case",
    [
        Case(16, 16, 16, 16, 1, (16, 16), 3, 1, 1),
        Case(16, 32, 16, 16, 1, (16, 16), 3, 2, 1),
        Case(32, 32, 8, 8, 2, (16, 16), 3, 1, 1, copies_out=4),
        Case(32, 32, 8, 8, 2, (16, 16), 3, 1, 1, copies_in=4, bias=False),
    ],
    ids=["plain", "strided", "to rotated", "from rotated"],
)
def test_diagonals_of_zeros_are_left_out(case: Case) -> None:
    of = diagonals(case.layout, case.output, case.kernel, case.padding)
    count = int(of.max()) + 1
    gone = np.random.default_rng(0).choice(count, count // 3, replace=False)
    x, weight, bias = tensors(case, 0)
    weight = np.where(np.isin(of, gone), 0.0, weight)
    trace = _core.TraceEvaluator(32768, LEVELS)
    _core.conv2d(trace, trace.encrypt(5), weight, bias, case.layout, case.output, case.conv)
    dense, left = traced(case), trace.report()
    assert left.plain_multiplications[6] * count == dense.plain_multiplications[6] * (count - len(gone))
    assert left.rotation_keys == dense.rotation_keys
    expected = reference(case, x, weight, bias)
    out, slots, _ = convolve(case, x, weight, bias)
    assert np.abs(unpack(slots, out) - expected).max() < EXACT


CASE = Case(2, 3, 4, 4, 1, (4, 4), 3, 1, 1)


@pytest.mark.parametrize("size", [0, 1, 2 * 3 * 9 - 1, 2 * 3 * 9 + 1])
def test_a_weight_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(PlanError, match="weight of the wrong size"):
        convolve(CASE, np.zeros((2, 4, 4)), np.ones(size), np.zeros(0))


def test_a_bias_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(PlanError, match="bias of the wrong size"):
        convolve(CASE, np.zeros((2, 4, 4)), np.ones(54), np.zeros(2))


@pytest.mark.parametrize(
    "conv", [(0, 1, 0), (3, 0, 1), (3, 1, -1), (3, -2, 1), (5, 1, 0), (3, 3, 1), (1, 8, 0), (1, 1, 1)]
)
def test_impossible_convolutions_are_refused(conv: tuple[int, int, int]) -> None:
    with pytest.raises(PlanError, match="impossible"):
        _core.conv2d_output(CASE.layout, 3, _core.Conv2d(*conv))


def test_no_channels_are_refused() -> None:
    with pytest.raises(PlanError, match="impossible"):
        _core.conv2d_output(CASE.layout, 0, _core.Conv2d(3, 1, 1))


def test_an_output_in_another_grid_is_refused() -> None:
    conv, other = _core.Conv2d(3, 1, 1), Layout(3, 4, 4, 1, 8, 8)
    evaluator = _core.SlotsEvaluator(256, LEVELS)
    x = evaluator.encrypt(np.zeros(32), 5)
    with pytest.raises(PlanError, match="does not keep the grid"):
        _core.conv2d(evaluator, x, np.ones(54), np.zeros(0), CASE.layout, other, conv)


def test_a_layer_of_more_slots_than_there_are_is_refused() -> None:
    conv, out = _core.Conv2d(3, 1, 1), _core.conv2d_output(CASE.layout, 3, _core.Conv2d(3, 1, 1))
    evaluator = _core.SlotsEvaluator(32, LEVELS)  # the output needs 4 blocks of 16
    x = evaluator.encrypt(np.zeros(32), 5)
    with pytest.raises(UsageError, match="do not repeat in 32 slots"):
        _core.conv2d(evaluator, x, np.ones(54), np.zeros(0), CASE.layout, out, conv)
