"""Every activation by its name.

| name | activation |
|---|---|
| relu:D | ReLU, Chebyshev series of degree D |
| silu:D[:B], gelu:D[:B] | Chebyshev series of degree D on [-B, B]; B is 8 by default |
| minimax:A | ReLU by a composite sign of precision 2^-A, A = 4..14 |
| 2f12g1, a7, f2g3, f2g2, f1g2, f1, f2 | ReLU by that PAF, g first; with :f-first in SmartPAF's order |
| FILE.json | ReLU by a composite that `fheinfer approx generate` wrote |
| square, relu-aq, herpn | x^2, x^2/8 + x/2 + 1/4, Hermite expansion of ReLU |
| max:SIGN, maxpool2:SIGN, maxpool3:SIGN | maximum of two numbers, of a 2x2, of a 3x3 window; SIGN: any ReLU by a sign |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fheinfer.approx import measure, minimax
from fheinfer.approx.forms import Activation, Gate, Maximum, MaxPool, rounds
from fheinfer.approx.paf import F_FIRST, PAFS, has_two_orders, paf
from fheinfer.approx.quadratic import POWERS, quadratic
from fheinfer.approx.sign import SignComposite
from fheinfer.approx.smooth import FUNCTIONS, chebyshev_relu, smooth
from fheinfer.errors import UsageError

T = TypeVar("T", int, float)
DEFAULT_BOUND = 8.0
_POOLS = {"maxpool2": 2, "maxpool3": 3}


def activation(name: str) -> Activation:
    """Returns the activation of this name; the table above has the names.

    Raises:
        UsageError: no activation of that name, or a parameter out of range.
        InputError: a file that cannot be read.
    """
    head, _, rest = name.partition(":")
    if name.endswith(".json") and head not in ("max", *_POOLS):
        return from_composite(minimax.read(Path(name)), name)
    if head in ("max", *_POOLS) and rest:
        return _comparison(head, rest)
    return _simple(name, head, rest.split(":") if rest else [])


def names() -> tuple[str, ...]:
    """Returns names of every kind: those that `fheinfer approx list` shows."""
    return (
        *(f"relu:{degree}" for degree in (27, 59, 119, 200, 247)),
        *(f"minimax:{alpha}" for alpha in minimax.PUBLISHED),
        *PAFS,
        *(f"{name}:{F_FIRST}" for name in PAFS if has_two_orders(name)),
        *POWERS,
        *(f"{name}:31:8" for name in FUNCTIONS),
        *(f"{kind}:minimax:10" for kind in ("max", *_POOLS)),
    )


def from_composite(made: SignComposite, name: str, source: str = "generated: fheinfer/approx/sign.py") -> Gate:
    """Returns ReLU by a generated composite, whose guard band is part of its range."""
    return Gate(
        name=name,
        polynomials=made.composition(),
        bound=1 + float(made.guard),
        function="ReLU",
        source=source,
        band=minimax.band(made),
    )


def _simple(name: str, head: str, parameters: list[str]) -> Activation:
    if head in PAFS and parameters in ([], [F_FIRST]):
        return paf(head, *parameters)
    if head in POWERS and not parameters:
        return quadratic(head)
    if head == "minimax" and len(parameters) == 1:
        made = minimax.composite(_number(int, name, parameters[0]))
        return from_composite(made, name, minimax.SOURCE)
    if head == "relu" and len(parameters) == 1:
        return chebyshev_relu(_number(int, name, parameters[0]))
    if head in FUNCTIONS and 1 <= len(parameters) <= 2:
        bound = _number(float, name, parameters[1]) if len(parameters) == 2 else DEFAULT_BOUND
        return smooth(head, _number(int, name, parameters[0]), bound)
    kinds = ["relu:D", "silu:D:B", "gelu:D:B", "minimax:A", *PAFS, *POWERS, "max:SIGN", *(f"{p}:SIGN" for p in _POOLS)]
    raise UsageError(f"no activation {name!r}; there are {', '.join(kinds)}, and files of `fheinfer approx generate`")


def _comparison(kind: str, sign_name: str) -> Activation:
    gate = activation(sign_name)
    if not isinstance(gate, Gate):
        raise UsageError(f"{kind} compares by a sign, and {sign_name} is not one; try {kind}:minimax:10")
    source = f"comparison: Lee et al., arXiv 2105.10879; sign: {gate.source}"
    pair = Maximum(
        name=f"max:{gate.name}",
        polynomials=gate.polynomials,
        bound=gate.bound,
        band=gate.band,
        function="max(a, b)",
        source=source,
    )
    if kind == "max":
        return pair
    kernel = _POOLS[kind]
    missed = measure.error(pair).largest
    return MaxPool(
        name=f"{kind}:{gate.name}",
        polynomials=gate.polynomials,
        bound=(1 - 2 * (rounds(kernel) - 1) * missed) / 2,
        band=gate.band,
        function=f"max of {kernel}x{kernel}",
        source=source,
        kernel=kernel,
        pair=pair,
    )


def _number(kind: Callable[[str], T], name: str, text: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"activation {name!r}: {text!r} is not a number") from None
