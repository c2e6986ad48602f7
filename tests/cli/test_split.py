"""A split model by commands: the client has its layers, the server has not, and accuracy is told of the plan."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from tests.conftest import TINY, Result

Command = Callable[..., Result]


@pytest.fixture
def plan(tiny_model: Any, tiny_model_file: Path, command: Command, tmp_path: Path) -> Path:
    until = tiny_model.graph.activations[0].name
    given = ("--set", TINY, "--client-until", until, "-o", tmp_path / "plan", "--json")
    done = command("compile", tiny_model_file, *given)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["client_until"] == until
    assert found["files"].keys() == {"plan.safetensors", "client.json", "client.safetensors"}
    return tmp_path / "plan"


def test_by_files_between_client_and_server(
    plan: Path, command: Command, tiny_model: Any, tiny_image: Any, tiny_image_file: Path, tmp_path: Path
) -> None:
    keys, server = tmp_path / "keys", tmp_path / "server"
    assert command("keygen", plan / "client.json", "-o", keys).code == 0
    assert (keys / "client.safetensors").read_bytes() == (plan / "client.safetensors").read_bytes()
    shutil.copytree(keys / "server", server)
    shutil.copy(plan / "plan.safetensors", server)
    done = command("encrypt", "--keys", keys, "--image", tiny_image_file, "-o", tmp_path / "in.ct")
    assert done.code == 0, done.err
    given = ("--plan", server / "plan.safetensors", "--keys", server, "-i", tmp_path / "in.ct")
    done = command("evaluate", *given, "-o", tmp_path / "out.ct")
    assert done.code == 0, done.err
    done = command("decrypt", "--keys", keys, tmp_path / "out.ct", "--request", tmp_path / "in.ct", "--json")
    assert done.code == 0, done.err
    found, clear = json.loads(done.out)["logits"], fheinfer.plain_outputs(tiny_model, tiny_image)
    assert np.abs(found - clear).max() < 0.2 * np.abs(clear).max()


def test_accuracy_of_a_plan_encrypted(
    plan: Path, tiny_model_file: Path, mosaics: Path, command: Command, tmp_path: Path
) -> None:
    assert command("keygen", plan / "client.json", "-o", tmp_path / "keys").code == 0
    given = ("--plan", plan, "--model", tiny_model_file, "--data", mosaics, "--limit", 3, "--json")
    done = command("accuracy", "--mode", "encrypted", "--keys", tmp_path / "keys", "--runs", tmp_path / "runs", *given)
    assert done.code == 0, done.err
    assert json.loads(done.out)["bits"]["median"] > 8


@pytest.mark.parametrize("mode", ["approx", "simulate"])
def test_accuracy_of_a_plan(plan: Path, tiny_model_file: Path, mosaics: Path, command: Command, mode: str) -> None:
    given = ("--plan", plan, "--model", tiny_model_file, "--data", mosaics, "--limit", 20, "--json")
    done = command("accuracy", "--mode", mode, *given)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["set"], found["images"]) == (TINY, 20)
    whole = json.loads(command("accuracy", "--mode", mode, "--set", TINY, *given[2:]).out)
    assert len(found["reached"]) == len(whole["reached"]) - 1


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "--plan DIR goes with --model FILE"),
        (["--model", "MODEL", "--set", TINY], "part of the plan"),
        (["--model", "MODEL", "--mode", "clear"], "in clear the model is evaluated"),
        (["--model", "OTHER"], "the plan is one of"),
        (["--model", "RETRAINED"], "with other weights than"),
    ],
)
def test_accuracy_of_a_plan_needs_its_model(
    arguments: list[object],
    says: str,
    plan: Path,
    tiny_model: Any,
    tiny_model_file: Path,
    mosaics: Path,
    command: Command,
    tmp_path: Path,
) -> None:
    retrained = {name: array * np.float32(1.1) for name, array in tiny_model.tensors.items()}
    dataclasses.replace(tiny_model, tensors=retrained).save(tmp_path / "retrained.safetensors")
    files: dict[object, object] = {
        "RETRAINED": tmp_path / "retrained.safetensors",
        "MODEL": tiny_model_file,
        "OTHER": Path(__file__).parents[2] / "weights" / "resnet20.safetensors",
    }
    done = command("accuracy", "--plan", plan, "--data", mosaics, *(files.get(a, a) for a in arguments))
    assert done.code != 0
    assert says in done.err
    assert done.err.count("\n") == 1
