"""Settings to search over, and the search itself on accuracies that are made up."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fheinfer.compiler.plan import Plan
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import PlanError, UsageError
from fheinfer.evaluation.accuracy import Evaluation
from fheinfer.evaluation.search import Setting, search, settings
from fheinfer.frontends import zoo
from tests.conftest import TINY

RELUS, SET = zoo.network("resnet8-tiny"), parameter_set(TINY)


def test_each_kind_of_setting_changes_one_thing() -> None:
    usual = (SET, "relu:27", 1.3)
    margins = settings("margin", SET, 1.3, RELUS, "relu:27")
    assert {(s.params, s.activation) for s in margins} == {usual[:2]}
    assert [s.margin for s in margins] == sorted({s.margin for s in margins})
    degrees = settings("degree", SET, 1.3, RELUS, "relu:27")
    assert {(s.params, s.margin) for s in degrees} == {(SET, 1.3)}
    assert [s.activation for s in degrees][:2] == ["relu:7", "relu:15"]
    bits = settings("scale-bits", SET, 1.3, RELUS)
    assert bits[-1].params == SET
    assert {s.params.first_bits - s.params.scale_bits for s in bits} == {2}
    assert {s.activation for s in bits} == {None}


def test_sets_are_those_that_can_be_simulated_each_once() -> None:
    names = [s.params.name for s in settings("set", SET, 1.0, RELUS)]
    assert names == ["1", "2", "3", "4", "paf", "quad", "turbo"]


def test_what_cannot_be_searched_over_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot search over 'ring'"):
        settings("ring", SET, 1.0, RELUS)
    with pytest.raises(UsageError, match="approximates a ReLU, and resnet8-tiny-herpn has none"):
        settings("alpha", SET, 1.0, zoo.network("resnet8-tiny-herpn"))
    with pytest.raises(UsageError, match="nothing to search over scale-bits"):
        settings("scale-bits", parameter_set("turbo"), 1.0, RELUS)


def evaluation(right: int) -> Evaluation:
    """Of 100 images, of which so many have their class."""
    logits = np.tile([1.0, 0.0], (100, 1))
    return Evaluation("approx", {"fc": logits}, (np.arange(100) >= right).astype(np.uint8), 0.0, {}, [])


def found(tiny_plan: Plan, over: str, right: dict[str, int], **options: Any) -> tuple[Any, list[str], list[int]]:
    """The search where each setting is right on so many of 100 images; its names in the order they were tried."""
    done: list[int] = []
    tried: list[str] = []

    def compiled(setting: Setting) -> Plan:
        if right[setting.name] < 0:
            raise PlanError(f"{setting.name} does not fit")
        return dataclasses.replace(tiny_plan, model=setting.name)

    def evaluated(plan: Plan, name: str) -> Evaluation:
        assert plan.model == name
        tried.append(name)
        return evaluation(right[name])

    candidates = [Setting(name, SET, None, 1.0) for name in right]
    result = search(over, candidates, 0.02, compiled, evaluated, 0.9, progress=lambda n, of: done.append(n), **options)
    return result, tried, done


def test_the_cheapest_within_the_bound_is_found_in_few_tries(tiny_plan: Plan) -> None:
    right = {f"{i}": 90 - max(0, 7 - i) for i in range(10)}  # from 5 on, at most 2 are lost
    result, tried, done = found(tiny_plan, "degree", right)
    assert result.best is not None
    assert (result.best.setting, result.best.seconds) == ("5", tiny_plan.keys["fast"].seconds)
    assert len(tried) <= 4
    assert done == list(range(1, 11))


def test_all_margins_are_tried_and_of_equals_the_widest_wins(tiny_plan: Plan) -> None:
    result, tried, _ = found(tiny_plan, "margin", {"0.8": 50, "1": 90, "1.2": 90, "2": 89})
    assert tried == ["0.8", "1", "1.2", "2"]
    assert result.best is not None
    assert result.best.setting == "1.2"


def test_settings_that_do_not_fit_are_named_and_all_of_them_are_an_error(tiny_plan: Plan) -> None:
    result, _, _ = found(tiny_plan, "degree", {"a": -1, "b": 90})
    assert result.unfit == {"a": "a does not fit"}
    with pytest.raises(PlanError, match="b does not fit"):
        found(tiny_plan, "degree", {"a": -1, "b": -1})
    assert found(tiny_plan, "degree", {"a": 10})[0].best is None
