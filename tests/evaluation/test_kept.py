"""What calibration measures of polynomials: the bits that outputs keep, by which a plan keeps those asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fheinfer
from fheinfer.approx.fidelity import REFERENCES
from fheinfer.compiler.activations import polynomials_of
from fheinfer.errors import PlanError, WeightsError
from fheinfer.evaluation.approximated import Approximated
from fheinfer.frontends.importing import import_model
from fheinfer.model.model import Model, load


@pytest.fixture(scope="module")
def rare() -> tuple[nn.Module, torch.Tensor]:
    """A network, and inputs of which one in a hundred is thirty times as large: ranges are wide for all the others."""
    torch.manual_seed(2)
    layers = [nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5)]
    x = torch.randn(400, 20)
    x[::100] *= 30
    return nn.Sequential(*layers).eval(), x


@pytest.fixture(scope="module")
def model(rare: tuple[nn.Module, torch.Tensor]) -> Model:
    module, x = rare
    return fheinfer.from_torch(module, x[:1], quiet=True).calibrate(x)


def median_bits(model: Model, module: nn.Module, x: torch.Tensor, bits: float) -> float:
    with torch.inference_mode():
        clear = module(x).numpy()
    (found,) = Approximated(polynomials_of(model, bits=bits)).outputs(x).values()
    return float(np.median(-np.log2(np.abs(found.numpy() - clear).max(1) / np.abs(clear).max(1))))


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_a_network_whose_ranges_are_wide_keeps_the_bits_asked_for(
    model: Model, rare: tuple[nn.Module, torch.Tensor], bits: int
) -> None:
    """The rule for networks that were never measured loses bits here, and promises them."""
    module, x = rare
    others = x[200:]
    assert median_bits(model, module, others, bits) >= bits
    assert median_bits(replace(model, kept_bits={}), module, others, bits) < bits


def test_a_plan_promises_the_bits_asked_for(model: Model) -> None:
    plan = fheinfer.compile(model, "insecure-tiny", bits=5)
    assert plan.kept is not None
    assert 5 <= plan.kept < 6


def test_finer_polynomials_keep_more(model: Model) -> None:
    assert list(model.kept_bits) == list(REFERENCES)
    series, composites = ([b for n, b in model.kept_bits.items() if n.startswith(k)] for k in ("relu", "minimax"))
    assert series == sorted(series)
    assert composites == sorted(composites)


def test_the_default_promises_what_was_measured(model: Model) -> None:
    between = polynomials_of(model, "relu:59").kept
    assert polynomials_of(model, "relu:31").kept < between < polynomials_of(model, "relu:63").kept
    assert polynomials_of(model, "minimax:10").kept == pytest.approx(model.kept_bits["minimax:10"] - 0.3)


def test_nothing_is_measured_of_polynomials() -> None:
    x = torch.randn(8, 6)
    module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    assert not fheinfer.from_torch(module, x[:1], quiet=True).calibrate(x).kept_bits


def test_they_are_a_part_of_the_file_and_of_its_checksum(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert load(path).kept_bits == model.kept_bits
    assert load(path).identity == replace(model, kept_bits={}).identity
    data = path.read_bytes()
    bits = repr(model.kept_bits["relu:31"]).encode()
    assert data.count(bits) == 1
    path.write_bytes(data.replace(bits, b"9" * len(bits)))
    with pytest.raises(WeightsError):
        load(path)


@pytest.mark.parametrize("bits", [{"relu:31": -1.0}, {"relu:31": math.nan}, {str(n): 1.0 for n in range(101)}])
def test_what_they_cannot_be(model: Model, bits: Mapping[str, float]) -> None:
    with pytest.raises(WeightsError, match="kept_bits"):
        replace(model, kept_bits=bits)


def test_more_bits_than_any_approximation_keeps_are_refused(model: Model) -> None:
    with pytest.raises(PlanError, match="no approximation of ReLU keeps 11 bits of this network's outputs: the finest"):
        polynomials_of(model, bits=11)
    with pytest.raises(PlanError, match="ask for fewer"):
        fheinfer.compile(model, bits=11)


def test_a_series_coarser_than_any_that_was_measured_is_not_promised_as_much(model: Model) -> None:
    assert polynomials_of(model, "relu:7").kept <= polynomials_of(model, "relu:31").kept
    known = replace(model, kept_bits={"relu:31": 9.0, "relu:63": 10.0})
    assert polynomials_of(known, "relu:7").kept < 3


def test_at_another_margin_the_rule_decides(model: Model) -> None:
    other = replace(model, kept_bits={})
    for margin in (1.0, 4.0):
        found, expected = (polynomials_of(m, bits=8, margin=margin) for m in (model, other))
        assert (found.relu.name, found.kept) == (expected.relu.name, expected.kept)


def test_nothing_is_measured_where_more_than_relus_is_approximated() -> None:
    x = torch.randn(8, 6)
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    assert not fheinfer.from_torch(module, x[:1], quiet=True).calibrate(x).kept_bits


def test_outputs_of_zeros_are_kept() -> None:
    x = torch.rand(8, 6)
    last = nn.Linear(4, 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), last)
    model = fheinfer.from_torch(module, x[:1], quiet=True).calibrate(x)
    assert min(model.kept_bits.values()) > 20


def test_a_part_without_relus_is_exact(model: Model) -> None:
    assert fheinfer.compile(model, "insecure-tiny", client_until="3").kept == math.inf


def test_outputs_that_are_all_error_keep_no_bits(rare: tuple[nn.Module, torch.Tensor]) -> None:
    """The error of most is larger than they are: bits below 0, or no number."""
    module, x = rare
    x = x.clone()
    x[::10] *= 1e4
    kept = fheinfer.from_torch(module, x[:1], quiet=True).calibrate(x).kept_bits
    assert kept["relu:31"] == 0
    assert min(kept.values()) >= 0


def test_other_ranges_leave_them_out(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    ranges = dict.fromkeys(model.ranges, 100.0)
    assert not import_model(tmp_path / "model.safetensors", ranges=ranges).model.kept_bits
    assert import_model(tmp_path / "model.safetensors").model.kept_bits


def test_other_pools_were_not_measured() -> None:
    x = torch.randn(4, 1, 8, 8)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    model = fheinfer.from_torch(module, x[:1], quiet=True).calibrate(x)
    assert model.kept_bits
    assert not fheinfer.replace_max_pools(model).kept_bits
