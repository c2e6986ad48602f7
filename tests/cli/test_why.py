"""`fheinfer compile` with what a chosen set has to keep to, and `fheinfer plan --why`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    assert "activation: square" in why.out
    assert " MB, set n13-" in why.out
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


def test_keys_for_so_many_bits_serve_a_run_for_as_many(command: Callable[..., Any], tmp_path: Path) -> None:
    perceptron(12, 8, 3).save(tmp_path / "small.safetensors")
    np.save(tmp_path / "x.npy", np.zeros(12))
    options = ("--model", tmp_path / "small.safetensors", "--set", "insecure-tiny", "--bits", 8)
    made = command("keygen", *options, "-o", tmp_path / "keys")
    assert made.code == 0, made.err
    run = command("infer", *options, "--input", tmp_path / "x.npy", "--keys", tmp_path / "keys", "--json")
    assert run.code == 0, run.err


def test_chain_slots_and_bootstraps_are_choices(command: Callable[..., Any], tmp_path: Path) -> None:
    perceptron(12, 8, 3).save(tmp_path / "small.safetensors")
    given = ("--act", "square", "--chain", "composite", "--slots", 1024, "--no-bootstraps")
    made = command("compile", tmp_path / "small.safetensors", *given, "-o", tmp_path / "plan", "--json")
    assert made.code == 0, made.err
    assert re.fullmatch(r"n1\d-l\d+-s\d+c-d\d-w10", json.loads(made.out)["set"])
    why = command("plan", "--plan", tmp_path / "plan", "--why").out
    for line in ("chain: composite primes (as asked)", "slots: 1024 (as asked)", "bootstraps: 0 (as asked)"):
        assert line in why


def test_plan_keeps_to_the_limits_that_compile_keeps_to(command: Callable[..., Any], tmp_path: Path) -> None:
    perceptron(12, 8, 3).save(tmp_path / "small.safetensors")
    limits = ("--act", "square", "--ring", 14, "--memory", "1GB")
    shown = json.loads(command("plan", "--model", tmp_path / "small.safetensors", *limits, "--json").out)
    compiled = command("compile", tmp_path / "small.safetensors", *limits, "-o", tmp_path / "plan", "--json")
    assert shown["identity"] == json.loads(compiled.out)["identity"]
    assert shown["params"]["log_n"] == 14
