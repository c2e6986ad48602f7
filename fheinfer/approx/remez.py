"""The odd polynomial nearest to 1 on [a, b], by the Remez exchange in many digits.

An odd polynomial that is nearest to 1 on [a, b] is nearest to sign(x) on [-b, -a] and [a, b], so the two intervals of
the sign function are one here. T_1(x/b), T_3(x/b), ... are a Haar system on (0, b]: the optimum exists, is unique, and
its error takes its largest value with alternating sign in one point more than there are coefficients (Cheney,
Introduction to Approximation Theory, 1966, chapter 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fheinfer.errors import UsageError
from fheinfer.optional import needs

Mpf = Any
"""A number of mpmath, which has no types."""

Progress = Callable[[str], None]
"""Called once per iteration, with a text that says what is being computed."""

MAX_DEGREE = 255
_MAX_ITERATIONS = 30  # 9 are the most that any composite up to alpha 14 takes
_GOLDEN_STEPS = 60  # an interval shrinks to 3e-13 of itself, and the error at an extremum depends on its square


@dataclass(frozen=True)
class OddMinimax:
    """sum_j coefficients[j] T_{2j+1}(x / bound), within `error` of 1 on [lowest, bound]."""

    degree: int
    lowest: Mpf
    bound: Mpf
    coefficients: tuple[Mpf, ...]
    error: Mpf
    iterations: int


def context(digits: int) -> Any:
    """Returns an mpmath context of that many digits. It is a new one, because mpmath's global context is shared.

    Raises:
        UsageError: mpmath is not installed.
    """
    with needs("mpmath", "a new minimax composite"):
        import mpmath  # type: ignore[import-untyped]

    mp = mpmath.MPContext()
    mp.dps = digits
    return mp


def minimax_odd(
    mp: Any, degree: int, lowest: Mpf, bound: Mpf, *, tolerance: float = 1e-20, progress: Progress | None = None
) -> OddMinimax:
    """Returns the minimax approximation of 1 on [lowest, bound] by an odd polynomial.

    Args:
        mp: a `context`.
        tolerance: on (largest - smallest extremum) / largest, as far as the digits go.

    Raises:
        UsageError: an even degree or one out of range, an interval that is not in (0, inf), or no convergence.
    """
    if degree % 2 == 0 or not 1 <= degree <= MAX_DEGREE:
        raise UsageError(f"a sign polynomial has an odd degree up to {MAX_DEGREE}, not {degree}")
    if not 0 < lowest < bound:
        raise UsageError(
            f"no interval [{mp.nstr(lowest, 6)}, {mp.nstr(bound, 6)}] of positive numbers; 0 < lowest < bound"
        )
    count = (degree + 1) // 2
    middle, half = (lowest + bound) / 2, (bound - lowest) / 2
    nodes = [middle - half * mp.cos(mp.pi * i / count) for i in range(count + 1)]
    for iteration in range(1, _MAX_ITERATIONS + 1):
        coefficients = _levelled(mp, nodes, bound, count)
        nodes, sizes = _extrema(mp, coefficients, nodes, lowest, bound)
        spread = (max(sizes) - min(sizes)) / max(sizes)
        if progress:
            progress(f"degree {degree}, iteration {iteration}, unequal by {mp.nstr(spread, 2)}")
        # On a short interval the error itself can be below what the digits hold: nothing is left to level then.
        floor = max(map(abs, coefficients)) * mp.mpf(10) ** (3 - mp.dps)
        if spread < tolerance or spread * max(sizes) < floor:
            return OddMinimax(degree, lowest, bound, tuple(coefficients), max(sizes), iteration)
    raise UsageError(f"degree {degree} did not converge on this interval; ask for more digits or a larger eta")


def evaluate(coefficients: list[Mpf], t: Mpf) -> Mpf:
    """Returns sum_j c_j T_{2j+1}(t), by Clenshaw's recurrence for odd series."""
    twice = 4 * t * t - 2  # 2 T_2(t): T_{k+2} = 2 T_2 T_k - T_{k-2}
    b1 = b2 = t * 0
    for c in reversed(coefficients):
        b1, b2 = c + twice * b1 - b2, b1
    return t * (b1 - b2)


def _levelled(mp: Any, nodes: list[Mpf], bound: Mpf, count: int) -> list[Mpf]:
    """Coefficients whose error is +E, -E, +E, ... at the nodes."""
    system, ones = mp.matrix(count + 1, count + 1), mp.matrix([1] * (count + 1))
    for i, x in enumerate(nodes):
        t = x / bound
        twice, previous, current = 4 * t * t - 2, t, t  # T_{-1} = T_1
        for j in range(count):
            system[i, j] = current
            previous, current = current, twice * current - previous
        system[i, count] = (-1) ** i
    return list(mp.lu_solve(system, ones))[:count]


def _extrema(
    mp: Any, coefficients: list[Mpf], nodes: list[Mpf], lowest: Mpf, bound: Mpf
) -> tuple[list[Mpf], list[Mpf]]:
    """Where |error| is largest between two zeros of the error, and how large."""

    def error(x: Mpf) -> Mpf:
        return evaluate(coefficients, x / bound) - 1

    zeros = [_zero(error, left, right) for left, right in pairwise(nodes)]
    found = [_peak(mp, error, left, right) for left, right in zip([lowest, *zeros], [*zeros, bound], strict=True)]
    return [x for x, _ in found], [size for _, size in found]


def _zero(error: Callable[[Mpf], Mpf], left: Mpf, right: Mpf) -> Mpf:
    """By bisection. Forty digits are not needed: zeros only part one extremum from the next."""
    positive = error(left) > 0
    for _ in range(40):
        middle = (left + right) / 2
        if (error(middle) > 0) == positive:
            left = middle
        else:
            right = middle
    return (left + right) / 2


def _peak(mp: Any, error: Callable[[Mpf], Mpf], left: Mpf, right: Mpf) -> tuple[Mpf, Mpf]:
    """The largest |error| on an interval that has one, by golden section, its two ends included."""
    ratio = (mp.sqrt(5) - 1) / 2
    ends = [(left, abs(error(left))), (right, abs(error(right)))]
    x1, x2 = right - ratio * (right - left), left + ratio * (right - left)
    y1, y2 = abs(error(x1)), abs(error(x2))
    for _ in range(_GOLDEN_STEPS):
        if y1 > y2:
            right, x2, y2 = x2, x1, y1
            x1 = right - ratio * (right - left)
            y1 = abs(error(x1))
        else:
            left, x1, y1 = x1, x2, y2
            x2 = left + ratio * (right - left)
            y2 = abs(error(x2))
    return max([(x1, y1), (x2, y2), *ends], key=lambda found: found[1])
