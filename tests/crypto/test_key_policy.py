"""Which rotation keys a server gets, when nobody says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fheinfer import _core
from fheinfer.crypto.key_policy import KEY_POLICIES, choose, core_policy, serving
from fheinfer.errors import UsageError


def predicted(seconds: float, gigabytes: float) -> Any:
    return SimpleNamespace(seconds=seconds, peak_memory=int(gigabytes * 1e9))


@pytest.mark.parametrize(
    ("wanted", "memory", "free", "chosen"),
    [
        ("auto", (4, 5), 20, "fast"),
        ("auto", (4, 5), None, "fast"),  # nobody knows
        ("auto", (4, 5), 4.5, "minimal"),
        ("auto", (4, 5.5), 20, "minimal"),  # both fit the memory there is, one is above 5 GB
        ("auto", (6, 7), 20, "fast"),  # no policy stays below 5 GB
        ("auto", (6, 7), 6.5, "minimal"),
        ("auto", (6, 7), 1, "minimal"),  # nothing fits: the smallest; keygen and server ask for memory themselves
        ("fast", (4, 5), 1, "fast"),
        ("minimal", (4, 5), 20, "minimal"),
    ],
)
def test_auto_takes_the_fastest_that_fits(wanted: str, memory: Any, free: float | None, chosen: str) -> None:
    predictions: Any = {"minimal": predicted(42, memory[0]), "fast": predicted(35, memory[1])}
    assert choose(predictions, wanted, None if free is None else int(free * 1e9)) == chosen


@pytest.mark.parametrize(("seconds", "chosen"), [(35.5, "minimal"), (40, "minimal"), (41, "fast")])
def test_auto_takes_the_smaller_of_two_that_are_nearly_as_fast(seconds: float, chosen: str) -> None:
    predictions: Any = {"minimal": predicted(seconds, 3), "fast": predicted(35, 4)}
    assert choose(predictions, "auto", None) == chosen


def test_an_unknown_policy_is_refused() -> None:
    predictions: Any = {"fast": predicted(1, 1)}
    with pytest.raises(UsageError, match="no rotation keys of the kind 'many'; there are fast and auto"):
        choose(predictions, "many", None)


def test_a_policy_that_a_limit_left_out_is_refused_with_the_reason() -> None:
    predictions: Any = {"minimal": predicted(1, 1)}
    with pytest.raises(UsageError, match=r"no fast keys: with them a server takes more memory .* choose minimal"):
        choose(predictions, "fast", None)


def test_the_lowest_key_that_is_tall_enough_serves() -> None:
    keys = [(1, 4), (1, 9), (2, 4)]
    assert serving(keys, 1, 3) == (1, 4)
    assert serving(keys, 1, 5) == (1, 9)
    assert serving(keys, 2, 5) is None
    assert serving(keys, 3, 1) is None


def test_the_core_knows_every_policy() -> None:
    assert [core_policy(policy) for policy in KEY_POLICIES] == [_core.KeyPolicy.minimal, _core.KeyPolicy.fast]
