"""Plans: what they promise before anything runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer import _core
from fheinfer.compiler.policy import KEY_POLICIES, KeyPolicy, choose
from fheinfer.crypto.keygen import manifest_plan
from fheinfer.crypto.keystore import Manifest
from fheinfer.crypto.params import parameter_set, parameter_sets
from fheinfer.errors import PlanError, UsageError
from fheinfer.frontends import zoo
from fheinfer.model.model import Weights, shapes

F64 = NDArray[np.float64]
SET = "insecure-tiny"


@pytest.fixture(scope="module")
def plans() -> dict[str, fheinfer.Plan]:
    return {params.name: manifest_plan(params.network, params) for params in parameter_sets()}


NAMES = [params.name for params in parameter_sets()]


@pytest.mark.parametrize(("name", "top"), [("turbo", 22), ("quad", 40)])
def test_quadratic_networks_take_no_bootstrap(plans: dict[str, Any], name: str, top: int) -> None:
    plan = plans[name]
    assert plan.bootstraps == 0
    assert plan.client.input_level == plan.params.top_level == top
    assert plan.steps[-1].level == 0
    ops = [step.op for step in plan.steps]
    if name == "turbo":
        assert ops == ["conv2d", "quadratic"] * 10 + ["avg_pool", "linear"]
    else:
        assert (ops.count("conv2d"), ops.count("quadratic")) == (19 + 2, 19)  # two shortcuts have one of their own


def test_one_level_more_saves_pafs_a_bootstrap_a_block(plans: dict[str, Any]) -> None:
    """Of three levels each, two fit between bootstraps with their convolutions; of seven, one."""
    assert plans["paf"].bootstraps == 10
    assert manifest_plan("resnet20+f1", parameter_set("1")).bootstraps == 18
    of_seven = [manifest_plan("resnet20+a7", parameter_set(name)).bootstraps for name in ("paf", "1")]
    assert of_seven == [19, 37]


def test_the_input_of_a_paired_chain_is_at_an_even_level() -> None:
    """What needs an odd number of levels, encrypted one higher, where OpenFHE can."""
    for name in ("turbo", "insecure-tiny-turbo"):
        params = parameter_set(name)
        plan = manifest_plan(params.network, params)
        assert plan.client.input_level % 2 == 0
        for step in plan.steps:
            assert plan.client.input_level >= step.level


@pytest.mark.parametrize("name", [name for name in NAMES if parameter_set(name).network == "resnet20"])
def test_resnet20_takes_a_bootstrap_before_every_activation(plans: dict[str, Any], name: str) -> None:
    """On OpenFHE's evaluation the first is saved by an input of more levels; ours costs less than sending those."""
    plan = plans[name]
    relu = next(step.depth for step in plan.steps if step.op == "chebyshev")
    steps = {step.name: step for step in plan.steps}
    for step in plan.steps:
        if step.op == "chebyshev" and (plan.params.native or step.name != "relu1"):
            assert steps[step.inputs[0]].op == "bootstrap"
    if plan.params.native:
        assert plan.bootstraps == 19
        assert plan.client.input_level == 1 + plan.params.bootstrap_input
    else:
        assert plan.bootstraps == 18
        assert plan.steps[1].name == "relu1"
        assert plan.client.input_level == 1 + relu + 2
    assert plan.steps[-1].level == 0


@pytest.mark.parametrize("name", NAMES)
def test_rotation_keys_are_named_once_and_no_taller_than_the_chain(plans: dict[str, Any], name: str) -> None:
    plan = plans[name]
    half = 1 << (plan.params.log_n - 1)
    assert list(plan.rotations) == sorted(set(plan.rotations))
    assert all(0 < k < half for k, _ in plan.rotations)
    assert all(1 <= limbs <= plan.params.top_level + 1 for _, limbs in plan.rotations)
    context = _core.Context(plan.params.core())
    if not plan.bootstraps:
        needs = []
    elif plan.params.native:
        needs = [(k % half, limbs) for k, limbs in _core.native_bootstrap_rotations(context)]
    else:
        needs = list(context.bootstrap_rotations().items())
        assert len({k for k, _ in plan.rotations}) == len(plan.rotations)  # OpenFHE has room for one key each
    assert all(any(k == have and limbs <= height for have, height in plan.rotations) for k, limbs in needs)


