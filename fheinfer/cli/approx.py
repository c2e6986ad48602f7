"""`fheinfer approx`: the activations there are, their errors, new minimax composites, and plots of them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fheinfer.cli.options import JsonOption
from fheinfer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fheinfer.approx.forms import Activation
    from fheinfer.approx.sign import SignComposite

F_FIRST = "f-first"
DIGITS = 50
"""Of the arithmetic: what `approx.sign` takes unless told otherwise; a test compares them."""

approx_app = typer.Typer(no_args_is_help=True, help="Activation functions as polynomials: degrees, levels, errors.")

OrderOption = Annotated[
    str, typer.Option(help="Order of a PAF's polynomials: g-first (smaller error) or f-first (SmartPAF's).")
]


@approx_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List every kind of activation, with its measured error."""
    from fheinfer.approx import measure, registry
    from fheinfer.cli.display import out, print_json, spinner, table

    rows = []
    with spinner("computing") as tell:
        for name in registry.names():
            tell(name)
            rows.append(measure.describe(registry.activation(name)))
    if as_json:
        print_json(rows)
        return
    table(
        "activations (error on [-1, 1], or on the range of SiLU and GELU; levels: native evaluator, OpenFHE)",
        ["name", "approximates", "degrees", "levels", "OpenFHE", "largest error", "rms", "band", "range", "valid to"],
        [
            [
                r["name"],
                r["function"],
                ",".join(map(str, r["degrees"])),
                r["levels"],
                r["openfhe_levels"],
                _error(r),
                f"{r['rms']:.2g}",
                "-" if r["band"] is None else f"{r['band']['width']:.3g}",
                "any" if r["bound"] is None else f"{r['bound']:.3g}",
                "-" if r["valid_range"] is None else f"{r['valid_range']:.2f}",
            ]
            for r in rows
        ],
        left=2,
    )
    out.print(
        "band: below it the sign changes and is not valid; valid to: how large an input may be, in ranges, before\n"
        "the error exceeds the largest one inside. relu, silu and gelu take any degree, max and maxpool2/3 any sign:\n"
        "`fheinfer approx show max:a7`."
    )


@approx_app.command()
def show(
    name: Annotated[str, typer.Argument(help="As `fheinfer approx list` names it, or a file that `generate` wrote.")],
    order: OrderOption = "g-first",
    basis: Annotated[str, typer.Option(help="Coefficients in cheb, as they are evaluated, or mono: powers.")] = "cheb",
    as_json: JsonOption = False,
) -> None:
    """Show one activation: formula, levels, error, coefficients."""
    from fheinfer.approx import measure
    from fheinfer.cli.display import out, print_json, spinner, table

    if basis not in ("cheb", "mono"):
        raise UsageError(f"no basis {basis!r}; there are cheb and mono")
    with spinner("computing") as tell:
        tell(name)
        found = _find(name, order)
        about = measure.describe(found)
    stages = found.polynomials.stages if basis == "cheb" else found.polynomials.powers()
    if as_json:
        print_json({**about, "basis": basis, "polynomials": [stage.tolist() for stage in stages]})
        return
    out.print(f"{found.name}: {about['function']} as {about['form']}")
    out.print(f"levels:  {found.levels} in the native evaluator, {found.openfhe_levels} in OpenFHE's")
    bits = f" (2^-{about['bits']:.2f})" if about["bits"] else ""
    out.print(f"error:   {about['error']:.4g}{bits} at {about['error_at']:.3g}; rms {about['rms']:.3g}")
    if about["band"]:
        out.print(f"band:    sign within {about['band']['error']:.3g} from |x| = {about['band']['width']:.4g} on")
    out.print(f"range:   {'any input' if about['bound'] is None else f'|x| <= {found.bound:.6g}'}")
    if about["valid_range"]:
        out.print(f"valid:   the error stays below its largest up to {about['valid_range']:.3f} times the scale")
    out.print(f"source:  {found.source}")
    letter = "T_{}" if basis == "cheb" else "x^{}"
    for number, stage in enumerate(stages, start=1):
        rows = [[letter.format(k), f"{c:.17g}"] for k, c in enumerate(stage) if c != 0]
        table(f"p{number}", ["", "coefficient"], rows)


