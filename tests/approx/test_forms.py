"""What all activations share, and those that are neither minimax nor PAF."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer.approx import Activation, activation, chebyshev, levels, measure, names, sign
from fheinfer.approx.forms import Gate, MaxPool, Polynomial
from fheinfer.errors import InputError, RangeError, UsageError

ONE_INPUT = [name for name in names() if not name.startswith("max")]
UNIT = st.floats(-1, 1)


def pool(name: str) -> MaxPool:
    found = activation(name)
    assert isinstance(found, MaxPool)
    return found


@pytest.mark.parametrize("name", names())
def test_every_activation_says_what_it_is(name: str) -> None:
    found = activation(name)
    assert found.name == name
    assert isinstance(found, Activation)
    about = measure.describe(found)
    assert about["degrees"] == [len(stage) - 1 for stage in found.polynomials.stages]
    assert 0 < about["levels"] <= about["openfhe_levels"]
    assert about["source"]
    assert about["form"].startswith(("p1(x", "x (1 + p", "(a + b) / 2", "2 rounds", "4 rounds"))
    assert 0 <= about["rms"] <= about["error"] < 0.3


@pytest.mark.parametrize("name", ONE_INPUT)
def test_the_error_is_as_large_as_it_is_said_to_be(name: str) -> None:
    found = activation(name)
    x = np.random.default_rng(0).uniform(-1, 1, 5000) * found.scale
    missed = np.abs(found(x) - found.exact(x))
    about = measure.error(found)
    assert missed.max() <= about.largest * (1 + 1e-3) + 1e-12
    assert np.sqrt(np.mean(missed**2)) == pytest.approx(about.rms, rel=0.1, abs=1e-12)


@pytest.mark.parametrize("name", [n for n in ONE_INPUT if np.isfinite(activation(n).bound)])
@pytest.mark.parametrize("worse", [1.01, -1.01, np.nan, np.inf])
def test_inputs_outside_the_range_are_refused(name: str, worse: float) -> None:
    found = activation(name)
    with pytest.raises(RangeError, match=found.name):
        found(np.array([0.0, worse * found.scale]))
    found(np.array([-1.0, 1.0]) * found.scale)
    found(np.zeros(0))


@settings(max_examples=40)
@given(x=st.lists(UNIT, min_size=1, max_size=20))
@pytest.mark.parametrize("name", ["2f12g1", "minimax:9", "a7", "f1g2:f-first"])
def test_a_relu_by_a_sign_is_half_the_identity_plus_an_even_function(name: str, x: list[float]) -> None:
    found, values = activation(name), np.array(x)
    assert found(values) - found(-values) == pytest.approx(values, abs=1e-12)


@settings(max_examples=40)
@given(x=st.lists(UNIT, min_size=1, max_size=20))
@pytest.mark.parametrize("name", ["relu:59", "silu:31:8", "gelu:31:8", "relu-aq", "herpn"])
def test_so_is_one_by_a_series(name: str, x: list[float]) -> None:
    found = activation(name)
    values = np.array(x) * found.scale
    assert found(values) - found(-values) == pytest.approx(values, abs=1e-11)
    assert not found.polynomials.stages[0][3::2].any()


@pytest.mark.parametrize("degree", [2, 7, 27, 58, 59, 119, 200])
def test_the_chebyshev_relu_is_the_compilers(degree: int) -> None:
    found = activation(f"relu:{degree}")
    assert np.array_equal(found.polynomials.stages[0], chebyshev.relu(degree))
    assert found.degrees == (degree,)


def test_a_step_is_half_a_sign_and_a_half() -> None:
    found = activation("2f12g1")
    assert isinstance(found, Gate)
    x = np.linspace(-1, 1, 101)
    assert found.step(x) == pytest.approx((1 + found.polynomials(x)) / 2, abs=1e-14)
    assert found.step.levels == found.polynomials.levels == found.levels - 1


@pytest.mark.parametrize("name", [n for n in ONE_INPUT if activation(n).scale == 1])
def test_the_slots_evaluator_computes_the_same_polynomials(name: str) -> None:
    found, x = activation(name), np.linspace(-1, 1, 1024)
    evaluator = _core.SlotsEvaluator(1024, _core.LevelModel(top=40, after_bootstrap=40, bootstrap_min=1))
    y = evaluator.encrypt(x, 40)
    for stage in found.polynomials.stages:
        y = evaluator.chebyshev(y, list(stage))
    assert evaluator.decrypt(y) == pytest.approx(found.polynomials(x), abs=1e-9)


def test_levels_are_the_logarithm_of_the_degree() -> None:
    assert [levels.series_levels(d) for d in (1, 2, 3, 4, 7, 8, 15, 27, 59, 119, 200, 247)] == [
        *(1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8)
    ]


def test_openfhes_levels_are_its_table() -> None:
    assert [levels.openfhe_series_levels(d) for d in (3, 5, 6, 13, 14, 27, 28, 59, 60, 119, 247)] == [
        *(3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8)
    ]
    sums = [[levels.openfhe_series_levels(d) for d in c] for c in ((15, 15, 27), (7, 7, 13), (3, 3, 3, 3))]
    assert list(map(sum, sums)) == [15, 12, 12]
    for degree in (0, 2032):
        with pytest.raises(UsageError, match="Chebyshev"):
            levels.openfhe_series_levels(degree)


@given(x=st.floats(-100, 100))
def test_quadratics_are_what_they_are_called(x: float) -> None:
    assert float(activation("square")(x)) == pytest.approx(x * x, abs=1e-9)
    assert float(activation("relu-aq")(x)) == pytest.approx(x * x / 8 + x / 2 + 1 / 4, abs=1e-9)


def test_herpn_is_the_projection_of_relu_on_gaussian_inputs() -> None:
    """E[(relu - p) He_n] = 0 for n = 0, 1, 2 under N(0, 1). With x^2 - 1 undivided by sqrt(2) it would not be."""
    x = np.linspace(-12, 12, 200001)
    weight = np.exp(-x * x / 2) / sqrt(2 * np.pi) * (x[1] - x[0])
    missed = np.maximum(x, 0) - activation("herpn")(x)
    for basis in (np.ones_like(x), x, x * x - 1):
        assert float((missed * basis * weight).sum()) == pytest.approx(0, abs=1e-7)


def test_quadratics_take_one_level() -> None:
    """a x^2 + b x + c = (sqrt(a) x + b / (2 sqrt(a)))^2 + rest, the inner part in the layer before."""
    for name in ("square", "relu-aq", "herpn"):
        found = activation(name)
        c0, c1, c2 = np.polynomial.chebyshev.cheb2poly(found.polynomials.stages[0])
        x = np.linspace(-3, 3, 11)
        square = (np.sqrt(c2) * x + c1 / (2 * np.sqrt(c2))) ** 2 + c0 - c1 * c1 / (4 * c2)
        assert square == pytest.approx(found(x), abs=1e-12)
        assert found.levels == 1


@given(x=st.floats(-8, 8))
def test_silu_and_gelu_are_those_of_the_papers(x: float) -> None:
    assert float(activation("silu:63:8")(x)) == pytest.approx(x / (1 + np.exp(-x)), abs=1e-9)
    assert float(activation("gelu:63:8")(x)) == pytest.approx(x / 2 * (1 + erf(x / sqrt(2))), abs=1e-8)


@pytest.mark.parametrize("kind", ["silu", "gelu"])
def test_the_error_of_smooth_functions_falls_quickly(kind: str) -> None:
    errors = [measure.error(activation(f"{kind}:{degree}:8")).largest for degree in (15, 31, 63)]
    assert errors[0] > 30 * errors[1] > 900 * errors[2]
    assert activation(f"{kind}:31").name == f"{kind}:31:8"


def test_a_series_in_normalised_form() -> None:
    found = activation("silu:31:4")
    assert isinstance(found, Polynomial)
    assert found.form == "p1(x / 4)"
    assert (found.scale, found.bound, found.levels) == (4, 4, 5)


@given(a=st.floats(-0.5, 0.5), b=st.floats(-0.5, 0.5))
def test_max_is_within_its_error(a: float, b: float) -> None:
    found = activation("max:minimax:10")
    assert float(found(a, b)) == pytest.approx(max(a, b), abs=2.0**-10)
    assert float(found(a, b)) == pytest.approx(float(found(b, a)), abs=1e-12)


def test_max_looks_at_the_difference() -> None:
    found = activation("max:a7")
    assert float(found(5.5, 5.0)) == pytest.approx(5.5, abs=0.01)
    with pytest.raises(RangeError):
        found(0.6, -0.6)
    with pytest.raises(UsageError):
        found(0.6)


@pytest.mark.parametrize("name", ["maxpool2:minimax:8", "maxpool3:minimax:8", "maxpool2:a7", "maxpool3:2f12g1"])
@settings(max_examples=40)
@given(data=st.data())
def test_max_pool_stays_in_range_and_within_its_error(name: str, data: st.DataObject) -> None:
    found = pool(name)
    bound = found.bound
    window = st.floats(-bound, bound) | st.sampled_from([-bound, bound])
    x = np.array(data.draw(st.lists(window, min_size=found.kernel**2, max_size=found.kernel**2)))
    assert abs(float(found(x)) - x.max()) <= measure.error(found).largest + 1e-12
    values = list(x)
    while len(values) > 1:  # no comparison sees more than it is valid for
        assert np.ptp(values) <= 1 + 1e-12
        paired = [float(found.pair(a, b)) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = paired + values[2 * len(paired) :]


def test_max_pool_counts_its_rounds() -> None:
    assert (pool("maxpool2:minimax:10").rounds, pool("maxpool3:minimax:10").rounds) == (2, 4)
    assert (activation("maxpool2:minimax:10").levels, activation("maxpool3:minimax:10").levels) == (22, 44)
    assert 0.49 < pool("maxpool3:minimax:10").bound < pool("maxpool2:minimax:10").bound < 0.5
    with pytest.raises(UsageError, match="windows"):
        activation("maxpool2:a7")(np.zeros((3, 3)))
    assert activation("maxpool2:a7")(np.zeros((2, 5, 4))).shape == (2, 5)


WRONG = (
    "",
    "relu",
    "relu:1",
    "relu:x",
    "relu:5000",
    "relu:-3",
    "silu",
    "silu:31:0",
    "silu:31:nan",
    "silu:31:8:9",
    "minimax",
    "minimax:3",
    "minimax:10:g",
    "f2f2",
    "a7:g-first",
    "square:2",
    "max",
    "max:square",
    "max:max:a7",
    "maxpool4:a7",
    "maxpool2",
    "none.txt",
)


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        activation(name)


def test_a_generated_file_is_an_activation(tmp_path: Path) -> None:
    made, path = sign.generate((3, 3), 0.25, 0.125), tmp_path / "own.json"
    path.write_text(made.model_dump_json())
    found = activation(str(path))
    assert (found.degrees, found.levels, found.bound) == ((3, 3), 5, 1.125)
    found(1.125)
    assert activation(f"max:{path}").levels == 5


GOOD: dict[str, Any] = {
    "eta": "0.5",
    "guard": "0",
    "stages": [{"degree": 1, "domain": ["0.5", "1"], "error": "0.3", "coefficients": ["1.3"]}],
}


def damaged(**changes: object) -> dict[str, Any]:
    return {**GOOD, "stages": [{**GOOD["stages"][0], **changes}]}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "not json",
        {**GOOD, "stages": []},
        {**GOOD, "stages": GOOD["stages"] * 100},
        {**GOOD, "eta": "NaN"},
        {**GOOD, "more": 1},
        damaged(degree=2),
        damaged(degree=3),
        damaged(degree=10**9),
        damaged(coefficients=["Infinity"]),
        damaged(coefficients=["x"]),
        " " * (1 << 21),
    ],
)
def test_a_damaged_file_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=r"not a composite|larger than"):
        activation(str(path))
    path.write_text(json.dumps(GOOD))
    assert activation(str(path)).levels == 2
    with pytest.raises(InputError, match="check the path"):
        activation(str(tmp_path / "none.json"))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "own.json")
    with pytest.raises(InputError, match="not a regular file"):
        activation(str(tmp_path / "own.json"))


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=2), st.floats(0.1, 0.9))
def test_measured_bands_hold(halves: list[int], tolerance: float) -> None:
    made = sign.generate([2 * h + 1 for h in halves], 0.4, digits=20, tolerance=1e-6).composition()
    band = measure.sign_band(made, tolerance)
    assume(band is not None)
    assert band is not None
    x = np.linspace(band.width, 1, 501)
    assert np.abs(made(x) - 1).max() <= tolerance * (1 + 1e-2)
