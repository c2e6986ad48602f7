"""Every form of an activation, encrypted on the small ring: the same as on slots, and what the registry says it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.approx import activation
from fheinfer.approx.forms import Quadratic
from fheinfer.compiler.activations import RANGE_MARGIN
from fheinfer.compiler.plan import Plan
from fheinfer.errors import FheinferError, InputError, MismatchError, UnknownSetError, UsageError
from fheinfer.evaluation.ranges import Histogram, Ranges
from fheinfer.model.model import Model
from fheinfer.model.ops import Bootstrap, Relu, Square
from fheinfer.train.replace import replaced
from tests.conftest import NETWORK, TINY, calibrated, random_model, tiny_pixels
from tests.e2e.conftest import Own, smaller_weights

F64 = NDArray[np.float64]
ACTIVATIONS = ("f1g2", "minimax:8", "relu:27", "relu-aq")
SEEDS = range(1000, 1020)


@pytest.fixture(scope="module")
def plans(tiny_model: Model) -> dict[str, Plan]:
    return {name: fheinfer.compile(tiny_model, TINY, activation=name) for name in ACTIVATIONS}


def tiny_input(model: Model, seed: int = 3) -> F64:
    return fheinfer.normalise(tiny_pixels(seed), model.mean, model.std)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_plan_computes_what_the_registry_says(
    tiny_model: Model, plans: dict[str, Plan], tiny_image: F64, name: str
) -> None:
    layers: dict[str, F64] = {}
    fheinfer.run_slots(plans[name], tiny_image, layers=layers)
    relus = [node for node in tiny_model.graph if isinstance(node.op, Relu)]
    assert len(relus) == 7
    for node in relus:
        x, act = layers[node.inputs[0]], activation(name)
        bound = 1.0 if isinstance(act, Quadratic) else tiny_model.ranges[node.name] * RANGE_MARGIN
        assert layers[node.name] == pytest.approx(bound * act.evaluate(x / bound), abs=1e-9 * bound)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_encrypted_equals_slots(plans: dict[str, Plan], own: Callable[[Plan], Own], tiny_image: F64, name: str) -> None:
    plan = plans[name]
    outputs = own(plan).outputs(tiny_image)
    assert fheinfer.precision_bits(fheinfer.run_slots(plan, tiny_image), outputs).minimum > 8
    if name == "minimax:8":  # longer than a bootstrap gives levels for: one stands inside of the composite
        names = [step.name for step in plan.steps if isinstance(step.op, Bootstrap)]
        assert any(name.endswith("/bootstrap") and "/p1/" not in name for name in names)


def test_an_activation_is_part_of_a_plan_and_not_of_its_keys(plans: dict[str, Plan], tiny_plan: Plan) -> None:
    assert {plan.activation for plan in plans.values()} == set(ACTIVATIONS)
    assert {plan.client.identity for plan in plans.values()} == {tiny_plan.client.identity}
    assert len({plan.identity for plan in (*plans.values(), tiny_plan)}) == 5


@pytest.mark.parametrize(
    ("params", "name", "error"),
    [("1+f1", None, UnknownSetError), (TINY, "tanh", UsageError), (TINY, "f1+", UsageError)],
)
def test_names_that_mean_nothing_are_refused(
    tiny_model: Model, params: str, name: str | None, error: type[FheinferError]
) -> None:
    with pytest.raises(error):
        fheinfer.compile(tiny_model, params, activation=name)


def test_a_composite_of_ones_own_runs_encrypted(
    tiny_model: Model,
    tiny_model_file: Path,
    tiny_image_file: Path,
    tiny_image: F64,
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Generated, compiled by its file, keys made, an image encrypted, evaluated, decrypted: six commands."""
    pytest.importorskip("mpmath")
    monkeypatch.chdir(tmp_path)
    commands: list[tuple[object, ...]] = [
        ("approx", "generate", "--degrees", "3,5", "--eta", "0.1", "--guard", "2^-6", "-o", "mine.json"),
        ("compile", tiny_model_file, "--set", TINY, "--act", "mine.json", "-o", "plan"),
        ("keygen", "plan/client.json", "-o", "keys"),
        ("encrypt", "--keys", "keys", "--image", tiny_image_file, "-o", "x.ct"),
        ("evaluate", "--keys", "keys/server", "--plan", "plan", "-i", "x.ct", "-o", "y.ct"),
        ("decrypt", "y.ct", "--keys", "keys", "--request", "x.ct", "--decimals", "9", "--json"),
    ]
    for arguments in commands:
        result = command(*arguments)
        assert result.code == 0, (arguments, result.err)
    plan = fheinfer.load_plan(tmp_path / "plan")
    assert plan.activation == "mine.json"
    act = activation("mine.json")
    layers: dict[str, F64] = {}
    expected = fheinfer.run_slots(plan, tiny_image, layers=layers)
    for node in tiny_model.graph.activations:
        bound = tiny_model.ranges[node.name] * RANGE_MARGIN
        assert layers[node.name] == pytest.approx(
            bound * act.evaluate(layers[node.inputs[0]] / bound), abs=1e-9 * bound
        )
    assert fheinfer.precision_bits(expected, np.array(json.loads(result.out)["logits"])).minimum > 8


