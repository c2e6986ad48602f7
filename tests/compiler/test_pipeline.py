"""The list of passes, and what `compile` takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import fheinfer
from fheinfer.approx import activation, minimax
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.canonicalise import canonicalise, folded
from fheinfer.compiler.passes.levels import levels
from fheinfer.compiler.passes.max_pools import max_pools
from fheinfer.compiler.passes.merge_quadratics import merge_quadratics
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.replicas import replicas
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.passes.separate_outputs import separate_outputs
from fheinfer.compiler.pipeline import PASSES
from fheinfer.errors import PlanError, UsageError
from fheinfer.frontends import zoo
from fheinfer.model.model import Model
from tests.compiler.programs import program, run

ORDER = (
    canonicalise,
    merge_quadratics,
    max_pools,
    folded,
    approximate,
    separate_outputs,
    pack,
    replicas,
    scales,
    levels,
)


def test_passes_come_in_this_order_and_each_leaves_a_legal_program() -> None:
    assert tuple(one for one, _ in PASSES) == ORDER
    run(program(zoo.network("resnet8-tiny")), *ORDER)


def test_a_pass_does_not_change_its_argument() -> None:
    start = program(zoo.network("resnet8-tiny"))
    constants = {name: array.copy() for name, array in start.constants.items()}
    nodes, ranges = start.graph.nodes, dict(start.ranges)
    run(start, *ORDER)
    assert start.graph.nodes is nodes
    assert start.ranges == ranges
    for decided in (start.packings, start.scales, start.levels, start.works):
        assert not decided
    assert set(start.constants) == set(constants)
    assert all(np.array_equal(start.constants[name], array) for name, array in constants.items())


@pytest.mark.parametrize("margin", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_margin_is_refused(tiny_model: Model, margin: float) -> None:
    with pytest.raises(UsageError, match="the margin is a factor on the ranges"):
        fheinfer.compile(tiny_model, "insecure-tiny", margin=margin)


def test_an_unknown_backend_is_refused(tiny_model: Model) -> None:
    with pytest.raises(UsageError, match="no backend 'gpu'; there are native, openfhe"):
        fheinfer.compile(tiny_model, "insecure-tiny", backend="gpu")


def test_a_backend_that_a_set_is_not_made_for_is_refused(tiny_model: Model) -> None:
    with pytest.raises(PlanError, match="has 10 levels for a bootstrap and the openfhe backend's takes 14"):
        fheinfer.compile(tiny_model, "insecure-tiny", backend="openfhe")


def test_models_without_ranges_cannot_be_compiled(tiny_model: Model) -> None:
    with pytest.raises(
        PlanError, match=r"no range is known for the activation 'relu1'; measure it with .*model\.calibrate"
    ):
        fheinfer.compile(dataclasses.replace(tiny_model, ranges={}), "insecure-tiny")


def test_a_set_with_too_few_levels_cannot_be_compiled_for(tiny_model: Model) -> None:
    with pytest.raises(PlanError, match="levels after a bootstrap"):
        fheinfer.compile(tiny_model, "insecure-tiny", activation="relu:247")


def test_a_network_larger_than_the_slots_is_compiled_to_several_ciphertexts() -> None:
    plan = fheinfer.compile(zoo.placeholder(zoo.network("resnet20")), "insecure-tiny")
    assert plan.client.input.ciphertexts == 6
    assert max(step.packing.ciphertexts for step in plan.steps) == 32


@pytest.fixture
def composite(tmp_path: Path) -> Path:
    """A composite of one's own: that of minimax:4, in a file."""
    path = tmp_path / "own composite.json"
    path.write_text(minimax.composite(4).model_dump_json())
    return path


def test_a_composite_from_a_file_keeps_the_name_of_the_set(tiny_model: Model, composite: Path) -> None:
    plan = fheinfer.compile(tiny_model, "insecure-tiny", activation=str(composite))
    assert plan.params.name == "insecure-tiny"
    assert plan.activation == str(composite)
    by_name = fheinfer.compile(tiny_model, "insecure-tiny", activation="minimax:4")
    image = np.zeros((3, 8, 8))
    assert np.array_equal(fheinfer.run_slots(plan, image), fheinfer.run_slots(by_name, image))


def test_an_activation_can_be_given_itself(tiny_model: Model) -> None:
    plan = fheinfer.compile(tiny_model, "insecure-tiny", activation=activation("relu:27"))
    assert plan.identity == fheinfer.compile(tiny_model, "insecure-tiny", activation="relu:27").identity