@pytest.mark.parametrize("name", ["1", "1-openfhe"])
def test_set_1_keeps_within_what_it_promises(plans: dict[str, Any], name: str) -> None:
    """At most 9 minutes, 14 GB of memory and 9 GB of keys on the reference machine."""
    prediction = plans[name].prediction
    assert prediction.key_bytes < 9e9
    assert prediction.peak_memory < 14e9
    assert prediction.seconds < 9 * 60
    assert min(dataclasses.astuple(prediction)) > 0


def test_keys_do_not_depend_on_weights(tiny_plan: fheinfer.Plan) -> None:
    """Keys are made before the server has weights; even all-zero layers must find theirs."""
    assert manifest_plan("resnet8-tiny", parameter_set(SET)).rotations == tiny_plan.rotations
    graph = zoo.network("resnet8-tiny")
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes(graph).items()}
    zeros = Weights(graph, arrays, (0.5,) * 3, (0.5,) * 3, {n.name: 1.0 for n in graph if n.op == "relu"})
    assert fheinfer.compile(zeros, SET).rotations == tiny_plan.rotations


def test_the_same_input_gives_the_same_plan(tiny_weights: Weights, tiny_plan: fheinfer.Plan) -> None:
    again = fheinfer.compile(tiny_weights, SET)
    assert again.client == tiny_plan.client
    assert again.rotations == tiny_plan.rotations
    assert again.prediction == tiny_plan.prediction
    for one, other in zip(again.steps, tiny_plan.steps, strict=True):
        assert repr(one.layout) == repr(other.layout)
        assert dataclasses.replace(one, layout=other.layout, in_layout=other.in_layout) == other


def test_identity_changes_with_weights_ranges_margin_and_set(tiny_weights: Weights, tiny_plan: fheinfer.Plan) -> None:
    arrays = dict(tiny_weights.arrays)
    name = "layer2.0.conv1.weight"
    arrays[name] = arrays[name].copy()
    arrays[name][0, 0, 0, 0] += 1e-3
    wider = {k: v * 1.01 for k, v in tiny_weights.ranges.items()}
    plans = [
        tiny_plan,
        fheinfer.compile(dataclasses.replace(tiny_weights, arrays=arrays), SET),
        fheinfer.compile(dataclasses.replace(tiny_weights, ranges=wider), SET),
        fheinfer.compile(tiny_weights, SET, margin=1.3),
        fheinfer.compile(tiny_weights, "1"),
        fheinfer.compile(tiny_weights, dataclasses.replace(parameter_set(SET), activation="relu:27")),
    ]
    assert len({plan.client.plan for plan in plans}) == len(plans)


@pytest.mark.parametrize("keys", KEY_POLICIES)
@pytest.mark.parametrize("name", [SET, "1", "1-openfhe"])
def test_every_policy_names_its_keys_and_computes_the_same(tiny_weights: Weights, name: str, keys: KeyPolicy) -> None:
    plan, fast = fheinfer.compile(tiny_weights, name, keys=keys), fheinfer.compile(tiny_weights, name)
    assert (plan.keys, fast.keys) == (keys, "fast")
    assert plan.client == fast.client  # the identity of the steps is in it: the same, and a client needs no policy


@pytest.mark.parametrize("name", ["1", "2", "3", "4"])
def test_minimal_keys_are_smaller_and_slower(name: str) -> None:
    minimal, fast = (manifest_plan("resnet20", parameter_set(name), keys) for keys in KEY_POLICIES)
    assert len(minimal.rotations) < 0.6 * len(fast.rotations)
    assert minimal.prediction.key_bytes < 0.8 * fast.prediction.key_bytes
    assert minimal.prediction.peak_memory < fast.prediction.peak_memory
    assert minimal.prediction.seconds > fast.prediction.seconds
    if name == "1":
        assert minimal.prediction.key_bytes < 0.8e9


def fake(keys: str, seconds: float, memory: float) -> Any:
    return SimpleNamespace(keys=keys, prediction=SimpleNamespace(seconds=seconds, peak_memory=memory * 1e9))


