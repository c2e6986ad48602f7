"""set="auto": the set that is predicted to be the fastest, why, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.compiler import auto, pipeline
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.presets import preset
from fheinfer.compiler.wanted import Wanted
from fheinfer.compiler.why import lines
from fheinfer.crypto.generated import RINGS
from fheinfer.crypto.key_policy import choose
from fheinfer.data.resources import default_model
from fheinfer.errors import (
    CorruptArtifactError,
    GraphError,
    MismatchError,
    NotEnoughMemoryError,
    ParametersError,
    PlanError,
    UsageError,
)
from fheinfer.frontends import zoo
from fheinfer.model import ops
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from fheinfer.packing import MOST_SLOTS
from tests.conftest import random_model

RANGE = 6.0


def perceptron(*sizes: int) -> Model:
    graph = zoo.perceptron("perceptron", sizes)
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in graph.tensor_shapes().items()
    }
    neutral = (0.0,) * sizes[0], (1.0,) * sizes[0]
    return Model(graph, tensors, *neutral, ranges={node.name: RANGE for node in graph.activations})


@pytest.fixture(scope="module")
def model() -> Model:
    return perceptron(20, 16, 16, 4)


@pytest.mark.parametrize("name", ["turbo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("quad", "relu", "paf"))])
def test_it_chooses_what_was_chosen_by_hand_or_better(name: str) -> None:
    network = fheinfer.load_model(default_model(preset(name).network))
    by_hand, chosen = compile(network, name), compile(network)
    assert chosen.keys["fast"].seconds < 1.02 * by_hand.keys["fast"].seconds
    assert chosen.params.log_n == by_hand.params.log_n
    assert chosen.params.chain == by_hand.params.chain


def test_a_small_network_takes_a_small_ring_and_runs_there(model: Model, tmp_path: Path) -> None:
    plan = compile(model, activation="square")
    assert plan.params.log_n in (12, 13)
    assert plan.bootstraps == 0
    fheinfer.keygen(plan.client, tmp_path / "keys")
    session = fheinfer.Server().session(plan, tmp_path / "keys" / "server")
    client = fheinfer.Client(tmp_path / "keys", plan.client)
    x = np.random.default_rng(1).uniform(-1, 1, 20)
    outputs = client.decrypt(session.evaluate(client.encrypt(x)))
    assert fheinfer.precision_bits(fheinfer.run_slots(plan, x), outputs).minimum > 6


def test_every_choice_is_explained_with_its_alternatives(model: Model) -> None:
    plan = compile(model, activation="square")
    chosen = {reason.choice: reason for reason in plan.why}
    assert set(chosen) == {"ring", "bootstraps", "chain", "levels", "digits", "scale", "slots", "activation"}
    assert chosen["ring"].value == f"N = 2^{plan.params.log_n}"
    assert chosen["digits"].value == str(plan.params.digits)
    for reason in plan.why:
        assert reason.reason
        assert reason.value not in [other.value for other in reason.alternatives]
    others = chosen["ring"].alternatives
    assert others
    assert all(other.set.startswith("n") and other.seconds > 0 for other in others)
    text = lines(plan.why)
    assert text[0].startswith("ring: N = 2^")
    assert len(text) == len(plan.why) + sum(len(reason.alternatives) for reason in plan.why)


@pytest.mark.parametrize(
    ("wanted", "field", "value"),
    [
        (Wanted(log_n=14), "log_n", 14),
        (Wanted(log_n=14, chain="plain"), "chain", "plain"),
        (Wanted(log_n=14, digits=3), "digits", 3),
        (Wanted(log_n=14, scale_bits=24), "scale_bits", 24),
        (Wanted(log_n=14, levels=8), "levels", 8),
        (Wanted(log_n=14, log_slots=10), "slots", 1024),
        (Wanted(log_n=14, bootstraps=False), "bootstraps", False),
    ],
)
def test_a_choice_can_be_made_by_hand(model: Model, wanted: Wanted, field: str, value: object) -> None:
    plan = compile(model, activation="square", wanted=wanted)
    assert getattr(plan.params, field) == value
    assert plan.params.log_n == 14
    assert next(r for r in plan.why if r.choice == "ring").reason.startswith("as asked")


def test_bootstraps_can_be_asked_for_and_refused(convolutions: Model) -> None:
    for bootstraps in (True, False):
        plan = compile(convolutions, wanted=Wanted(bootstraps=bootstraps))
        assert plan.params.bootstraps is bootstraps
        assert (plan.bootstraps > 0) is bootstraps


def test_bootstraps_that_nothing_needs_are_refused(model: Model) -> None:
    """A set that bootstraps was taken, with no bootstrap in the plan, and 0 was said to be as asked."""
    with pytest.raises(PlanError, match=r"takes 3 levels needs no bootstraps on chains .* 4 or more; leave bootstraps"):
        compile(perceptron(20, 16, 4), activation="square", wanted=Wanted(bootstraps=True))
    with pytest.raises(PlanError, match="needs no bootstraps on chains that return 9 or more; leave levels, bootstrap"):
        compile(model, activation="square", wanted=Wanted(bootstraps=True, levels=9))
    with pytest.raises(PlanError, match="needs no bootstraps"):  # a network with nothing before which there can be one
        compile(perceptron(20, 4), wanted=Wanted(bootstraps=True))


def test_more_bits_take_a_finer_scale(model: Model) -> None:
    plans = [compile(model, activation="square", wanted=Wanted(bits=bits)) for bits in (6.0, 14.0)]
    assert plans[0].params.scale_bits < plans[1].params.scale_bits


def test_scales_are_not_so_small_that_there_are_no_primes(model: Model) -> None:
    """So few bits would do with scales of 19 bits, and OpenFHE finds no primes near enough to them."""
    plan = compile(model, activation="square", wanted=Wanted(bits=5.0, log_n=13))
    assert plan.params.log_n == 13
    assert compile(perceptron(8, *[8] * 12, 3), activation="square", wanted=Wanted(bits=3.0)).params.levels >= 25
    with pytest.raises(ParametersError, match="OpenFHE refuses"):
        compile(model, "n13-l5-s19-d2", activation="square")


def test_identity_does_not_depend_on_the_reasons(model: Model) -> None:
    plan = compile(model, activation="square")
    again = compile(model, plan.params, activation="square")
    assert plan.why
    assert not again.why
    assert plan.identity == again.identity


def test_what_cannot_be_is_refused_with_what_to_do(model: Model) -> None:
    with pytest.raises(NotEnoughMemoryError, match=r"no parameter set runs this network within 10 MB.* takes 1\d\d MB"):
        compile(model, activation="square", wanted=Wanted(memory=10**7))
    with pytest.raises(PlanError, match=r"'perceptron' fits no ring .* with ring as asked: it takes \d+ levels"):
        compile(model, activation="relu:119", wanted=Wanted(log_n=12))
    with pytest.raises(UsageError, match="leaves nothing to choose"):
        compile(model, "turbo", activation="square", wanted=Wanted(log_n=15))
    with pytest.raises(UsageError, match="openfhe"):
        compile(model, activation="square", backend="openfhe")


@pytest.fixture(scope="module")
def convolutions() -> Model:
    """Six of 32 channels at 32 x 32 with ReLUs: the fastest sets bootstrap, the smallest has no bootstraps."""
    g = GraphBuilder("convolutions", (3, 32, 32))
    last = "input"
    for i in range(6):
        last = g.add(f"relu{i}", ops.Relu(), g.conv2d(f"conv{i}", last, 32, 3))
    g.linear("fc", g.add("pool", ops.GlobalAvgPool(), last), 4)
    return random_model(g.build(), 0)


def candidates_of(model: Model, **given: Any) -> list[auto.Candidate]:
    """What `compile` looks at."""
    seen: list[auto.Candidate] = []

    def search(*arguments: Any) -> list[auto.Candidate]:
        seen.extend(auto.candidates(*arguments))
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "candidates", search)
        compile(model, **given)
    return seen


def test_memory_is_predicted_without_compiling(model: Model, convolutions: Model) -> None:
    for network, activation in ((model, "square"), (convolutions, None)):
        found = candidates_of(network, activation=activation)
        for candidate in found[:: max(1, len(found) // 4)]:
            plan = compile(network, candidate.params, activation=activation)
            assert candidate.memory == pytest.approx(least(plan), rel=0.03)


def least(plan: Plan) -> int:
    return min(needs.peak_memory for needs in plan.keys.values())


def test_a_limit_of_memory_goes_on_to_slower_sets(convolutions: Model) -> None:
    """Four sets were compiled, the fastest ones, and with all of them too large the limit was said to be impossible."""
    free = compile(convolutions)
    assert least(free) > 4e9
    plan = compile(convolutions, memory=2.75e9)
    assert least(plan) <= 2.75e9
    assert plan.bootstraps == 0
    chosen = {reason.choice: reason for reason in plan.why}
    assert chosen["bootstraps"].reason == "the fastest within the memory limit"
    other = chosen["bootstraps"].alternatives[0]
    assert other.memory is not None
    assert other.memory > 2.75e9
    with pytest.raises(NotEnoughMemoryError, match=rf"the smallest, {plan.params.name}, takes 2,\d\d\d MB"):
        compile(convolutions, memory=2.5e9)


def test_few_sets_are_compiled_where_predictions_miss_a_limit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that was predicted to fit was compiled, and stayed in memory; the smallest of them even twice."""
    found = candidates_of(model, activation="square")
    compiled: list[str] = []
    plan_of = pipeline.Start.plan

    def plan(start: pipeline.Start, params: Any) -> Plan:
        compiled.append(params.name)
        return plan_of(start, params)

    monkeypatch.setattr(pipeline.Start, "plan", plan)
    optimistic = [dataclasses.replace(candidate, memory=candidate.memory // 100) for candidate in found]
    assert len(optimistic) > pipeline.MOST_COMPILED + 1
    for count in (len(optimistic), 2):
        monkeypatch.setattr(pipeline, "candidates", lambda *_, count=count: optimistic[:count])
        compiled.clear()
        with pytest.raises(NotEnoughMemoryError):
            compile(model, activation="square", memory=10**7)
        assert compiled[:2] == [candidate.params.name for candidate in found[:2]]
        assert len(compiled) == len(set(compiled)) <= min(count, pipeline.MOST_COMPILED + 1)


def test_an_error_of_the_network_is_no_reason_to_try_other_sets(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def plan(start: pipeline.Start, params: Any) -> Plan:
        tried.append(params.name)
        raise GraphError("a rule is broken")

    monkeypatch.setattr(pipeline.Start, "plan", plan)
    with pytest.raises(GraphError, match="a rule is broken"):
        compile(model, activation="square")
    assert len(tried) == 1


def test_the_memory_that_is_said_to_be_needed_is_enough(model: Model) -> None:
    with pytest.raises(NotEnoughMemoryError, match="takes") as refused:
        compile(model, activation="square", memory=1e6)
    needed = int(str(refused.value).split("takes ")[1].split(" MB")[0]) * 1e6
    assert least(compile(model, activation="square", memory=needed)) <= needed
    with pytest.raises(NotEnoughMemoryError):
        compile(model, activation="square", memory=needed - 1e6)


def test_keys_above_the_limit_are_not_made(model: Model, tmp_path: Path) -> None:
    free = compile(model, activation="square")
    between = (least(free) + max(needs.peak_memory for needs in free.keys.values())) // 2
    plan = compile(model, activation="square", memory=between)
    assert plan.params == free.params
    for memory in (None, 10**12):  # what is free where keys are made
        assert plan.keys[choose(plan.keys, "auto", memory)].peak_memory <= between
    with pytest.raises(UsageError, match="no fast keys: with them a server takes more memory than this plan"):
        fheinfer.keygen(plan.client, tmp_path / "keys", policy="fast")
    plan.save(tmp_path / "plan")
    assert fheinfer.load_plan(tmp_path / "plan").keys == plan.keys
    fheinfer.keygen(free.client, tmp_path / "fast", policy="fast")  # of the same set
    with pytest.raises(MismatchError, match="these are fast keys and perceptron was compiled for minimal ones"):
        fheinfer.Server().session(plan, tmp_path / "fast" / "server")


def test_reasons_lie_beside_the_plan(model: Model, tmp_path: Path) -> None:
    plan = compile(model, activation="square")
    plan.save(tmp_path / "auto")
    loaded = fheinfer.load_plan(tmp_path / "auto")
    assert loaded.why == plan.why
    assert loaded.identity == plan.identity
    compile(model, plan.params, activation="square", margin=1.3).save(tmp_path / "auto")
    assert fheinfer.load_plan(tmp_path / "auto").why == ()  # of the plan before
    (tmp_path / "auto" / "why.json").write_text("{")
    with pytest.raises(CorruptArtifactError, match=r"why\.json.*delete it"):
        fheinfer.load_plan(tmp_path / "auto")


@pytest.mark.parametrize(
    "given", [{"bits": "8"}, {"bits": True}, {"memory": "6GB"}, {"memory": True}, {"memory": -1}, {"margin": "x"}]
)
def test_what_is_no_number_is_refused(model: Model, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is none"):
        compile(model, **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"log_n": 11}, "12 to 16, not 11"),
        ({"log_n": 17}, "12 to 16, not 17"),
        ({"chain": "weird"}, "one of plain, composite, not 'weird'"),
        ({"digits": -1}, "digits: 1 to 20, not -1"),
        ({"levels": 0}, "levels: 1 to 100, not 0"),
        ({"levels": 3.5}, "levels: 1 to 100, not 3.5"),
        ({"scale_bits": 99}, "bits of the scale: 18 to 47, not 99"),
        ({"scale_bits": 18, "log_n": 13}, r"scale at N = 2\^13: 19 to 47"),
        ({"scale_bits": 40, "chain": "composite"}, "scale on a composite chain: 18 to 25"),
        ({"log_slots": 13, "log_n": 13}, r"slots at N = 2\^13: 1 to 12"),
        ({"chain": "composite", "levels": 5}, "even number of levels, not 5"),
        ({"levels": np.int64(101)}, "levels: 1 to 100"),
        ({"levels": True}, "levels: 1 to 100, not True"),
        ({"bootstraps": "yes"}, "True, False or None"),
        ({"bootstraps": True, "log_n": 13}, "only plain chains"),
        ({"bits": float("nan")}, "bits that encryption keeps are more than 0"),
    ],
)
def test_what_no_set_has_is_refused_with_what_there_is(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Wanted(**given)


def test_integers_of_numpy_are_integers(model: Model, tmp_path: Path) -> None:
    wanted = Wanted(levels=np.int64(5), log_n=np.int32(13))  # type: ignore[arg-type]
    assert wanted == Wanted(levels=5, log_n=13)
    compile(model, activation="square", wanted=wanted).save(tmp_path / "plan")


def of_nodes(*nodes: Node, **tensors: Any) -> Model:
    graph = Graph("network", (Node("x", ops.Input((4,))), *nodes))
    return Model(graph, tensors, (0.0,) * 4, (1.0,) * 4)


def test_a_network_without_products_gets_a_chain_of_one_level() -> None:
    value, x = np.arange(4, dtype=np.float32), np.array([0.5, -0.25, 1.0, 0.0])
    shifted = compile(of_nodes(Node("y", ops.AddConstant("value", (4,)), ("x",)), value=value))
    same = compile(of_nodes(Node("y", ops.Reshape((4,)), ("x",))))
    for plan, expected in ((shifted, x + value), (same, x)):
        assert plan.params.levels <= 2
        assert plan.bits is not None
        found = fheinfer.infer(plan, x)
        assert isinstance(found, np.ndarray)
        assert fheinfer.precision_bits(expected, found).minimum > plan.bits - 1


def squared(*shape: int) -> Model:
    g = GraphBuilder("squared", shape)
    g.add("y", ops.Power(2), "input")
    return random_model(g.build(), 0)


def test_a_row_needs_as_many_slots_as_it_is_long() -> None:
    """Two out of three numbers of slots are too few for this one, which is no reason to refuse it."""
    assert compile(squared(1, 20_000)).params.slots == MOST_SLOTS
    with pytest.raises(
        PlanError, match=r"a row of 4096 pixels needs 4096 slots and there are 2048; .* set of more slots"
    ):
        compile(squared(1, 4096), wanted=Wanted(log_n=12))


def test_a_row_longer_than_the_slots_of_any_set_is_refused_with_how_many_there_are() -> None:
    assert RINGS[-1] == MOST_SLOTS.bit_length()
    with pytest.raises(PlanError, match=r"a row of 44100 pixels .* no set has more than 32768 .*; make the input narr"):
        compile(squared(1, 44_100))


def test_what_fits_no_ring_is_refused_with_the_layer_and_what_to_change(model: Model) -> None:
    says = r"'perceptron' fits no ring .* takes \d+ levels, of which 'relu\d' takes \d+; .* fewer bits than 40"
    with pytest.raises(PlanError, match=says):
        compile(model, wanted=Wanted(bits=40))
