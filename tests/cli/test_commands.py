"""Every command on the small network: what it prints, for people and for machines, and the files it leaves."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.cli import plan as plan_cli
from fheinfer.crypto.keystore import Manifest
from fheinfer.crypto.params import parameter_sets
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.model.model import Weights

Command = Callable[..., Any]
SET = ("--set", "insecure-tiny")
WEIGHTS = ("--weights", "tiny.safetensors")


def parsed(result: Any) -> Any:
    assert result.code == 0, result.err
    assert "error" not in result.err
    return json.loads(result.out)


def test_sets(command: Command) -> None:
    rows = parsed(command("sets", "--json"))
    assert [row["set"] for row in rows] == [p.name for p in parameter_sets()]
    assert all(row["log_qp"] <= 1747 and row["key_bytes"] > 5e8 and row["seconds"] > 0 for row in rows)
    assert {row["set"]: row["prime_bits"] for row in rows}.items() >= {"1": "49/47", "turbo": "35/2x25"}.items()


def test_sets_say_what_their_security_rests_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_cli, "parameter_sets", lambda: parameter_sets()[:1])
    shown = command("sets")
    assert shown.code == 0
    words = " ".join(shown.out.split())
    assert "128 bits" in words
    assert "ephemeral secret of weight 32" in words
    assert "insecure" not in words


def test_plan(command: Command, desk: Any) -> None:
    made = parsed(command("plan", *SET, *WEIGHTS, "--json"))
    assert (made["network"], made["set"], made["bootstraps"]) == ("resnet8-tiny", "insecure-tiny", 7)
    assert [step["name"] for step in made["steps"]][:3] == ["bn1", "relu1/bootstrap", "relu1"]
    assert made["prediction"]["key_bytes"] > 0
    assert set(made["policies"]) == {"minimal", "fast"}
    assert made["policies"][made["keys"]] == made["prediction"]
    few = parsed(command("plan", *SET, *WEIGHTS, "--keys", "minimal", "--json"))
    assert few["keys"] == "minimal"
    assert few["prediction"] == made["policies"]["minimal"]
    shown = command("plan", "--set", "1", "--network", "resnet20", "--keys", "fast")
    assert shown.code == 0
    assert "19 bootstraps" in shown.out
    assert "minimal" in shown.out
    assert "fast, shown" in shown.out
    assert "layer3.2.relu2" in shown.out


def test_keygen(command: Command, tmp_path: Path) -> None:
    arguments = ("keygen", *SET, "-o", tmp_path / "keys", "--network", "resnet8-tiny", "--keys", "minimal")
    first = parsed(command(*arguments, "--json"))
    folder = tmp_path / "keys" / "setinsecure-tiny"
    assert first["policy"] == Manifest.load(folder / "server" / "manifest.json").policy == "minimal"
    assert first["folder"] == str(folder)
    assert (
        first["bytes"]
        == sum(first["files"].values())
        == sum(p.stat().st_size for p in (folder / "server").iterdir() if p.suffix == ".key")
    )
    assert stat.S_IMODE((folder / "secret" / "secret.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o700
    assert command(*arguments).code == 5
    second = command(*arguments, "--force")
    assert second.code == 0
    assert "rotation keys" in second.out
    assert fheinfer.Client(folder).key_id != first["key_id"]
    assert [p.name for p in (tmp_path / "keys").iterdir()] == ["setinsecure-tiny"]


def test_encrypt_evaluate_decrypt(command: Command, desk: Any, tiny_plan: fheinfer.Plan, tiny_picture: Any) -> None:
    """Three commands that share files; each party only its own folder."""
    elsewhere = desk.folder / "server elsewhere"
    shutil.copytree(desk.server, elsewhere)
    assert command("encrypt", *SET, *WEIGHTS, "--image", "tiny.png", "-o", "in.ct").code == 0
    desk.secret.parent.rename(desk.folder / "away")
    done = command("evaluate", "--keys", elsewhere, *WEIGHTS, "-i", "in.ct", "-o", "out.ct", "--threads", 2)
    assert done.code == 0
    assert done.out == ""
    assert "peak memory" in done.err
    (desk.folder / "away").rename(desk.secret.parent)
    made = parsed(command("decrypt", *SET, "out.ct", "--json"))
    clear = fheinfer.run_slots(tiny_plan, tiny_picture)
    assert precision_bits(clear, made["logits"]).minimum > 15
    assert made["index"] == int(clear.argmax())
    assert sum(made["probabilities"]) == pytest.approx(1)
    assert {p.name for p in desk.folder.iterdir() if p.suffix == ".ct"} == {"in.ct", "out.ct"}


def test_infer(command: Command, desk: Any, tiny_weights: Weights) -> None:
    pytest.importorskip("torch")
    made = parsed(command("infer", *SET, *WEIGHTS, "--image", "tiny.png", "--plain", "--json"))
    assert len(made["logits"]) == 10
    assert made["plain"]["agrees"] is True
    assert made["plain"]["worst_bits"] > 4
    assert {"encrypt", "load keys", "evaluate", "decrypt"} <= set(made["seconds"])
    assert min(made["memory"]["client"], made["memory"]["server"]) > 50e6
    assert min(made["bytes"].values()) > 1000
    assert not list(desk.folder.glob("runs/*"))


def test_infer_for_people(command: Command, desk: Any) -> None:
    shown = command("infer", *SET, *WEIGHTS, "--image", "tiny.png", "--keep", "-v")
    assert shown.code == 0
    assert "class: " in shown.out
    assert "layer3.0.relu2" in shown.out + shown.err
    for what in ("time:", "memory:", "bytes:"):
        assert what in shown.out
    (run,) = (desk.folder / "runs").iterdir()
    assert {"input.ct", "result.ct", "block.ct"} <= {p.name for p in run.iterdir()}
    # What was kept can be resumed: it does the last block alone, and cleans up.
    again = command("infer", *SET, *WEIGHTS, "--image", "tiny.png", "--resume", "-v")
    assert again.code == 0
    assert "layer3.0.relu1" not in again.out + again.err
    assert not run.exists()


def test_infer_in_clear_needs_no_keys(command: Command, desk: Any, tiny_plan: fheinfer.Plan, tiny_picture: Any) -> None:
    shutil.rmtree(desk.keys)
    made = parsed(command("infer", *SET, *WEIGHTS, "--image", "tiny.png", "--backend", "slots", "--json"))
    assert np.allclose(made["logits"], fheinfer.run_slots(tiny_plan, tiny_picture))


def test_precision(command: Command, desk: Any, tiny_plan: fheinfer.Plan) -> None:
    pytest.importorskip("torch")
    rows = parsed(command("precision", *SET, *WEIGHTS, "--image", "tiny.png", "--plot", "bits.png", "--json"))
    assert [row["step"] for row in rows] == [step.name for step in tiny_plan.steps]
    assert all(row["slots_minimum"] > 6 for row in rows)
    assert (desk.folder / "bits.png").read_bytes().startswith(b"\x89PNG")
    assert not list(desk.folder.glob("runs/*"))


def test_export(command: Command, desk: Any, tiny_input_file: Path) -> None:
    done = command("export", "out", *SET, "--ciphertext", tiny_input_file)
    assert done.code == 0
    assert sorted(p.name for p in (desk.folder / "out").iterdir()) == ["context.bin", "input.bin", "public.bin"]
    assert [Path(line).name for line in done.out.splitlines()] == ["context.bin", "public.bin", "input.bin"]
    assert command("export", "secret", *SET, "--secret").code == 0
    assert stat.S_IMODE((desk.folder / "secret" / "secret.bin").stat().st_mode) == 0o600


def test_weights(command: Command, desk: Any, tiny_weights: Weights) -> None:
    shown = parsed(command("weights", "show", "tiny.safetensors", "--json"))
    assert shown["identity"] == tiny_weights.identity
    assert shown["ranges"] == pytest.approx(dict(tiny_weights.ranges))
    assert "layer1.0.relu1" in command("weights", "show", "tiny.safetensors").out
    np.savez(desk.folder / "plain.npz", **tiny_weights.arrays)  # type: ignore[arg-type]
    done = command("weights", "import", "plain.npz", "-o", "imported.safetensors", "--network", "resnet8-tiny")
    assert done.code == 0
    assert "no activation ranges" in done.out
    assert fheinfer.load_weights(desk.folder / "imported.safetensors").arrays.keys() == tiny_weights.arrays.keys()


def test_the_module_is_the_command(process: Command) -> None:
    result = process("--help")
    assert result.code == 0
    for name in (
        "sets",
        "plan",
        "keygen",
        "encrypt",
        "evaluate",
        "decrypt",
        "infer",
        "precision",
        "export",
        "train",
        "finetune",
        "calibrate",
        "weights",
    ):
        assert name in result.out
