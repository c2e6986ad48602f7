"""Parameter sets by rule: any ring, chain, levels and digits that have 128 bits, each with a name that says what it is.

    n13-l5-s25-d3          N = 2^13, 5 levels, a plain chain of 25-bit primes, 3 digits
    n15-l22-s25c-d3        N = 2^15, 22 levels of 25 bits on a composite-prime chain
    n16-l10-s47-d2-b33     N = 2^16 with bootstraps that return level 10, CoeffToSlot and SlotToCoeff of 3 levels each

After these come, where they are not what the rules below give: -q and the bits of q_0, -p and those of a special prime,
-w and log2 of the slots, and -openfhe for the chain of OpenFHE's bootstraps.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace
from functools import lru_cache

from fheinfer.crypto.parameter_set import NATIVE_EVAL_MOD_LEVELS, OPENFHE_EVAL_MOD_LEVELS, Chain, ParameterSet
from fheinfer.crypto.security import MAX_LOG_QP, REQUIRED_BITS, primal_attack_bits
from fheinfer.errors import PlanError

RINGS = tuple(sorted(MAX_LOG_QP))
"""log2 of the ring dimensions that there is a bound for."""
MAX_FIRST_BITS = MAX_SPECIAL_BITS = 49
"""OpenFHE's prime of 50 bits may be above 2^50."""
ROOM_BITS = 10
"""log2(q_0 / scale) where q_0 has room for it: slots may be larger at the end, and noise does not grow with them."""
BOOTSTRAP_ROOM_BITS = 2
"""The same for bootstraps, which need slots in [-1, 1]."""
LEAST_SPECIAL_BITS = 30
"""There are several primes of so many bits on every ring."""
KEY_MARGIN_BITS = 6
"""By how much the special primes of a key are wider than its digits, at least."""
MAX_DIGITS = 6
"""More digits are slower than a larger ring."""
MAX_SCALE_BITS: dict[Chain, int] = {"plain": 47, "composite": 25}
SCALE_ABOVE_RING = 6
"""Bits by which the smallest scale is above log2(N)."""
LEVELS, DIGITS = (1, 100), (1, 20)
"""The fewest and the most of a set."""
_NAME = re.compile(
    r"n(?P<log_n>\d{1,2})-l(?P<levels>\d{1,3})-s(?P<scale>\d{1,2})(?P<composite>c?)(?:-d(?P<digits>\d{1,2}))?"
    r"(?:-q(?P<first>\d{1,2}))?(?:-p(?P<special>\d{1,2}))?(?:-b(?P<cts>[1-9])(?P<stc>[1-9]))?(?:-w(?P<width>\d{1,2}))?"
    r"(?P<openfhe>-openfhe)?"
)


