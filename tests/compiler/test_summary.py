"""`print(plan)`: what a run will take, before it runs."""

from __future__ import annotations

import pytest

from fheinfer.compiler.plan import Plan
from fheinfer.compiler.summary import summary
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
