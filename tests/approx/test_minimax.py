"""The generator and its coefficients against published figures, and what a guard band is for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from mpmath import mp  # type: ignore[import-untyped]

from fheinfer.approx import activation, measure, minimax, sign
from fheinfer.approx.forms import Gate
from fheinfer.errors import UsageError

# log2 of the error of the sign on [eta, 1], of ReLU on [-1, 1] and its rms, computed independently of this code for the
# degrees and eta of arXiv 2105.10879.
TABLE = {
    4: (-3.33, -4.33, -5.28),
    5: (-4.01, -5.01, -6.20),
    6: (-5.18, -6.05, -7.14),
    7: (-6.16, -7.04, -8.27),
    8: (-7.17, -8.03, -9.36),
    9: (-8.09, -9.01, -10.33),
    10: (-9.30, -10.11, -11.56),
    11: (-11.23, -11.05, -13.46),
    12: (-11.90, -12.09, -14.18),
    13: (-13.30, -13.08, -15.57),
    14: (-13.66, -14.02, -15.95),
}
# tau of each stage on its domain, from another implementation of the exchange (mpmath, 50 digits) for the same
# degrees and eta; from the coefficients printed in arXiv 2105.10879 they differ by what those are less converged.
TAU = {
    6: (0.464261564992, 0.027667894270),
    7: (0.394006222047, 0.013990985107),
    8: (0.590797580093, 0.006944532512),
    9: (0.547576317815, 0.003673875934),
    10: (0.862330140229, 0.445198798295, 0.001587698941),
    11: (0.917561852726, 0.615943661120, 0.000417324993),
    12: (0.957697527105, 0.596360026615, 0.000261210813),
    13: (0.952038306469, 0.557748390335, 0.000099406498),
    14: (0.974159170266, 0.570968737856, 0.000076992393),
}
LEVELS = dict(zip(range(4, 15), (4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15), strict=True))
QUICK = (4, 5, 6, 7, 8, 10)
ALL = tuple(minimax.PUBLISHED)


def gate(name: str) -> Gate:
    found = activation(name)
    assert isinstance(found, Gate)
    return found


def agrees(made: sign.SignComposite, entry: dict[str, Any]) -> None:
    assert list(made.degrees) == entry["degrees"]
    for stage, known in zip(made.stages, entry["stages"], strict=True):
        assert float(stage.error) == pytest.approx(float(known["tau"]), rel=1e-13)
        ours, theirs = ([float(c) for c in cs] for cs in (stage.coefficients, known["cheb_odd_normalised"]))
        assert ours == pytest.approx(theirs, rel=1e-13)


@pytest.mark.parametrize("alpha", TAU)
def test_the_errors_of_all_stages_are_those_of_another_implementation(alpha: int) -> None:
    assert [float(stage.error) for stage in minimax.composite(alpha).stages] == pytest.approx(TAU[alpha], abs=1e-11)


@pytest.mark.parametrize("alpha", ALL)
def test_our_coefficients_are_the_reference(alpha: int, published_minimax: dict[int, Any]) -> None:
    agrees(minimax.composite(alpha), published_minimax[alpha])


@pytest.mark.parametrize("alpha", [a for a in ALL if a >= 6])
def test_the_published_coefficients_are_ours_less_converged(alpha: int, published_minimax: dict[int, Any]) -> None:
    """Their stages are in powers of what the stage before puts out, ours in T_k of that over its bound."""
    bound = 1.0
    for stage, known in zip(minimax.composite(alpha).stages, published_minimax[alpha]["stages"], strict=True):
        after = 1 + float(stage.error) if stage is not minimax.composite(alpha).stages[-1] else 1.0
        powers = np.polynomial.chebyshev.cheb2poly(stage.series())[1::2] * after
        powers /= bound ** np.arange(1, stage.degree + 1, 2)
        assert powers == pytest.approx([float(c) for c in known["published_mono_odd"]], rel=3e-5)
        bound = after


@pytest.mark.parametrize("alpha", [*QUICK, *(pytest.param(a, marks=pytest.mark.slow) for a in ALL if a not in QUICK)])
def test_the_generator_makes_what_is_committed(alpha: int) -> None:
    assert sign.generate(*minimax.published(alpha)) == minimax.composite(alpha)


def test_the_committed_file_says_where_it_comes_from() -> None:
    kept = json.loads(minimax.DATA.read_text())
    assert kept["provenance"]["made by"] == "fheinfer approx generate --published"
    assert kept["provenance"]["digits"] == sign.DIGITS
    assert sorted(map(int, kept["composites"])) == list(ALL)


@pytest.mark.slow
def test_all_that_is_committed_can_be_made_again() -> None:
    assert minimax.document() == json.loads(minimax.DATA.read_text())


@pytest.mark.parametrize("alpha", ALL)
def test_errors_and_levels_are_those_of_the_table(alpha: int) -> None:
    """For alpha 4 and 5 as well: the corrected polynomials meet the precision they are named for."""
    found, sign_error, largest, rms = gate(f"minimax:{alpha}"), *TABLE[alpha]
    missed = measure.error(found)
    assert found.band is not None
    assert np.log2(found.band.error) == pytest.approx(sign_error, abs=0.006)
    assert np.log2(missed.largest) == pytest.approx(largest, abs=0.006)
    assert np.log2(missed.rms) == pytest.approx(rms, abs=0.006)
    assert missed.largest <= 2.0**-alpha
    assert found.levels == LEVELS[alpha]


@pytest.mark.parametrize("alpha", ALL)
def test_the_sign_holds_outside_its_band_and_not_inside(alpha: int) -> None:
    found = gate(f"minimax:{alpha}")
    assert found.band is not None
    beyond = np.union1d(np.linspace(found.band.width, 1, 30001), np.geomspace(found.band.width, 1, 30001))
    assert np.abs(found.polynomials(beyond) - 1).max() == pytest.approx(found.band.error, rel=1e-3)
    assert np.abs(found.polynomials(np.array([0.9 * found.band.width])) - 1)[0] > found.band.error


@pytest.mark.parametrize("alpha", ALL)
def test_the_sign_is_odd_and_its_coefficients_small(alpha: int) -> None:
    """As powers they are as large as 9.6e4 at alpha = 14; as normalised series all stay below 1.3."""
    found = gate(f"minimax:{alpha}")
    for stage in found.polynomials.stages:
        assert not stage[::2].any()
        assert np.abs(stage).max() < 1.3
    x = np.linspace(-1, 1, 1001)
    assert np.array_equal(found.polynomials(-x), -found.polynomials(x))


def test_the_powers_are_as_large_as_they_are_said_to_be() -> None:
    first = gate("minimax:14").polynomials.powers()[0] * (1 + float(minimax.composite(14).stages[0].error))
    assert np.abs(first).max() == pytest.approx(96504.68, rel=1e-6)


@pytest.mark.parametrize("alpha", [6, 10, 14])
def test_the_composition_equals_direct_evaluation_in_many_digits(alpha: int) -> None:
    made = minimax.composite(alpha)
    x = np.concatenate([np.linspace(-1, 1, 41), [1e-3, -1e-3]])
    with mp.workdps(60):
        direct = []
        for value in x:
            y = mp.mpf(value)
            for stage in made.stages:
                y = mp.fsum(mp.mpf(str(c)) * mp.chebyt(2 * j + 1, y) for j, c in enumerate(stage.coefficients))
            direct.append(float(y))
    assert made.composition()(x) == pytest.approx(direct, abs=1e-10)


def test_powers_in_doubles_would_lose_what_series_keep() -> None:
    """The reason for Chebyshev form: at alpha = 14 the powers cancel nine more bits or so."""
    composition = minimax.composite(14).composition()
    x = np.linspace(0.9, 1, 2001)
    y = x
    for powers in composition.powers():
        y = np.asarray(np.polynomial.polynomial.polyval(y, powers), dtype=np.float64)
    with mp.workdps(40):
        exact = np.array([_directly(value) for value in x[::200]])
    series = np.abs(composition(x)[::200] - exact).max()
    assert np.abs(y[::200] - exact).max() > 10 * series


def _directly(value: float) -> float:
    y = mp.mpf(value)
    for stage in minimax.composite(14).stages:
        y = mp.fsum(mp.mpf(str(c)) * mp.chebyt(2 * j + 1, y) for j, c in enumerate(stage.coefficients))
    return float(y)


@pytest.mark.parametrize("alpha, published, ours", [(4, -3.71, -4.33), (5, -4.86, -5.01)])
def test_alpha_4_and_5_in_circulation_are_off_by_two(
    alpha: int, published: float, ours: float, published_minimax: dict[int, Any]
) -> None:
    """Used as p(x), as they are, they miss 2^-alpha; as p(2x) they are ours."""
    powers = np.zeros(minimax.PUBLISHED[alpha][0][0] + 1)
    powers[1::2] = [float(c) for c in published_minimax[alpha]["stages"][0]["published_mono_odd"]]
    x = np.linspace(-1, 1, 20001)

    def error(argument: np.ndarray[Any, np.dtype[np.float64]]) -> float:
        p = np.polynomial.polynomial.polyval(argument, powers)
        return float(np.log2(np.abs(x * (1 + p) / 2 - np.maximum(x, 0)).max()))

    assert error(x) == pytest.approx(published, abs=0.01)
    assert error(x) > -alpha
    assert error(2 * x) == pytest.approx(ours, abs=0.01)
    assert np.polynomial.polynomial.polyval(2 * x, powers) == pytest.approx(
        minimax.composite(alpha).composition()(x), abs=1e-12
    )


def test_the_degrees_are_alpha_10s_where_a_27_is_spoken_of() -> None:
    """ "27-degree minimax" is 7 + 7 + 13, alpha = 10, which one table calls alpha = 14 (sum 71)."""
    assert sum(activation("minimax:10").degrees) == 27
    assert sum(activation("minimax:14").degrees) == 71


@pytest.mark.parametrize("alpha, degrees, levels", [(13, (15, 15, 27), (13, 15)), (10, (7, 7, 13), (10, 12))])
def test_openfhe_takes_more_levels_for_compositions(alpha: int, degrees: tuple[int, ...], levels: Any) -> None:
    found = gate(f"minimax:{alpha}").polynomials
    assert found.degrees == degrees
    assert (found.levels, found.openfhe_levels) == levels


def test_one_percent_outside_the_range_is_a_catastrophe() -> None:
    assert gate("minimax:13").polynomials(1.01) == pytest.approx(-9e163, rel=0.05)
    assert not np.isfinite(gate("minimax:14").polynomials(1.01))
    assert gate("minimax:10").polynomials(1.01) < 0
    assert gate("minimax:10").polynomials(1.05) < -1e35 or gate("minimax:10").polynomials(1.05) > 1e35
    assert abs(gate("a7").evaluate(1.1) - 1.1) == pytest.approx(1.6e3, rel=0.05)


def test_a_guard_band_makes_overflow_harmless() -> None:
    made = sign.generate((15, 15, 27), 16 / 2**13, 1 / 64)
    x = np.linspace(float(made.eta), 1 + 1 / 64, 40001)
    assert np.abs(made.composition()(x) - 1).max() == pytest.approx(made.error, rel=1e-3)
    assert made.error < 2.0**-8
    noise = np.random.default_rng(0).uniform(-1 / 64, 1 / 64, x.shape)  # between two stages, as encryption adds it
    first, second, third = made.composition().stages
    t = np.polynomial.chebyshev.chebval(x, first)
    after = 1 + float(made.stages[0].error) + 1 / 64
    u = np.polynomial.chebyshev.chebval(t + noise / after, second)
    assert np.abs(np.polynomial.chebyshev.chebval(u, third) - 1).max() == pytest.approx(made.error, rel=1e-3)


def test_without_a_guard_band_noise_between_stages_is_not() -> None:
    first, second, third = minimax.composite(13).composition().stages
    t = np.polynomial.chebyshev.chebval(np.linspace(0.002, 1, 40001), first)
    u = np.polynomial.chebyshev.chebval(t + 1 / 64, second)
    assert np.abs(np.polynomial.chebyshev.chebval(u, third)).max() > 1e3


@pytest.mark.parametrize("alpha, degrees, zeta, bits", [(4, (5,), 6, -4.57), (6, (3, 7), 10, -6.05)])
def test_the_best_eta_is_found(alpha: int, degrees: tuple[int, ...], zeta: int, bits: float) -> None:
    found, error = sign.search_eta(alpha, degrees)
    assert found == zeta
    assert np.log2(error) == pytest.approx(bits, abs=0.01)


@pytest.mark.slow
def test_the_published_eta_of_alpha_11_is_not_the_best() -> None:
    found, error = sign.search_eta(11, (7, 7, 27))
    assert found == 14
    assert np.log2(error) == pytest.approx(-11.10, abs=0.01)


def test_degrees_nobody_published() -> None:
    made = sign.generate((5, 9), 0.1)
    x = np.linspace(0.1, 1, 20001)
    assert np.abs(made.composition()(x) - 1).max() == pytest.approx(made.error, rel=1e-3)
    assert made.degrees == (5, 9)


@pytest.mark.parametrize(
    "degrees, eta, guard",
    [((), 0.1, 0.0), ((3,) * 13, 0.1, 0.0), ((4,), 0.1, 0.0), ((3,), 0.0, 0.0), ((3,), 1.0, 0.0), ((3, 3), 0.1, 0.9)],
)
def test_composites_that_cannot_be_are_refused(degrees: tuple[int, ...], eta: float, guard: float) -> None:
    with pytest.raises(UsageError):
        sign.generate(degrees, eta, guard)


@pytest.mark.parametrize("alpha", [3, 15, 0, -1])
def test_an_alpha_without_published_degrees_is_refused(alpha: int) -> None:
    with pytest.raises(UsageError, match="4 to 14"):
        minimax.composite(alpha)
