"""The engine for linear maps: bit for bit what elementary operations give, whatever is kept, on any threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer._core import LinearMap, LinearMapConstants, Tier
from fheinfer.crypto.backends import backend
from fheinfer.errors import BackendError, PlanError, UsageError
from fheinfer.evaluation.metrics import precision_bits
from tests.conftest import small

SLOTS = 1024
LEVEL = 4
ROTATIONS = (-3, -2, -1, 1, 2, 3, 4, 8, 16, 64, 256, 512)
SETS = pytest.mark.parametrize("name", ["1", "turbo"])
"""A chain of 47-bit scales, and a composite-prime chain of 25 bits, on which diagonals are their own mirror image."""
BITS = {"1": 24.0, "turbo": 6.0}

fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)


@dataclass(frozen=True)
class Machine:
    keys: Any
    fast: Any
    minimal: Any
    context: Any

    def encrypt(self, values: NDArray[np.float64], level: int = LEVEL) -> Any:
        return self.fast.read(self.keys.encrypt(values, level))

    def decrypt(self, x: Any) -> NDArray[np.float64]:
        return np.asarray(self.keys.decrypt(self.fast.write(x), SLOTS))

    def body(self, xs: list[Any]) -> bytes:
        return b"".join(self.fast.write(x) for x in xs)


@pytest.fixture(scope="session")
def machine() -> Callable[[str], Machine]:
    made: dict[str, Machine] = {}

    def get(name: str) -> Machine:
        if name not in made:
            params = dataclasses.replace(small(name), slots=SLOTS)
            context = backend("native").context(params)
            keys = _core.ClientKeys.generate(context, f"{name:0>32}")
            evaluators = [_core.NativeEvaluator(context, k) for k in (_core.KeyPolicy.fast, _core.KeyPolicy.minimal)]
            native = _core.NativeKeys(keys)
            bodies = native.rotation_keys([(k, params.limbs(LEVEL)) for k in ROTATIONS])
            for evaluator in evaluators:
                evaluator.add_conjugation_key(native.conjugation_key())
                for k, body in zip(ROTATIONS, bodies, strict=True):
                    evaluator.add_rotation_key(k, body)
            made[name] = Machine(keys, evaluators[0], evaluators[1], context)
        return made[name]

    return get


@pytest.fixture
def all_threads() -> Iterator[None]:
    yield
    _core.set_threads(2)


def values(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, SLOTS)


@dataclass(frozen=True)
class Shape:
    """A map of random diagonals, some of them zero, and what it is on clear slots."""

    period: int
    inputs: int = 1
    outputs: int = 1
    first: tuple[int, ...] = (0,)
    second: tuple[int, ...] = (0,)
    row_steps: int = 1
    row_stride: int = 0
    block_steps: int = 1
    block_stride: int = 0
    shift: int = 0
    rotate_and_sum: tuple[int, ...] = ()
    double_hoisting: bool = False
    is_complex: bool = False
    seed: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """(outputs, blocks, rows, inputs, second, first)"""
        return (self.outputs, self.block_steps, self.row_steps, self.inputs, len(self.second), len(self.first))

    def diagonals(self) -> NDArray[Any]:
        rng = np.random.default_rng(self.seed)
        d: NDArray[Any] = rng.uniform(-1, 1, (*self.sizes, self.period)) / np.prod(self.sizes[1:])
        if self.is_complex:
            d = d + 1j * rng.uniform(-1, 1, d.shape) / np.prod(self.sizes[1:])
        d[rng.random(self.sizes) < 0.3] = 0
        d[:, 0, 0, 0, 0, 0, 0] = 0.5  # of every output there is something
        return d

    def map(self) -> LinearMap:
        flat = self.diagonals().reshape(-1, self.period)
        lists = [d.tolist() if d.any() else [] for d in flat]
        fields = dataclasses.asdict(self)
        for name in ("period", "seed"):
            del fields[name]
        return LinearMap(self.period, lists, **fields)

    def clear(self, xs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        d, ys = np.tile(self.diagonals(), SLOTS // self.period), []
        for of_output in d:
            y = np.zeros(SLOTS, d.dtype)
            for b, r in np.ndindex(self.block_steps, self.row_steps):
                terms = [
                    of_output[b, r, i, s, f] * np.roll(x, -(self.second[s] + self.first[f]))
                    for i, x in enumerate(xs)
                    for s in range(len(self.second))
                    for f in range(len(self.first))
                ]
                y = y + np.roll(np.sum(terms, axis=0), -(b * self.block_stride + r * self.row_stride))
            y = np.roll(y, -self.shift)
            for k in self.rotate_and_sum:
                y = y + np.roll(y, -k)
            ys.append(y)
        return ys


def shapes(**fixed: Any) -> st.SearchStrategy[Shape]:
    """Of all sizes, odd ones included, for which there are keys."""
    return st.builds(
        Shape,
        **{
            "period": st.sampled_from([1, 2, 8, 16, 64, 512, 1024]),
            "inputs": st.integers(1, 3),
            "outputs": st.integers(1, 3),
            "first": st.sampled_from([(0,), (-1, 0, 1), (0, 1, 2), (-3, -2, -1), (-2, -1, 0, 1, 2)]),
            "second": st.sampled_from([(0,), (0, 16), (0, 1, 2, 3)]),
            "row_steps": st.integers(1, 5),
            "row_stride": st.sampled_from([4, 8]),
            "block_steps": st.integers(1, 3),
            "block_stride": st.sampled_from([16, 64]),
            "shift": st.sampled_from([0, -2, 64]),
            "rotate_and_sum": st.sampled_from([(), (256,), (256, 512)]),
            "seed": st.integers(0, 99),
            **fixed,
        },
    )


@SETS
@pytest.mark.parametrize("policy", ["fast", "minimal"])
@fixtures
@given(shapes())
def test_it_is_bit_for_bit_what_elementary_operations_give(
    machine: Callable[[str], Machine], name: str, policy: str, shape: Shape
) -> None:
    if policy == "minimal":  # in single steps, for which there are keys
        shape = dataclasses.replace(shape, second=(0, 16))
    m, map = machine(name), shape.map()
    evaluator, clear = getattr(m, policy), [values(i) for i in range(shape.inputs)]
    xs = [m.encrypt(x) for x in clear]
    slow = _core.elementary_linear_map(evaluator, xs, map)
    ys = _core.linear_map(evaluator, xs, map)
    assert m.body(ys) == m.body(slow)
    for tier in (Tier.streamed, Tier.coefficients, Tier.encoded):
        constants = LinearMapConstants(map, tier)
        for _ in range(2):
            assert m.body(_core.linear_map(evaluator, xs, constants)) == m.body(ys)
    for y, expected in zip(ys, shape.clear(clear), strict=True):
        assert evaluator.level(y) == LEVEL - 1
        assert precision_bits(expected, m.decrypt(y)).minimum > BITS[name]


@pytest.mark.parametrize("policy", ["fast", "minimal"])
@fixtures
@given(
    shapes(
        first=st.sampled_from([(0,), (0, 2), (0, 2, 4)]),
        second=st.sampled_from([(0, 1), (-3, -2), (1,)]),
        row_stride=st.just(4),
        block_steps=st.just(1),
        shift=st.just(0),
        rotate_and_sum=st.just(()),
        double_hoisting=st.just(True),
        is_complex=st.booleans(),
    )
)
def test_double_hoisting_and_complex_diagonals(machine: Callable[[str], Machine], policy: str, shape: Shape) -> None:
    """Two inputs in real and imaginary parts see a complex map whole."""
    m, map = machine("1"), shape.map()
    evaluator = getattr(m, policy)
    two = _core.TwoInputs(evaluator)
    clear = [values(i) + 1j * values(i + 50) for i in range(shape.inputs)]
    xs = [two.join(m.encrypt(x.real), m.encrypt(x.imag)) for x in clear]
    ys = _core.linear_map(two, xs, map)
    for y, expected in zip(ys, shape.clear(clear), strict=True):
        for part, wanted in zip(two.twice_each(y), (expected.real, expected.imag), strict=True):
            assert precision_bits(wanted, m.decrypt(part) / 2).minimum > 22
    for tier in (Tier.coefficients, Tier.encoded):
        assert m.body(_core.linear_map(two, xs, LinearMapConstants(map, tier))) == m.body(ys)


WIDE = Shape(512, 2, 3, (-1, 0, 1), (0, 16), 3, 4, 3, 64)


@SETS
def test_threads_share_an_evaluator_and_constants(
    machine: Callable[[str], Machine], name: str, all_threads: None
) -> None:
    m, map = machine(name), WIDE.map()
    inputs = [[m.encrypt(values(10 * k + i)) for i in range(2)] for k in range(3)]
    alone = [m.body(_core.linear_map(m.fast, xs, map)) for xs in inputs]
    _core.set_threads(1)
    assert [m.body(_core.linear_map(m.fast, xs, map)) for xs in inputs] == alone
    for tier in (Tier.streamed, Tier.coefficients, Tier.encoded):
        constants = LinearMapConstants(map, tier)
        with ThreadPoolExecutor(4) as pool:
            work = [(e, xs) for e in (m.fast, m.minimal) for xs in inputs * 2]
            done = list(
                pool.map(
                    lambda job, kept: m.body(_core.linear_map(job[0], job[1], kept)), work, [constants] * len(work)
                )
            )
        # minimal keys make the same rotations in other ways: their noise differs
        assert done[:6] == alone * 2
        assert done[6:9] == done[9:]


@pytest.fixture
def no_limit() -> Iterator[None]:
    before = _core.working_limit()
    yield
    _core.set_working_limit(before)


@SETS
@pytest.mark.parametrize("policy", ["fast", "minimal"])
@pytest.mark.parametrize("outputs", [1, 5])
def test_every_order_within_a_bound_of_memory_gives_the_same_bits(
    machine: Callable[[str], Machine], no_limit: None, name: str, policy: str, outputs: int
) -> None:
    """All baby steps at once; a few inputs at a time; inputs that pass by several times; coefficients in parts."""
    m, map = machine(name), Shape(1024, 4, outputs, (-1, 0, 1), (0, 16), 3, 4, 3, 64).map()
    evaluator, xs = getattr(m, policy), [m.encrypt(values(i)) for i in range(4)]
    limbs, specials, digits = m.context.levels.limbs(LEVEL), 3, 1
    bodies, schedules = set(), []
    _core.set_working_limit(0)
    least = map.working_bytes(2048, limbs, specials, digits)
    for limit in (0, *(int(least * more) for more in (1, 1.2, 1.5, 2, 2.5, 3, 4, 1000))):
        _core.set_working_limit(limit)
        schedules.append(map.schedule(2048, limbs, specials, digits))
        assert map.working_bytes(2048, limbs, specials, digits) <= max(limit, least)
        bodies.add(m.body(_core.linear_map(evaluator, xs, map)))
        bodies.add(m.body(_core.linear_map(evaluator, xs, LinearMapConstants(map, Tier.encoded))))
    assert len(bodies) == 1
    inputs, sums, passes = zip(*schedules, strict=True)
    assert (inputs[0], inputs[-1], passes[-1]) == (1, 4, 1)
    assert len(set(inputs)) > 1
    assert list(passes) == sorted(passes, reverse=True)
    assert outputs == 1 or passes[0] > 1
    assert all(s <= outputs * 9 for s in sums)


def test_a_wide_layer_keeps_to_the_bound(no_limit: None) -> None:
    """16 inputs of 30 baby steps at N = 2^16 would take 5.7 GB; the sums of all outputs take less."""
    one = [[1.0]] * (16 * 30 * 4 * 16)
    map = LinearMap(1, one, inputs=16, outputs=16, first=list(range(30)), row_steps=4, row_stride=30)
    sizes = (1 << 16, 12, 12, 1)
    assert map.working_bytes(*sizes) <= _core.working_limit() == 1_500_000_000
    inputs, *rest = map.schedule(*sizes)
    assert inputs < 16
    assert rest == [64, 1]
    _core.set_working_limit(7 * 10**9)
    assert map.schedule(*sizes) == (16, 4, 1)
    _core.set_working_limit(10**9)
    assert map.schedule(*sizes)[2] == 2
    assert map.working_bytes(*sizes) <= 10**9


@SETS
def test_every_instruction_set_gives_the_same_bits(machine: Callable[[str], Machine], name: str) -> None:
    m, map, best = machine(name), WIDE.map(), _core.instruction_set()
    xs = [m.encrypt(values(i)) for i in range(2)]
    try:
        bodies = []
        for instructions in _core.instruction_sets():
            _core.set_instruction_set(instructions)
            bodies.append(m.body(_core.linear_map(m.fast, xs, map)))
    finally:
        _core.set_instruction_set(best)
    assert len(set(bodies)) == 1


def test_a_short_scale_keeps_half_of_the_coefficients(machine: Callable[[str], Machine]) -> None:
    """32 bits for each of half of them and the one in the middle; else 64 bits for each."""
    shape = Shape(1024)
    for name, each in (("turbo", 4 * (1024 + 1)), ("1", 8 * 2048)):
        m = machine(name)
        constants = LinearMapConstants(shape.map(), Tier.coefficients)
        assert constants.held_bytes == 0
        _core.linear_map(m.fast, [m.encrypt(values(0))], constants)
        assert constants.held_bytes == each <= constants.bytes(Tier.coefficients, 5)
        encoded = LinearMapConstants(shape.map(), Tier.encoded)
        y = m.encrypt(values(0))
        _core.linear_map(m.fast, [y], encoded)
        limbs = m.context.levels.limbs(LEVEL)
        assert (
            encoded.held_bytes == limbs * 8 * (1024 if name == "turbo" else 2048) <= encoded.bytes(Tier.encoded, limbs)
        )


def test_constants_serve_one_place(machine: Callable[[str], Machine]) -> None:
    m, constants = machine("1"), LinearMapConstants(Shape(64).map(), Tier.coefficients)
    _core.linear_map(m.fast, [m.encrypt(values(0))], constants)
    with pytest.raises(UsageError, match="encoded for 5 limbs"):
        _core.linear_map(m.fast, [m.encrypt(values(0), LEVEL - 1)], constants)


def test_what_does_not_fit_is_refused(machine: Callable[[str], Machine]) -> None:
    m = machine("1")
    x, y = m.encrypt(values(0)), m.encrypt(values(1), LEVEL - 1)
    with pytest.raises(UsageError, match="of 2 ciphertexts, not 1"):
        _core.linear_map(m.fast, [x], Shape(8, inputs=2).map())
    with pytest.raises(UsageError, match="different levels"):
        _core.linear_map(m.fast, [x, y], Shape(8, inputs=2).map())
    with pytest.raises(UsageError, match="do not repeat"):
        _core.linear_map(m.fast, [x], Shape(2048).map())
    with pytest.raises(BackendError, match="no key"):
        _core.linear_map(m.fast, [x], Shape(8, first=(0, 7)).map())
    with pytest.raises(BackendError, match="no level left"):
        _core.linear_map(m.fast, [m.encrypt(values(0), 0)], Shape(8).map())
    with pytest.raises(UsageError, match="complex"):
        _core.elementary_linear_map(m.fast, [x], Shape(8, is_complex=True).map())
    refused: list[list[list[float]]] = [[[1.0] * 7], [[]], [[1.0] * 8] * 2]
    for diagonals in refused:
        with pytest.raises(PlanError):
            LinearMap(8, diagonals)
    with pytest.raises(PlanError, match="one kind of giant steps"):
        LinearMap(8, [[1.0] * 8] * 2, block_steps=2, block_stride=4, double_hoisting=True)


def test_tuples_on_clear_slots_and_their_work() -> None:
    """Baby steps are made once for every input, giant steps and rescalings once for every output."""
    levels = _core.LevelModel(LEVEL, LEVEL, 1)
    slots, trace = _core.SlotsEvaluator(SLOTS, levels), _core.TraceEvaluator(SLOTS, levels)
    map, clear = WIDE.map(), [values(0), values(1)]
    ys = _core.linear_map(slots, [slots.encrypt(x, LEVEL) for x in clear], map)
    for y, expected in zip(ys, WIDE.clear(clear), strict=True):
        assert np.allclose(slots.decrypt(y), expected, atol=1e-12)
    _core.linear_map(trace, [trace.encrypt(LEVEL)] * 2, map)
    report, limbs = trace.report(), levels.limbs(LEVEL)
    assert report.hoisted_key_switches == {limbs: 2 * (2 + 3)}
    assert report.key_switches == {limbs: 3 * (3 * 2 + 2)}
    assert report.rescales == {limbs: 3}
    assert sum(report.plain_multiplications.values()) == np.count_nonzero(WIDE.diagonals().any(-1))