@pytest.mark.parametrize(
    ("wanted", "memory", "free", "chosen"),
    [
        ("auto", (4, 5), 20, "fast"),
        ("auto", (4, 5), None, "fast"),  # nobody knows
        ("auto", (4, 5), 4.5, "minimal"),
        ("auto", (4, 5.5), 20, "minimal"),  # both are free, one is above 5 GB
        ("auto", (6, 7), 20, "fast"),  # no policy stays below 5 GB
        ("auto", (6, 7), 6.5, "minimal"),
        ("auto", (6, 7), 1, "minimal"),  # nothing fits: the smallest; keygen and server ask for memory themselves
        ("fast", (4, 5), 1, "fast"),
        ("minimal", (4, 5), 20, "minimal"),
    ],
)
def test_auto_takes_the_fastest_that_fits(wanted: str, memory: Any, free: float | None, chosen: str) -> None:
    plans = [fake("minimal", 40, memory[0]), fake("fast", 35, memory[1])]
    assert choose(plans, wanted, None if free is None else int(free * 1e9)).keys == chosen


@pytest.mark.parametrize(("seconds", "chosen"), [(35.5, "minimal"), (38, "minimal"), (39, "fast")])
def test_auto_takes_the_smaller_of_two_that_are_nearly_as_fast(seconds: float, chosen: str) -> None:
    assert choose([fake("minimal", seconds, 3), fake("fast", 35, 4)], "auto", None).keys == chosen


def test_an_unknown_policy_is_refused(tiny_plan: fheinfer.Plan) -> None:
    with pytest.raises(UsageError, match="no keys of the kind 'many'; there are fast and auto"):
        choose([tiny_plan], "many", None)


def test_key_bytes_are_predicted(tiny_plan: fheinfer.Plan, tiny_keys: Path) -> None:
    manifest = Manifest.load(tiny_keys / f"set{SET}" / "server" / "manifest.json")
    evaluation = manifest.total_bytes - manifest.files["public.key"].bytes
    assert tiny_plan.prediction.key_bytes == pytest.approx(evaluation, rel=0.02)
    assert manifest.rotations == list(tiny_plan.rotations)


def test_ciphertext_bytes_are_predicted(
    tiny_plan: fheinfer.Plan, tiny_client: fheinfer.Client, tiny_picture: F64
) -> None:
    size = len(tiny_client.encrypt(tiny_picture, tiny_plan.client))
    assert tiny_plan.prediction.input_bytes == pytest.approx(size, rel=0.02)


def test_weights_without_ranges_cannot_be_compiled(tiny_weights: Weights) -> None:
    with pytest.raises(PlanError, match="no range is known for the activation 'relu1'"):
        fheinfer.compile(dataclasses.replace(tiny_weights, ranges={}), SET)


def test_a_set_with_too_few_levels_cannot_be_compiled_for(tiny_weights: Weights) -> None:
    with pytest.raises(PlanError, match="levels after a bootstrap"):
        fheinfer.compile(tiny_weights, dataclasses.replace(parameter_set(SET), activation="relu:119"))


def test_a_network_too_large_for_the_set_cannot_be_compiled(tiny_weights: Weights) -> None:
    with pytest.raises(PlanError, match="slots"):
        manifest_plan("resnet20", parameter_set(SET))


def test_the_client_needs_no_weights_to_prepare_a_picture(tiny_plan: fheinfer.Plan, tiny_picture: F64) -> None:
    spec = tiny_plan.client
    slots = spec.pack(tiny_picture)
    assert np.abs(slots).max() <= 1
    assert slots.shape == (256,)
    assert np.array_equal(spec.unpack(np.arange(512.0)), np.arange(10.0) * spec.output_scale)


def test_every_picture_fits_the_input_scale(tiny_plan: fheinfer.Plan) -> None:
    spec = tiny_plan.client
    for value in (0, 255):
        picture = fheinfer.normalise(np.full((8, 8, 3), value, np.uint8), spec.mean, spec.std)
        assert np.abs(spec.pack(picture)).max() <= 1