def generated(
    log_n: int,
    levels: int,
    scale_bits: int,
    digits: int,
    *,
    chain: Chain = "plain",
    first_bits: int | None = None,
    special_bits: int | None = None,
    budgets: tuple[int, int] = (0, 0),
    log_slots: int | None = None,
    openfhe: bool = False,
) -> ParameterSet:
    """Returns the set of these sizes, named after them.

    Args:
        log_n: log2 of the ring dimension, 12 to 16.
        levels: of the chain, or those that a bootstrap returns; even for a composite-prime chain.
        scale_bits: of the scale.
        digits: of key switching; fewer where so many digits would not all have primes.
        chain: "plain", or "composite" for two levels per prime.
        first_bits: of q_0; by default ROOM_BITS above the scale, as far as a prime has so many.
        special_bits: of a special prime; by default as few as cover the widest digit.
        budgets: levels of CoeffToSlot and SlotToCoeff; (0, 0) for no bootstraps.
        log_slots: log2 of the slots; by default all N/2, with bootstraps half of those.
        openfhe: whether the chain is for OpenFHE's bootstraps, which consume more levels.

    Raises:
        PlanError: sizes that no chain has, or less than 128 bits of security.
    """
    _check(log_n, levels, scale_bits, digits, chain, budgets)
    above = 0
    if budgets != (0, 0):
        above = sum(budgets) + OPENFHE_EVAL_MOD_LEVELS if openfhe else budgets[0] + NATIVE_EVAL_MOD_LEVELS
    width = log_n - 1 - (budgets != (0, 0)) if log_slots is None else log_slots
    first = usual_first_bits(scale_bits, bootstraps=above > 0) if first_bits is None else first_bits
    base = ParameterSet("", log_n, 1 << width, first, scale_bits, 0, digits, *budgets, levels, above, chain)
    limbs = base.limbs(base.top_level)
    base = replace(base, digits=-(-limbs // -(-limbs // digits)))
    base = replace(base, special_bits=usual_special_bits(base) if special_bits is None else special_bits)
    if not 0 < width < log_n or not scale_bits < first <= MAX_FIRST_BITS or not 20 <= base.special_bits <= 50:
        raise PlanError(f"no chain has q_0 of {first} bits above scales of {scale_bits}, or 2^{width} slots")
    made = replace(base, name=_name(base, openfhe=openfhe))
    bits = primal_attack_bits(log_n, log_qp(made))
    if log_qp(made) > MAX_LOG_QP[log_n] or bits < REQUIRED_BITS:
        raise PlanError(
            f"set {made.name} has log2(QP) = {log_qp(made)}, about {bits:.0f} bits of security; 128 need fewer "
            "levels, a smaller scale, more digits or a larger ring"
        )
    return made


@lru_cache(maxsize=4096)
def fitted(
    log_n: int,
    levels: int,
    digits: int,
    most: int,
    *,
    chain: Chain = "plain",
    budgets: tuple[int, int] = (0, 0),
    log_slots: int | None = None,
    openfhe: bool = False,
) -> ParameterSet | None:
    """Returns the set with the largest scale, of at most `most` bits, that has 128 bits of security; None without any.

    Other arguments as in `generated`.
    """
    above = budgets[0] + NATIVE_EVAL_MOD_LEVELS if budgets[0] else 0
    most = min(most, MAX_SCALE_BITS[chain], MAX_LOG_QP[log_n] // (levels + above + 1))
    for scale_bits in range(most, log_n + SCALE_ABOVE_RING - 1, -1):
        with contextlib.suppress(PlanError):
            return generated(
                log_n, levels, scale_bits, digits, chain=chain, budgets=budgets, log_slots=log_slots, openfhe=openfhe
            )
    return None


def parse(name: str) -> ParameterSet | None:
    """Returns the set of such a name; None where the name is none of these.

    Without -d it has as few digits as leave 128 bits.

    Raises:
        PlanError: see `generated`.
    """
    found = _NAME.fullmatch(name)
    if not found:
        return None
    number = {key: int(value) for key, value in found.groupdict().items() if value and value.isdigit()}

    def of(digits: int) -> ParameterSet:
        return generated(
            number["log_n"],
            number["levels"],
            number["scale"],
            digits,
            chain="composite" if found["composite"] else "plain",
            first_bits=number.get("first"),
            special_bits=number.get("special"),
            budgets=(number.get("cts", 0), number.get("stc", 0)),
            log_slots=number.get("width"),
            openfhe=bool(found["openfhe"]),
        )

    if "digits" in number:
        return of(number["digits"])
    for digits in range(1, MAX_DIGITS):
        with contextlib.suppress(PlanError):
            return of(digits)
    return of(MAX_DIGITS)


def usual_first_bits(scale_bits: int, *, bootstraps: bool = False) -> int:
    """Bits of q_0 above scales of that many."""
    return min(MAX_FIRST_BITS, scale_bits + (BOOTSTRAP_ROOM_BITS if bootstraps else ROOM_BITS))


def usual_special_bits(params: ParameterSet) -> int:
    """Bits of a special prime so that the fewest of them cover the widest digit and its margin.

    OpenFHE makes as many as cover its own digits, without sprout prime and margin: so it depends on how these fall.

    Raises:
        PlanError: no size does.
    """
    wanted, own = _widest_digit(params) + special_margin(params), _widest_digit(params, sprout=False)
    sizes = range(LEAST_SPECIAL_BITS, MAX_SPECIAL_BITS + 1)
    covered = [(-(-own // bits), bits) for bits in sizes if -(-own // bits) * bits >= wanted]
    if not covered:
        raise PlanError(f"no special primes cover digits of {wanted} bits; choose another number of digits")
    return min(covered)[1]


def special_margin(params: ParameterSet) -> int:
    """By how many bits the special primes are wider than a digit, so that rescaling is the larger noise in every slot.

    ModUp leaves a multiple of the digit that is positive, not centred, and so the noise of a key ends up in slot 0,
    which has the root of unity nearest to 1: sqrt(N) times as large as elsewhere, and as large as the digit has limbs.
    Measured at N = 2^13 to 2^15: with 6 bits a rotation left 6 to 50 units in slot 0, and one or two with these.
    """
    each = -(-params.limbs(params.top_level) // params.digits)
    return 10 + each.bit_length() + max(0, params.log_n - 13) // 2


def special_count(params: ParameterSet) -> int:
    """How many special primes OpenFHE makes for a set."""
    return math.ceil(_widest_digit(params, sprout=False) / params.special_bits)


def key_specials(params: ParameterSet, limbs: int) -> int:
    """How many special primes a key of so many limbs has: csrc/ckks/chain.cpp, by nominal sizes of the primes."""
    each = -(-params.limbs(params.top_level) // params.digits)
    first = params.first_bits + (min(limbs, each) - 1) * _limb_bits(params)
    first += params.scale_bits if params.composite else 0
    widest = max(first, min(each, limbs - each) * _limb_bits(params))
    return min(special_count(params), -(-(widest + KEY_MARGIN_BITS) // params.special_bits))


def log_qp(params: ParameterSet) -> int:
    """log2 of all primes of a set by their nominal sizes, special and sprout primes included."""
    main = params.limbs(params.top_level) - 1
    sprout = params.scale_bits if params.composite else 0
    primes = params.first_bits + main * _limb_bits(params) + sprout
    return primes + special_count(params) * params.special_bits


def _limb_bits(params: ParameterSet) -> int:
    return params.scale_bits * (2 if params.composite else 1)


def _widest_digit(params: ParameterSet, *, sprout: bool = True) -> int:
    """In bits; the sprout prime is in the first digit, which OpenFHE does not know."""
    each = -(-params.limbs(params.top_level) // params.digits)
    first = params.first_bits + (each - 1) * _limb_bits(params)
    if params.composite and sprout:
        first += params.scale_bits
    return max(first, each * _limb_bits(params) if params.digits > 1 else 0)


def _name(params: ParameterSet, *, openfhe: bool) -> str:
    mark = "c" if params.composite else ""
    name = f"n{params.log_n}-l{params.levels}-s{params.scale_bits}{mark}-d{params.digits}"
    if params.first_bits != usual_first_bits(params.scale_bits, bootstraps=params.bootstraps):
        name += f"-q{params.first_bits}"
    if params.special_bits != usual_special_bits(params):
        name += f"-p{params.special_bits}"
    if params.bootstraps:
        name += f"-b{params.cts_budget}{params.stc_budget}"
    width = params.slots.bit_length() - 1
    if width != params.log_n - 1 - params.bootstraps:
        name += f"-w{width}"
    return name + "-openfhe" * openfhe


def _check(log_n: int, levels: int, scale_bits: int, digits: int, chain: Chain, budgets: tuple[int, int]) -> None:
    if log_n not in RINGS:
        raise PlanError(f"rings are N = 2^{RINGS[0]} to 2^{RINGS[-1]}, not 2^{log_n}")
    least, most = log_n + SCALE_ABOVE_RING, MAX_SCALE_BITS[chain]
    if not least <= scale_bits <= most:
        raise PlanError(f"scales of a {chain} chain at N = 2^{log_n} have {least} to {most} bits, not {scale_bits}")
    if not LEVELS[0] <= levels <= LEVELS[1] or not DIGITS[0] <= digits <= DIGITS[1]:
        raise PlanError(f"a chain has 1 to {LEVELS[1]} levels and 1 to {DIGITS[1]} digits, not {levels} and {digits}")
    if chain == "composite" and (levels % 2 or budgets != (0, 0)):
        raise PlanError("a composite-prime chain has an even number of levels and no bootstraps")
    if (budgets[0] == 0) != (budgets[1] == 0):
        raise PlanError("CoeffToSlot and SlotToCoeff both take levels, or there is no bootstrapping")
