"""The exchange itself: against a closed form, and by the property that makes a polynomial the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fheinfer.approx import remez
from fheinfer.errors import UsageError

MP = remez.context(30)


def test_degree_one_is_known() -> None:
    """c x equioscillates at a and b: c a = 1 - E, c b = 1 + E, so c = 2 / (a + b)."""
    made = remez.minimax_odd(MP, 1, MP.mpf("0.25"), MP.mpf(1))
    assert float(made.coefficients[0]) == pytest.approx(1.6, abs=1e-15)
    assert float(made.error) == pytest.approx(0.6, abs=1e-15)


def test_degree_three_is_a_scaled_optimum_of_cheon_kim_and_kim_for_its_band() -> None:
    """On [5/32, 1] with 7 after it: the first stage for alpha = 6, published as 3.50112 x - 2.96538 x^3."""
    made = remez.minimax_odd(MP, 3, MP.mpf(5) / 32, MP.mpf(1))
    powers = chebyshev.cheb2poly([0, float(made.coefficients[0]), 0, float(made.coefficients[1])])
    assert powers[1::2] == pytest.approx([3.5011230698579893, -2.9653846348507701], rel=1e-15)


@settings(max_examples=15)
@given(st.integers(0, 6), st.floats(0.01, 0.9), st.floats(1, 2))
def test_the_error_equioscillates(half: int, lowest: float, bound: float) -> None:
    """One more alternating extremum of the same size than there are coefficients: the optimum, and no other has it."""
    degree = 2 * half + 1
    made = remez.minimax_odd(MP, degree, MP.mpf(lowest), MP.mpf(bound), tolerance=1e-12)
    series = np.zeros(degree + 1)
    series[1::2] = [float(c) for c in made.coefficients]
    x = (lowest + bound) / 2 - (bound - lowest) / 2 * np.cos(np.linspace(0, np.pi, 20001))
    missed = chebyshev.chebval(x / bound, series) - 1
    size = float(made.error)
    assert np.abs(missed).max() == pytest.approx(size, rel=1e-6, abs=1e-14)
    if size > 1e-9:  # in doubles
        extreme = np.sign(missed[np.abs(missed) > 0.999 * size])
        assert 1 + np.count_nonzero(np.diff(extreme)) == half + 2


@pytest.mark.parametrize(
    "degree, lowest, bound", [(4, 0.1, 1), (-1, 0.1, 1), (257, 0.1, 1), (3, 0, 1), (3, 1, 1), (3, -0.1, 1)]
)
def test_what_has_no_answer_is_refused(degree: int, lowest: float, bound: float) -> None:
    with pytest.raises(UsageError):
        remez.minimax_odd(MP, degree, MP.mpf(lowest), MP.mpf(bound))


def test_no_convergence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remez, "_MAX_ITERATIONS", 2)
    with pytest.raises(UsageError, match="more digits"):
        remez.minimax_odd(MP, 7, MP.mpf("0.01"), MP.mpf(1))


def test_an_error_below_the_digits_is_good_enough() -> None:
    made = remez.minimax_odd(remez.context(20), 7, 1 - MP.mpf("1e-4"), 1 + MP.mpf("1e-4"))
    assert float(made.error) < 1e-15
