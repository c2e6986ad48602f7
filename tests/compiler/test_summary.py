"""`print(plan)`: what a run will take, before it runs."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fheinfer
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.summary import summary
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from tests.crypto.specs import an_input, an_output, spec


def test_a_plan_prints_what_it_takes(tiny_plan: Plan) -> None:
    text = str(tiny_plan)
    needs = tiny_plan.keys["fast"]
    assert text.startswith(f"resnet8-tiny, plan {tiny_plan.identity[:16]}\n")
    for part in (
        "N = 2^11, 512 slots",
        "below 128 bits",
        "normalisation of pixels between 0 and 1, mean 0.",
        "3x8x8, 1 ciphertext at level",
        "fc: 10 classes, 1 ciphertext",
        f"{len(tiny_plan.steps)} steps, {tiny_plan.bootstraps} bootstraps",
        tiny_plan.activation,
        f"{len(needs.rotations)} rotation keys",
        "on this machine",
        "encryption is expected to leave",
    ):
        assert part in text, part
    assert all(len(line) < 140 for line in text.splitlines())


@pytest.fixture(autouse=True)
def _small_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHEINFER_ALLOW_INSECURE", "1")


def test_several_ciphertexts_and_outputs_are_said() -> None:
    wide = spec(
        input=an_input(ciphertexts=3),
        outputs=(an_output("box", 6, 2, classes=()), an_output(final="log_softmax")),
    )
    text = summary(wide, activation="", steps=9, bootstraps=0, multiplications=12_345, widest=4, bits=9.25)
    for part in (
        "3 ciphertexts at level 4",
        "box: 6, 2 ciphertexts",
        "fc: 5 classes, 1 ciphertext, log-softmax by the client",
        "12,345 products",
        "values of up to 4 ciphertexts",
        "encryption is expected to leave 9.2 bits of the worst output",
    ):
        assert part in text, part
    assert "activations" not in text
    assert "polynomials" not in text


@pytest.mark.parametrize(("activation", "next_"), [("relu:3", 5), ("relu:127", 8), ("relu:511", None)])
def test_polynomials_that_are_coarser_than_encryption_are_said(activation: str, next_: int | None) -> None:
    plan = compile(network("relu"), activation=activation)
    assert plan.kept is not None
    assert plan.bits is not None
    assert (plan.kept < plan.bits) == (next_ is not None)
    text = str(plan)
    assert f"{activation}: degree {activation[5:]} in 'relu'" in text
    assert re.findall(r"of PyTorch's outputs: bits=(\d+) asks for more", text) == ([str(next_)] if next_ else [])
    assert "polynomials are expected to leave" in text


@pytest.mark.parametrize(
    ("kind", "bits", "more"), [("relu", 5, 8), ("tanh", 5, 8), ("relu", 8, 11), ("relu", 11, None)]
)
def test_a_plan_names_the_next_bits_and_never_those_it_was_made_for(kind: str, bits: int, more: int | None) -> None:
    text = str(compile(network(kind), bits=bits))
    assert re.findall(r"bits=(\d+) asks for more", text) == ([str(more)] if more else [])


def test_what_approximates_no_relu_is_not_named() -> None:
    plan = compile(network("tanh"))
    assert plan.activation == ""
    assert re.search(r"activations +degree \d+ in 'tanh'", str(plan))


def test_outputs_keep_what_the_polynomials_are_expected_to_leave() -> None:
    for kind, activation in (("relu", "relu:15"), ("relu", "relu:127"), ("tanh", None)):
        model = network(kind)
        plan = compile(model, activation=activation)
        inputs = np.random.default_rng(2).uniform(-1, 1, (20, 8))
        bits = [
            fheinfer.precision_bits(fheinfer.plain_outputs(model, x), fheinfer.run_slots(plan, x)).minimum
            for x in inputs
        ]
        assert plan.kept is not None
        assert np.median(bits) > plan.kept > 0, kind


def network(kind: str) -> Model:
    """Two linear layers with an activation of that name between them."""
    rng = np.random.default_rng(1)
    nodes = (
        Node("x", ops.Input((8,))),
        Node("first", ops.Linear(16, "w", "b"), ("x",)),
        Node(kind, ops.Relu() if kind == "relu" else ops.Tanh(), ("first",)),
        Node("second", ops.Linear(4, "v", "c"), (kind,)),
    )
    shapes = {"w": (16, 8), "b": (16,), "v": (4, 16), "c": (4,)}
    tensors = {name: (rng.normal(size=shape) / 3).astype(np.float32) for name, shape in shapes.items()}
    return Model(Graph("small", nodes), tensors, (0.0,) * 8, (1.0,) * 8, ranges={kind: 3.0})