@approx_app.command()
def generate(
    alpha: Annotated[int | None, typer.Option(help="Precision: ReLU within 2^-alpha; 4 to 14.")] = None,
    degrees: Annotated[str | None, typer.Option(help="Odd degrees, first stage first: 7,7,13.")] = None,
    eta: Annotated[str | None, typer.Option(help="Where the sign starts to hold: 0.0127 or 13*2^-10.")] = None,
    guard: Annotated[str, typer.Option(help="Guard band: inputs up to 1 + guard are safe: 2^-6.")] = "0",
    digits: Annotated[int, typer.Option(min=20, max=400, help="Digits of the arithmetic.")] = DIGITS,
    published: Annotated[bool, typer.Option("--published", help="All of alpha 4 to 14, as shipped.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the coefficients go (.json).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a minimax composite of the sign, by a Remez exchange."""
    from fheinfer.approx import minimax, sign
    from fheinfer.cli.display import spinner
    from fheinfer.storage import require_writable

    if output:
        require_writable(output)
    if published:
        with spinner("computing") as tell:
            written = minimax.document(tell)
        _deliver(written, output, as_json)
        return
    with spinner("computing") as tell:
        chosen, start = _degrees_and_eta(alpha, degrees, eta, _number(guard), tell)
        made = sign.generate(chosen, start, _number(guard), digits=digits, progress=tell)
    _deliver(made.model_dump(mode="json"), output, as_json)
    if not as_json:
        _report(made)


@approx_app.command()
def plot(
    names: Annotated[list[str], typer.Argument(help="Activations to compare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".png, .svg or .pdf")] = Path("activation.png"),
    order: OrderOption = "g-first",
    extent: Annotated[float, typer.Option(min=0.01, max=10, help="How far to draw, in ranges.")] = 1.05,
    as_json: JsonOption = False,
) -> None:
    """Plot function, approximation and error."""
    from fheinfer.approx import measure
    from fheinfer.approx.plot import FORMATS
    from fheinfer.approx.plot import plot as draw
    from fheinfer.cli.display import out, print_json, spinner
    from fheinfer.storage import require_writable

    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"{output}: no plot of that kind; name a {', '.join(FORMATS)}")
    require_writable(output)
    with spinner("computing") as tell:
        tell("drawing")
        found = [_find(name, order) for name in names]
        draw(found, output, extent)
    if as_json:
        print_json({"plot": str(output), "activations": [measure.describe(a) for a in found]})
    else:
        out.print(f"plot: {output}")


def _find(name: str, order: str) -> Activation:
    from fheinfer.approx import registry

    if order not in ("g-first", F_FIRST, "smartpaf"):
        raise UsageError(f"no order {order!r}; there are g-first and {F_FIRST}, which is SmartPAF's")
    return registry.activation(name if order == "g-first" else f"{name}:{F_FIRST}")


def _degrees_and_eta(
    alpha: int | None, degrees: str | None, eta: str | None, guard: float, tell: Callable[[str], None]
) -> tuple[tuple[int, ...], float]:
    """What the options leave out: published degrees and eta for an alpha, the best eta for other degrees."""
    from fheinfer.approx import minimax, sign

    if degrees is None:
        if alpha is None:
            raise UsageError("give --alpha, or --degrees with --eta or --alpha")
        listed, start = minimax.published(alpha)
        return listed, start if eta is None else _number(eta)
    try:
        chosen = tuple(int(d) for d in degrees.split(","))
    except ValueError:
        raise UsageError(f"--degrees {degrees}: odd numbers with commas between them, like 7,7,13") from None
    if eta is not None:
        return chosen, _number(eta)
    if alpha is None:
        raise UsageError("--degrees needs --eta, or --alpha to search for it")
    if not 1 <= alpha <= 40:
        raise UsageError(f"a precision between 1 and 40, not {alpha}")
    zeta, error = sign.search_eta(alpha, chosen, guard, progress=tell)
    if error > 2.0**-alpha:
        raise UsageError(
            f"degrees {degrees} reach 2^{math.log2(error):.2f} at best (eta = {zeta}*2^-{alpha}), not 2^-{alpha}; "
            "raise a degree or add a stage"
        )
    return chosen, zeta / 2**alpha


_NUMBER = re.compile(r"(?:(?P<factor>\d+(?:\.\d+)?)\*)?2\^(?P<exponent>-?\d{1,3})")


def _number(text: str) -> float:
    """0.0127, 1e-3, 2^-12 or 13*2^-10."""
    powers = _NUMBER.fullmatch(text.replace(" ", ""))
    if powers:
        return float(powers["factor"] or 1) * 2.0 ** int(powers["exponent"])
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text!r} is no number; write 0.0127 or 13*2^-10") from None


def _deliver(value: Any, output: Path | None, as_json: bool) -> None:
    from fheinfer.cli.display import out, print_json
    from fheinfer.storage import write_json

    if output:
        write_json(output, value)
    if as_json:
        print_json(value)
    elif output:
        out.print(f"coefficients: {output}")


def _report(made: SignComposite) -> None:
    from fheinfer.approx import measure, registry
    from fheinfer.cli.display import out, table

    table(
        f"minimax composite of sign(x) on [{float(made.eta):.6g}, {1 + float(made.guard):.6g}]",
        ["stage", "degree", "domain", "error"],
        [
            [i, s.degree, f"[{float(s.domain[0]):.6g}, {float(s.domain[1]):.6g}]", f"{float(s.error):.6g}"]
            for i, s in enumerate(made.stages, start=1)
        ],
    )
    found = registry.from_composite(made, "generated")
    out.print(f"ReLU by it: {_error(measure.describe(found))} at most on [-1, 1], {found.levels} levels")


def _error(about: dict[str, Any]) -> str:
    return "exact" if about["bits"] is None else f"2^-{about['bits']:.2f}"
