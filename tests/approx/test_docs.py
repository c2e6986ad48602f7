"""The table of docs/explanation/activations.md is what the code measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fheinfer.approx import activation, fidelity, measure, names, registry, sign
from fheinfer.approx.functions import function_of
from fheinfer.model import ops

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "activations.md"
COSTS = "Costs and errors"


def rows(heading: str) -> dict[str, list[str]]:
    """The table under a heading, by the name in its first column."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_page_lists_what_the_registry_lists() -> None:
    assert list(rows(COSTS)) == list(names())


@pytest.mark.parametrize("name", names())
def test_the_figures_are_measured(name: str) -> None:
    function, degrees, levels, openfhe, largest, rms, band, bound, valid = rows(COSTS)[name]
    about = measure.describe(activation(name))
    assert (function, degrees) == (about["function"], ", ".join(map(str, about["degrees"])))
    assert (int(levels), int(openfhe)) == (about["levels"], about["openfhe_levels"])
    if about["bits"] is None:
        assert largest == "exact"
    else:
        assert float(largest.removeprefix("2^-")) == pytest.approx(about["bits"], abs=0.0051)
    assert float(rms) == pytest.approx(about["rms"], rel=0.06)
    known = {band: about["band"] and about["band"]["width"], bound: about["bound"], valid: about["valid_range"]}
    for text, value in known.items():
        if value is None:
            assert text in ("-", "any")
        else:
            assert float(text) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    "degrees, zeta, alpha, guard, error, signs",
    [
        ((7, 7, 13), 13, 10, -8, -9.94, (1.00, 0.90, -1.00)),
        ((7, 7, 13), 13, 10, -6, -8.90, (1.00, 1.00, 1.00)),
        pytest.param((15, 15, 27), 16, 13, -8, -13.15, (1.00, -1.00, -1.00), marks=pytest.mark.slow),
        pytest.param((15, 15, 27), 16, 13, -6, -9.74, (1.00, 0.998, 1.00), marks=pytest.mark.slow),
    ],
)
def test_what_guard_bands_do(
    degrees: tuple[int, ...], zeta: int, alpha: int, guard: int, error: float, signs: tuple[float, ...]
) -> None:
    made = sign.generate(degrees, zeta / 2**alpha, 2.0**guard, digits=30, tolerance=1e-8)
    found = registry.from_composite(made, "guarded")
    assert np.log2(measure.error(found).largest) == pytest.approx(error, abs=0.006)
    assert [float(found.polynomials(x)) for x in (1.001, 1.005, 1.01)] == pytest.approx(list(signs), abs=0.006)


def test_levels_of_replaced_relus_are_the_registrys() -> None:
    table = rows("ResNet20 with every ReLU replaced, not trained")
    assert {name: int(cells[0]) for name, cells in table.items()} == {name: activation(name).levels for name in table}
    assert {f"minimax:{alpha}" for alpha in range(4, 15)} <= set(table)


USERS = {
    "ReLU": ops.Relu(),
    "ReLU6": ops.Clip(0.0, 6.0),
    "hard tanh": ops.Clip(-1.0, 1.0),
    "LeakyReLU(0.1)": ops.LeakyRelu(0.1),
    "ELU": ops.Elu(),
    "SELU": ops.Selu(),
    "SiLU": ops.Silu(),
    "GELU": ops.Gelu(),
    "Mish": ops.Mish(),
    "Hardswish": ops.Hardswish(),
    "Hardsigmoid": ops.Hardsigmoid(),
    "Sigmoid": ops.Sigmoid(),
    "Tanh": ops.Tanh(),
    "Softplus": ops.Softplus(),
    "Abs": ops.Abs(),
}
COLUMNS = [(bound, bits) for bound in (4.0, 16.0) for bits in fidelity.OFFERED]


@pytest.mark.parametrize("name", USERS)
def test_levels_of_users_activations_are_those_that_are_chosen(name: str) -> None:
    section = PAGE.read_text().partition("\n## Activations of users' networks\n")[2]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {name} | ") and line.count("|") == 8]
    function = function_of(USERS[name])
    assert function is not None
    for text, (bound, bits) in zip(line.strip("|").split("|")[1:], COLUMNS, strict=True):
        found = fidelity.choose(function, bound, fidelity.of_bits(bits))
        what = found and (found.gate.name if found.gate else found.degree)
        assert text.strip() == (f"{found.levels}: {what}" if found else "-")
