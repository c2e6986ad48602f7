"""`fheinfer compile` with what a chosen set has to keep to, and `fheinfer plan --why`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.compiler.test_auto import perceptron


def test_choices_are_made_by_hand_and_explained(command: Callable[..., Any], tmp_path: Path) -> None:
    perceptron(12, 8, 3).save(tmp_path / "small.safetensors")
    small = (tmp_path / "small.safetensors", "--act", "square")
    made = command("compile", *small, "--ring", 13, "--scale-bits", 24, "-o", tmp_path / "plan", "--json")
    assert made.code == 0, made.err
    found = json.loads(made.out)
    assert found["set"].startswith("n13-")
    assert "-s24" in found["set"]
    assert "why.json" in found["files"]

    why = command("plan", "--plan", tmp_path / "plan", "--why")
    assert why.code == 0, why.err
    assert "ring: N = 2^13 (as asked" in why.out
    reasons = json.loads(command("plan", "--plan", tmp_path / "plan", "--why", "--json").out)
    assert {"ring", "digits", "levels"} <= {reason["choice"] for reason in reasons}


def test_what_a_named_set_fixes_is_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    perceptron(12, 8, 3).save(tmp_path / "small.safetensors")
    small = (tmp_path / "small.safetensors", "--act", "square", "--set", "n13-l5-s25-d6")
    refused = command("compile", *small, "--ring", 13, "-o", tmp_path / "plan")
    assert refused.code == 2
    assert "--ring" in refused.err
    assert not (tmp_path / "plan").exists()
    named = command("compile", *small, "-o", tmp_path / "plan")
    assert named.code == 0, named.err
    assert not (tmp_path / "plan" / "why.json").exists()
    why = command("plan", "--plan", tmp_path / "plan", "--why")
    assert why.code == 2
    assert "--set auto" in why.err


def test_plan_takes_the_bits_that_compile_takes(command: Callable[..., Any], tmp_path: Path) -> None:
    perceptron(12, 8, 3).save(tmp_path / "small.safetensors")
    small = ("--model", tmp_path / "small.safetensors", "--bits", 5)
    found = command("plan", *small, "--json")
    assert found.code == 0, found.err
    compiled = command("compile", tmp_path / "small.safetensors", "--bits", 5, "-o", tmp_path / "plan", "--json")
    assert json.loads(found.out)["identity"] == json.loads(compiled.out)["identity"]
    refused = command("keygen", tmp_path / "plan" / "client.json", "--bits", 5, "-o", tmp_path / "keys")
    assert refused.code == 2
    assert "--bits" in refused.err
