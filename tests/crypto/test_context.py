"""Parameter sets as OpenFHE contexts: 128 bits, primes below 2^50, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fheinfer import _core
from fheinfer.compiler.presets import preset
from fheinfer.crypto.backends import backend
from fheinfer.crypto.params import ParameterSet, ciphertext_bound, parameter_set, parameter_sets
from fheinfer.crypto.security import MAX_LOG_QP
from fheinfer.errors import PlanError, UnknownSetError

SMALL = dataclasses.replace(parameter_set("1-openfhe"), log_n=11, slots=256, insecure=True)


def context(params: ParameterSet) -> _core.Context:
    return backend(preset(params).backend).context(params)


@pytest.mark.parametrize("params", parameter_sets(), ids=lambda p: p.name)
def test_every_set_reaches_128_bits_with_short_primes(params: ParameterSet) -> None:
    """log2(QP) <= 1747 at N = 2^16, 881 at 2^15: HE.org tables, ternary secret; primes below 2^50: IFMA."""
    made = context(params)
    assert made.log_qp <= MAX_LOG_QP[params.log_n] == {16: 1747, 15: 881}[params.log_n]
    sprout = params.scale_bits if params.composite else 0  # a prime that OpenFHE does not see
    assert abs(sum(np.log2(made.q)) + sum(np.log2(made.p)) + sprout - made.log_qp) < 2
    assert max(*made.q, *made.p) < 2**50
    assert len({*made.q, *made.p}) == len(made.q) + len(made.p)
    assert len(made.q) == params.limbs(params.top_level)
    assert made.levels.top == params.top_level
    assert made.levels.after_bootstrap == (params.levels if params.bootstraps else 0)


def test_the_published_sets_stay_what_they_are() -> None:
    """ReLU degree, large digits, CoeffToSlot and SlotToCoeff budgets of Rovida & Leporati, ePrint 2024/460."""
    ours = ("relu", "paf")
    sets = [s for s in parameter_sets() if s.bootstraps and s.name not in ours]
    what = {s.name: (preset(s).activation, s.digits, (s.cts_budget, s.stc_budget)) for s in sets}
    published = {
        "1": ("relu:59", 2, (3, 3)),
        "2": ("relu:200", 3, (4, 4)),
        "3": ("relu:119", 3, (5, 4)),
        "4": ("relu:59", 2, (4, 4)),
    }
    assert what == published | {f"{name}-openfhe": value for name, value in published.items()}
    assert all((preset(s).backend == "openfhe") == s.name.endswith("-openfhe") for s in parameter_sets(insecure=True))
    assert {(s.log_n, s.slots, s.insecure) for s in parameter_sets() if s.bootstraps} == {(16, 16384, False)}


@pytest.mark.parametrize("levels", [20, 30])
def test_a_chain_above_the_table_is_refused(levels: int) -> None:
    tall = dataclasses.replace(parameter_set("1"), levels=levels)
    with pytest.raises(PlanError, match=r"128 bits|OpenFHE refuses"):
        context(tall)


def test_the_same_chain_on_a_small_ring_needs_the_word_insecure() -> None:
    assert context(SMALL).log_qp > MAX_LOG_QP[15]
    with pytest.raises(PlanError):
        context(dataclasses.replace(SMALL, insecure=False))


@pytest.mark.parametrize("field", ["first_bits", "scale_bits", "special_bits"])
def test_primes_of_more_than_50_bits_are_refused(field: str) -> None:
    sizes = {"first_bits": 50, "scale_bits": 48, "special_bits": 50, field: 51}
    with pytest.raises(PlanError, match="below 2\\^50"):
        context(dataclasses.replace(SMALL, **sizes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"log_n": 3},
        {"log_n": -3},
        {"log_n": 40},
        {"slots": 0},
        {"slots": 2048},
        {"slots": 100},
        {"digits": 0},
        {"cts_budget": 30, "stc_budget": 30},
        {"levels": 0},
        {"levels": -40},
    ],
    ids=str,
)
def test_impossible_sets_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(PlanError):
        context(dataclasses.replace(SMALL, **change))  # type: ignore[arg-type]


def test_sets_have_names_and_an_identity_of_what_changes_a_key() -> None:
    one = parameter_set(1)
    assert one is parameter_set("1") is parameter_set("set1")
    assert parameter_set("relu").identity == one.identity
    others = [s for s in parameter_sets(insecure=True) if s.name != "relu"]
    assert len({s.identity for s in others}) == len(others)
    assert dataclasses.replace(one, name="x").identity == one.identity
    for field in ("log_n", "slots", "first_bits", "scale_bits", "special_bits", "digits", "cts_budget", "levels"):
        assert dataclasses.replace(one, **{field: getattr(one, field) + 1}).identity != one.identity


@pytest.mark.parametrize("name", ["5", "", "setset1", 0, "1 ", "../1"])
def test_unknown_sets_are_typed(name: str | int) -> None:
    with pytest.raises(UnknownSetError, match="there are 1, 2, 3, 4"):
        parameter_set(name)


def test_sets_for_tests_are_only_given_when_asked_for() -> None:
    assert not any(s.insecure for s in parameter_sets())
    assert any(s.insecure for s in parameter_sets(insecure=True))


def test_the_bound_on_ciphertexts_is_the_tallest_one() -> None:
    keys = _core.ClientKeys.generate(context(SMALL), "ab" * 16)
    public = _core.ClientKeys.load(context(SMALL), "ab" * 16, b"", keys.public_key())
    seeded, tallest = (len(k.encrypt(np.ones(1), SMALL.top_level)) for k in (keys, public))
    assert seeded < tallest <= ciphertext_bound(SMALL) < 64 / 45 * tallest  # residues are packed, and the bound is not
