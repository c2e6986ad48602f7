"""Signs of low degree: exact coefficients, both orders, published errors, and what trained ones are good for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import polynomial

from fheinfer.approx import activation, measure, paf
from fheinfer.approx.composition import Composition
from fheinfer.approx.forms import Gate

# Sum of degrees and levels of ReLU (arXiv 2404.03216, Table 2, corrected); largest error and rms, f first, then g
# first, and p(1) in both orders, computed independently of this code.
TABLE = {
    "2f12g1": (12, 9, 0.0484, 0.0220, 0.0139, 0.0043, 0.997, 1.000),
    "a7": (14, 7, 0.0076, 0.0033, 0.0076, 0.0033, 0.986, 0.986),
    "f2g3": (12, 7, 0.1260, 0.0523, 0.0164, 0.0065, 0.748, 0.967),
    "f2g2": (10, 7, 0.0724, 0.0366, 0.0220, 0.0094, 0.998, 1.000),
    "f1g2": (8, 6, 0.0855, 0.0438, 0.0370, 0.0181, 0.998, 1.000),
    "f1": (3, 3, 0.0870, 0.0581, 0.0870, 0.0581, 1.0, 1.0),
    "f2": (5, 4, 0.0706, 0.0438, 0.0706, 0.0438, 1.0, 1.0),
}


def gate(name: str) -> Gate:
    found = activation(name)
    assert isinstance(found, Gate)
    return found


def trained(name: str, row: list[float]) -> Gate:
    """A row of the trained coefficients, f first, as ReLU."""
    degrees = {"2f12g1": (3, 3, 3, 3), "f1g2": (3, 5)}[name]
    stages, rest = [], row[1:]
    for degree in degrees:
        count = (degree + 1) // 2
        stages.append([c for odd in rest[:count] for c in (0.0, odd)])
        rest = rest[count:]
    return Gate(name=name, polynomials=Composition.from_powers(stages), function="ReLU", source="test")


@pytest.mark.parametrize("order", ["", ":f-first"])
@pytest.mark.parametrize("name", TABLE)
def test_degrees_levels_and_errors_are_those_of_the_table(name: str, order: str) -> None:
    total, levels, *figures = TABLE[name]
    largest, rms, at_one = (figures[k] for k in ((0, 1, 4) if order else (2, 3, 5)))
    found = gate(name + order)
    missed = measure.error(found)
    assert (sum(found.degrees), found.levels) == (total, levels)
    assert missed.largest == pytest.approx(largest, abs=6e-5)
    assert missed.rms == pytest.approx(rms, abs=6e-5)
    assert float(found.polynomials(1.0)) == pytest.approx(at_one, abs=6e-4)


def test_f1_and_f2_have_their_exact_form() -> None:
    assert paf.f(1) == (0, 1.5, 0, -0.5)
    assert paf.f(2) == (0, 1.875, 0, -1.25, 0, 0.375)
    assert paf.f(3) == (0, 35 / 16, 0, -35 / 16, 0, 21 / 16, 0, -5 / 16)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_f_n_is_flat_at_one(n: int) -> None:
    """f(1) = 1, and n derivatives vanish there."""
    powers = np.array(paf.f(n))
    assert polynomial.polyval(1, powers) == pytest.approx(1)
    for order in range(1, n + 1):
        assert polynomial.polyval(1, polynomial.polyder(powers, order)) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize("name", paf.PAFS)
@pytest.mark.parametrize("order", ["", paf.F_FIRST])
@settings(max_examples=30)
@given(x=st.floats(-1, 1))
def test_the_composition_equals_the_powers(name: str, order: str, x: float) -> None:
    y = x
    for stage in paf.stages(name, order):
        y = float(polynomial.polyval(y, paf.POLYNOMIALS[stage]))
    assert float(paf.paf(name, order).polynomials(x)) == pytest.approx(y, abs=1e-12)


@pytest.mark.parametrize("name", [*paf.PAFS, "2f12g1:f-first", "f2g3:f-first", "f2g2:f-first", "f1g2:f-first"])
def test_every_stage_is_odd_and_stays_in_its_domain(name: str) -> None:
    x = np.linspace(-1, 1, 4001)
    *inner, last = gate(name).polynomials.stages
    for stage in inner:
        assert not stage[::2].any()
        x = np.asarray(np.polynomial.chebyshev.chebval(x, stage), dtype=np.float64)
        assert np.abs(x).max() <= 1 + 1e-12
    assert not last[::2].any()


def test_the_order_is_g_first_unless_asked_otherwise() -> None:
    """f1^2 o g1^2 means g1 is applied first; SmartPAF's code applies f1 first."""
    x, f1, g1 = 0.3, paf.POLYNOMIALS["f1"], paf.POLYNOMIALS["g1"]

    def apply(*stages: tuple[float, ...]) -> float:
        y = x
        for stage in stages:
            y = float(polynomial.polyval(y, stage))
        return y

    assert float(gate("2f12g1").polynomials(x)) == pytest.approx(apply(g1, g1, f1, f1))
    assert float(gate("2f12g1:f-first").polynomials(x)) == pytest.approx(apply(f1, f1, g1, g1))


@pytest.mark.parametrize("name", ["2f12g1", "f2g3", "f2g2", "f1g2"])
def test_g_first_has_the_smaller_error(name: str) -> None:
    """2.4 times for f1g2 to 8 times for f2g3, in rms, with the same polynomials and levels."""
    first, last = (measure.error(gate(n)).rms for n in (name, f"{name}:f-first"))
    assert 2.3 * first < last < 8.2 * first
    assert gate(name).levels == gate(f"{name}:f-first").levels


@pytest.mark.parametrize("name", ["a7", "f1", "f2"])
def test_what_has_one_order_is_the_same_by_both_names(name: str) -> None:
    assert activation(f"{name}:f-first").name == name


def test_the_sums_of_degrees_that_a_table_swaps() -> None:
    """Table 2 of arXiv 2404.03216 gives 14, 12 and 5 for these."""
    assert [sum(activation(n).degrees) for n in ("2f12g1", "a7", "f1g2")] == [12, 14, 8]


@pytest.mark.parametrize("x, error", [(1.1, 0.001), (1.25, 0.006), (1.5, 0.18), (2.0, 2.0)])
def test_2f12g1_forgives_overflow(x: float, error: float) -> None:
    assert abs(float(gate("2f12g1:f-first").evaluate(x)) - x) == pytest.approx(error, rel=0.5)


def test_a7_is_the_minimax_composite_of_alpha_7() -> None:
    x = np.linspace(-1, 1, 2001)
    assert gate("a7").polynomials(x) == pytest.approx(gate("minimax:7").polynomials(x), abs=1e-5)
    band = gate("a7").band
    assert band is not None
    assert band.width == pytest.approx(11 / 128, rel=0.01)


def test_trained_coefficients_are_good_on_the_bulk_only(trained_pafs: dict[str, list[list[float]]]) -> None:
    """Tuned on a layer's distribution, they fail at the edge of [-1, 1], where a static scale sends inputs."""
    first = trained("f1g2", trained_pafs["f1g2"][0])
    assert float(first.polynomials(1.0)) == pytest.approx(-5.46, abs=0.01)
    assert measure.error(first).largest == pytest.approx(3.2, abs=0.05)
    assert measure.valid_range(first, 0.05) == pytest.approx(0.562, abs=0.002)
    longer = trained("2f12g1", trained_pafs["2f12g1"][0])
    assert measure.valid_range(longer, 0.05) == pytest.approx(0.821, abs=0.002)
    assert measure.valid_range(gate("f1g2"), 0.05) > 1
