"""An input over several ciphertexts, and several outputs: encrypted, by files, with checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.artifact import to_bytes
from fheinfer.crypto.ciphertexts import open_ciphertexts, seal
from fheinfer.errors import CorruptArtifactError, MismatchError
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from fheinfer.runtime.executor import StepDone
from tests.e2e.conftest import F64, Interruption

torch = pytest.importorskip("torch")

SHAPE = (3, 16, 16)
"""768 values: the sets of tests have 512 slots."""


def network() -> Graph:
    nodes = [
        Node("x", ops.Input(SHAPE)),
        Node("conv1", ops.Conv2d(4, 3, 2, 1, "conv1.weight", "conv1.bias"), ("x",)),
        Node("square1", ops.Power(2), ("conv1",)),
        Node("conv2", ops.Conv2d(4, 3, 2, 1, "conv2.weight", "conv2.bias"), ("square1",)),
        Node("square2", ops.Power(2), ("conv2",)),
        Node("box", ops.Linear(4, "box.weight", "box.bias"), ("square2",)),
        Node("fc", ops.Linear(5, "fc.weight", "fc.bias"), ("square2",)),
    ]
    return Graph("two-heads", tuple(nodes), ("box", "fc"))


@pytest.fixture(scope="module")
def model() -> Model:
    rng = np.random.default_rng(4)
    graph = network()
    tensors = {
        name: rng.normal(0, max(1, math.prod(shape[1:])) ** -0.5, shape).astype(np.float32)
        for name, shape in graph.tensor_shapes().items()
    }
    return Model(graph, tensors, (0.0,) * 3, (1.0,) * 3).calibrate(images(64))


def images(count: int) -> F64:
    return np.random.default_rng(9).uniform(-1, 1, (count, *SHAPE))


@pytest.fixture(scope="module")
def plan(model: Model) -> Plan:
    return fheinfer.compile(model, "insecure-tiny-turbo")


@pytest.fixture(scope="module")
def keys(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "keys"
    fheinfer.keygen(plan.client, folder)
    return folder


@pytest.fixture(scope="module")
def client(plan: Plan, keys: Path) -> fheinfer.Client:
    return fheinfer.Client(keys, plan.client)


@pytest.fixture(scope="module")
def session(plan: Plan, keys: Path) -> Any:
    return fheinfer.Server().session(plan, keys / "server")


def near(found: dict[str, F64], expected: dict[str, F64], part: float = 0.02) -> None:
    assert list(found) == ["box", "fc"]
    for name, exact in expected.items():
        assert np.abs(found[name] - exact).max() < part * np.abs(exact).max(), name


def test_every_output_is_that_of_pytorch(plan: Plan, client: fheinfer.Client, session: Any, model: Model) -> None:
    assert plan.client.input.ciphertexts == 2
    x = images(1)[0]
    encrypted = client.encrypt(x)
    assert len(open_ciphertexts(encrypted, client.params, client.backend, client.key_id).bodies) == 2
    found = client.decrypt(session.evaluate(encrypted), request=encrypted)
    near(fheinfer.run_slots(plan, x), fheinfer.plain_outputs(model, x), 1e-6)
    near(found, fheinfer.plain_outputs(model, x))


def test_two_inputs_at_a_time(plan: Plan, client: fheinfer.Client, session: Any) -> None:
    assert session.two_inputs
    one, other = images(2)
    requests = [client.encrypt(x) for x in (one, other)]
    results = session.evaluate_two(*requests)
    for x, request, result in zip((one, other), requests, results, strict=True):
        near(client.decrypt(result, request=request), fheinfer.run_slots(plan, x))


def test_exchanged_and_missing_ciphertexts_of_an_input(plan: Plan, client: fheinfer.Client, session: Any) -> None:
    x = images(1)[0]
    encrypted = client.encrypt(x)
    found = open_ciphertexts(encrypted, client.params, client.backend, client.key_id)

    def again(*order: int) -> bytes:
        bodies = [found.bodies[i] for i in order]
        return to_bytes(seal(client.params, client.backend, client.key_id, found.metadata, bodies))

    assert again(0, 1) == encrypted
    for order in ((0,), (0, 1, 1)):
        with pytest.raises(MismatchError, match=r"where the plan has 2"):
            session.evaluate(again(*order))
    with pytest.raises(MismatchError, match="another request"):  # the exchanged input is another one
        client.decrypt(session.evaluate(again(1, 0)), request=encrypted)
    with pytest.raises(CorruptArtifactError):
        session.evaluate(encrypted[:-1])


def test_a_run_resumes_with_every_value_that_is_alive(
    plan: Plan, client: fheinfer.Client, session: Any, tmp_path: Path
) -> None:
    x = images(1)[0]
    encrypted = client.encrypt(x)
    seen: list[str] = []

    def stop(done: StepDone) -> None:
        seen.append(done.step.name)
        if done.step.name == "box":
            raise Interruption

    with pytest.raises(Interruption):
        session.evaluate(encrypted, observer=stop, checkpoints=tmp_path)
    again: list[str] = []
    result = session.evaluate(
        encrypted, observer=lambda done: again.append(done.step.name), checkpoints=tmp_path, resume=True
    )
    assert len(again) < len(plan.steps)
    near(client.decrypt(result, request=encrypted), fheinfer.run_slots(plan, x))


def test_both_roles_in_one_call(plan: Plan, keys: Path) -> None:
    xs = images(2)
    found = fheinfer.infer(plan, xs, keys=keys)
    assert {name: value.shape for name, value in found.items()} == {"box": (2, 4), "fc": (2, 5)}
    near({name: value[1] for name, value in found.items()}, fheinfer.run_slots(plan, xs[1]))