@pytest.mark.parametrize("text", ["{}", "[", None], ids=["empty", "cut", "none"])
def test_a_composite_that_cannot_be_read(tiny_model: Model, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"mine\.json"):
        fheinfer.compile(tiny_model, TINY, activation=str(path))


def ranges_of(model: Model) -> Ranges:
    """As if measured on images that reach exactly the ranges the model names."""
    found = {name: Histogram(bin_range=bound, largest=bound) for name, bound in model.ranges.items()}
    return Ranges(model.name, model.identity, 1, RANGE_MARGIN, found)


def check_scales(plan: Plan, layers: dict[str, F64]) -> None:
    """Values are as large as the set allows, and no larger."""
    most = plan.params.max_slot
    for step in plan.steps:
        scale = np.asarray(step.scale).reshape(-1, *(1,) * (layers[step.name].ndim - 1))
        ratio = layers[step.name] / scale
        largest = np.abs(ratio[np.isfinite(ratio)]).max()
        if isinstance(step.op, Square):
            assert most < largest <= most**2 or most == 1
        if step.name == plan.steps[-1].name:
            assert largest <= most**2


@pytest.mark.parametrize(
    ("network", "name", "bootstraps"),
    [
        ("resnet8-tiny-herpn", TINY, True),
        ("resnet8-tiny-turbo", "insecure-tiny-turbo", False),
        ("resnet8-tiny+f1g2", TINY, True),
    ],
)
def test_polynomial_networks_run_encrypted(
    own: Callable[[Plan], Own], network: str, name: str, bootstraps: bool
) -> None:
    """With bootstraps on a chain of set 1, and on a chain of short primes without."""
    pytest.importorskip("torch")
    if "+" in network:
        tame = calibrated(random_model(NETWORK, 2), SEEDS)
        model = replaced(tame, "f1g2", ranges_of(tame), tune=False)
    else:
        model = calibrated(smaller_weights(network, 2), SEEDS)
    image = tiny_input(model)
    plan = fheinfer.compile(model, name)
    assert (plan.bootstraps > 0) == bootstraps
    layers: dict[str, F64] = {}
    expected = fheinfer.run_slots(plan, image, layers=layers)
    exact = fheinfer.plain_layers(model, image)
    for node in model.graph.activations:  # polynomials already: nothing is approximated
        found = layers[node.name]
        assert found == pytest.approx(exact[node.name], abs=1e-8 * np.abs(found).max())
    assert expected == pytest.approx(exact["fc"], abs=1e-8 * np.abs(expected).max())
    check_scales(plan, layers)

    served = own(plan)
    assert fheinfer.precision_bits(expected, served.outputs(image)).minimum > 8
    check_two_inputs(served, image, tiny_input(model, 4))


def check_two_inputs(served: Own, first: F64, second: F64) -> None:
    """Plans without bootstraps and series take two inputs at a time, and nothing but inputs."""
    inputs = [served.client.encrypt(x) for x in (first, second)]
    if {"bootstrap", "chebyshev"} & {step.op.kind for step in served.plan.steps}:
        with pytest.raises(UsageError, match="one input at a time"):
            served.session.evaluate_two(*inputs)
        return
    results = served.session.evaluate_two(*inputs)
    for given, encrypted, result in zip((first, second), inputs, results, strict=True):
        outputs = served.client.decrypt(result, request=encrypted)
        assert fheinfer.precision_bits(fheinfer.run_slots(served.plan, given), outputs).minimum > 8
    with pytest.raises(MismatchError):
        served.session.evaluate_two(inputs[0], results[1])


@pytest.mark.parametrize(
    ("network", "act", "bits"),
    [("resnet8-tiny-silu", None, 6), ("vgg3-tiny", "relu:27", 4), ("vgg3-tiny-mean", None, 6)],
)
def test_smooth_activations_and_pools_run_encrypted(
    own: Callable[[Plan], Own], network: str, act: str | None, bits: float
) -> None:
    pytest.importorskip("torch")
    model = calibrated(random_model(network, 2), SEEDS)
    image = tiny_input(model)
    plan = fheinfer.compile(model, TINY, activation=act)
    expected = fheinfer.run_slots(plan, image)
    assert fheinfer.precision_bits(expected, own(plan).outputs(image)).minimum > 12
    assert fheinfer.precision_bits(fheinfer.plain_outputs(model, image), expected).minimum > bits


def test_max_pool_is_as_exact_as_its_comparisons() -> None:
    pytest.importorskip("torch")
    model = calibrated(random_model("vgg3-tiny", 2), SEEDS)
    image = tiny_input(model)
    exact = fheinfer.plain_outputs(model, image)
    plans = [fheinfer.compile(model, 2, activation=f"minimax:{alpha}") for alpha in (6, 11)]
    coarse, fine = (fheinfer.precision_bits(exact, fheinfer.run_slots(plan, image)) for plan in plans)
    assert fine.minimum > 8 > coarse.minimum > 3
