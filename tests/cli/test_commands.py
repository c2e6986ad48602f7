"""Every command on the small network: what it prints, for people and for machines, and the files it leaves."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.crypto import params as sets
from fheinfer.crypto.manifest import Manifest
from fheinfer.evaluation.metrics import precision_bits
from tests.cli.conftest import Desk

Command = Callable[..., Any]
SET = ("--set", "insecure-tiny")
MODEL = ("--model", "tiny.safetensors")


def parsed(result: Any) -> Any:
    assert result.code == 0, result.err
    assert "error" not in result.err
    return json.loads(result.out)


def test_sets(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    few = sets.parameter_sets()[:1] + tuple(s for s in sets.parameter_sets() if s.name == "turbo")
    monkeypatch.setattr(sets, "parameter_sets", lambda: few)
    rows = parsed(command("sets", "--json"))
    assert [row["set"] for row in rows] == ["1", "turbo"]
    assert all(row["log_qp"] <= 1747 and row["key_bytes"] > 1e8 and row["seconds"] > 0 for row in rows)
    assert {row["set"]: row["prime_bits"] for row in rows} == {"1": "49/47", "turbo": "35/2x25"}
    assert {row["set"]: row["security_bits"] for row in rows} == {"1": "141.8", "turbo": "133.3"}
    shown = command("sets")
    assert shown.code == 0
    words = " ".join(shown.out.split())
    for what in ("128 bits", "ephemeral secret of weight 32", "classical attackers", "MATZOV", "for this machine"):
        assert what in words
    assert "insecure" not in words


def test_a_cache_that_cannot_be_written_stops_no_command(
    process: Callable[..., Any], desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "file").touch()
    for cache in ("/proc/nope", str(tmp_path / "file")):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        done = process("plan", *SET, *MODEL, "--json", cwd=desk.folder)
        assert parsed(done)["model"] == "resnet8-tiny"
        assert list((tmp_path / "temporary").iterdir()) == []  # the plan was there meanwhile


def test_plan(command: Command, desk: Desk) -> None:
    found = parsed(command("plan", *SET, *MODEL, "--json"))
    assert (found["model"], found["set"], found["bootstraps"]) == ("resnet8-tiny", "insecure-tiny", 7)
    assert [step["name"] for step in found["steps"]][:3] == ["bn1", "relu1/bootstrap", "relu1"]
    assert set(found["predictions"]) == {"minimal", "fast"}
    assert all(p["key_bytes"] > 0 and p["seconds"] > 0 for p in found["predictions"].values())
    assert found == {**parsed(command("plan", "--plan", "plan", "--json")), "rotations": found["rotations"]}
    assert parsed(command("plan", *SET, *MODEL, "--rotations", "minimal", "--json"))["rotations"] == "minimal"
    shown = command("plan", "--set", "insecure-tiny", "--network", "resnet8-tiny", "--rotations", "fast")
    assert shown.code == 0
    for what in ("7 bootstraps", "minimal", "fast, shown", "layer3.0.relu2", "this machine"):
        assert what in shown.out


def test_compile(command: Command, desk: Desk, tiny_plan: fheinfer.Plan) -> None:
    found = parsed(command("compile", "tiny.safetensors", *SET, "--json"))
    folder = desk.folder / "plans" / "resnet8-tiny-insecure-tiny"
    assert Path(found["folder"]) == folder.relative_to(desk.folder)
    assert found["identity"] == tiny_plan.identity
    assert {p.name: p.stat().st_size for p in folder.iterdir()} == found["files"]
    assert (folder / "plan.safetensors").read_bytes() == (desk.plan / "plan.safetensors").read_bytes()
    other = command("compile", "tiny.safetensors", *SET, "--act", "relu:27", "--margin", 1.5, "-o", "other")
    assert other.code == 0
    assert "for the server" in other.out
    assert "fast keys" in other.out
    plan = fheinfer.load_plan(desk.folder / "other")
    assert plan.activation == "relu:27"
    assert plan.identity != tiny_plan.identity


def test_keygen(command: Command, desk: Desk, tiny_plan: fheinfer.Plan) -> None:
    arguments = ("keygen", "plan", "-o", "new", "--rotations", "minimal")
    first = parsed(command(*arguments, "--json"))
    folder = desk.folder / "new"
    assert first["rotations"] == Manifest.load(folder / "server" / "manifest.json").policy == "minimal"
    assert first["folder"] == "new"
    keys = [p.stat().st_size for p in (folder / "server").iterdir() if p.suffix == ".key"]
    assert first["bytes"] == sum(first["files"].values()) == sum(keys)
    assert stat.S_IMODE((folder / "secret" / "secret.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o700
    assert (folder / "client.json").read_bytes() == (desk.plan / "client.json").read_bytes()
    assert command(*arguments).code == 5
    second = command(*arguments, "--force")
    assert second.code == 0
    assert "rotation keys" in second.out
    assert fheinfer.Client(folder, tiny_plan.client).key_id != first["key_id"]
    assert sorted(p.name for p in folder.iterdir()) == ["client.json", "secret", "server"]


def test_keys_of_the_sets_own_model(command: Command, desk: Desk, tiny_plan: fheinfer.Plan) -> None:
    shutil.rmtree(desk.keys)
    assert parsed(command("keygen", *SET, *MODEL, "--json"))["plan"] == tiny_plan.identity
    assert fheinfer.Client(desk.keys, tiny_plan.client).can_decrypt


def test_keys_for_another_plan_under_the_same_secret(command: Command, desk: Desk) -> None:
    assert command("compile", "tiny.safetensors", *SET, "--act", "relu:27", "-o", "other").code == 0
    identity = fheinfer.load_plan(desk.folder / "other").identity
    added = parsed(command("keygen", "other", "--add", "--json"))
    assert added["client"] == f"keys/setinsecure-tiny/client-{identity[:16]}.json"
    assert (desk.keys / "client.json").read_bytes() == (desk.plan / "client.json").read_bytes()
    assert parsed(command("infer", "--plan", "other", "--image", "tiny.png", "--json"))["logits"]
    assert parsed(command("infer", "--plan", "plan", "--image", "tiny.png", "--json"))["logits"]


def test_encrypt_evaluate_decrypt(command: Command, desk: Desk, tiny_plan: fheinfer.Plan, tiny_image: Any) -> None:
    """Three commands that share files; each party only its own folder."""
    elsewhere = desk.folder / "server elsewhere"
    shutil.copytree(desk.server, elsewhere)
    assert command("encrypt", *SET, "--image", "tiny.png", "-o", "in.ct").code == 0
    desk.secret.parent.rename(desk.folder / "away")
    done = command("evaluate", "--plan", "plan", "--keys", elsewhere, "-i", "in.ct", "-o", "out.ct", "--threads", 2)
    assert done.code == 0
    assert done.out == ""
    assert "peak memory" in done.err
    assert command("decrypt", *SET, "out.ct").code == 5  # the secret is away
    (desk.folder / "away").rename(desk.secret.parent)
    found = parsed(command("decrypt", *SET, "out.ct", "--decimals", 9, "--request", "in.ct", "--json"))
    clear = fheinfer.run_slots(tiny_plan, tiny_image)
    assert precision_bits(clear, found["logits"]).minimum > 6
    assert found["index"] == int(clear.argmax())
    assert found["request_checked"] is True
    assert sum(found["probabilities"]) == pytest.approx(1)
    assert {p.name for p in desk.folder.iterdir() if p.suffix == ".ct"} == {"in.ct", "out.ct"}


def test_what_is_decrypted_is_rounded_to_what_the_class_needs(
    command: Command, desk: Desk, tiny_result_file: Path
) -> None:
    done = command("decrypt", *SET, tiny_result_file, "--json")
    found = parsed(done)
    assert "not checked" in done.err
    assert found["request_checked"] is False
    assert found["decimals"] <= 2
    assert all(round(v, found["decimals"]) == v for v in found["logits"])
    assert found["logits"].count(max(found["logits"])) == 1
    table = command("decrypt", *SET, tiny_result_file, "--decimals", 1)
    assert f"{max(found['logits']):.1f} " in table.out
    assert "not checked" in table.err


def test_a_result_of_another_request_is_refused(command: Command, desk: Desk, tiny_result_file: Path) -> None:
    assert command("encrypt", *SET, "--image", "tiny.png", "-o", "other.ct").code == 0
    done = command("decrypt", *SET, tiny_result_file, "--request", "other.ct")
    assert (done.code, "answers another request" in done.err, done.out) == (4, True, "")


def test_an_array_is_encrypted_as_the_image_that_it_holds(
    command: Command, desk: Desk, tiny_client: fheinfer.Client, tiny_image: Any, tiny_session: Any
) -> None:
    from PIL import Image

    arrays = {
        "pixels": np.asarray(Image.open("tiny.png")),
        "values": tiny_image,
        "columns": np.asfortranarray(tiny_image),
    }
    answers = {}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
        assert command("encrypt", *SET, "--input", f"{name}.npy", "-o", f"{name}.ct").code == 0
        answers[name] = tiny_client.decrypt_slots(Path(f"{name}.ct").read_bytes())[0]
    assert np.allclose(answers["pixels"], answers["values"], atol=1e-6)
    assert np.allclose(answers["columns"], answers["values"], atol=1e-6)


def test_infer(command: Command, desk: Desk) -> None:
    pytest.importorskip("torch")
    found = parsed(command("infer", *SET, *MODEL, "--image", "tiny.png", "--plain", "--csv", "out.csv", "--json"))
    assert len(found["logits"]) == 10
    assert found["plain"]["agrees"] is True
    assert found["plain"]["worst_bits"] > 4
    assert {"encrypt", "load keys", "evaluate", "decrypt"} <= set(found["seconds"])
    assert min(found["memory"]["client"], found["memory"]["server"]) > 50e6
    assert min(found["bytes"].values()) > 1000
    assert not list(desk.folder.glob("runs/*"))
    rows = (desk.folder / "out.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [["image", "class"], ["tiny.png", found["class"]]]
    assert stat.S_IMODE((desk.folder / "out.csv").stat().st_mode) == 0o600


def test_infer_for_people(command: Command, desk: Desk) -> None:
    shown = command("infer", "--plan", "plan", "--image", "tiny.png", "--keep", "-v")
    assert shown.code == 0
    assert "class: " in shown.out
    assert "layer3.0.relu2" in shown.out + shown.err
    for what in ("time:", "memory:", "bytes:"):
        assert what in shown.out
    (run,) = (desk.folder / "runs").iterdir()
    assert {"input.ct", "result.ct", "block.ct"} <= {p.name for p in run.iterdir()}
    # What was kept can be resumed: it does the last block alone, and cleans up.
    again = command("infer", "--plan", "plan", "--image", "tiny.png", "--resume", "-v")
    assert again.code == 0
    assert "layer3.0.relu1" not in again.out + again.err
    assert not run.exists()


def test_infer_in_clear_needs_no_keys(command: Command, desk: Desk, tiny_plan: fheinfer.Plan, tiny_image: Any) -> None:
    shutil.rmtree(desk.keys)
    found = parsed(command("infer", *SET, *MODEL, "--image", "tiny.png", "--backend", "slots", "--json"))
    assert np.allclose(found["logits"], fheinfer.run_slots(tiny_plan, tiny_image))


def test_precision(command: Command, desk: Desk, tiny_plan: fheinfer.Plan) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    rows = parsed(command("precision", *SET, *MODEL, "--image", "tiny.png", "--plot", "bits.png", "--json"))
    assert [row["step"] for row in rows] == [step.name for step in tiny_plan.steps]
    assert all(row["slots_minimum"] > 6 for row in rows)
    assert (desk.folder / "bits.png").read_bytes().startswith(b"\x89PNG")
    assert not list(desk.folder.glob("runs/*"))


def test_export(command: Command, desk: Desk, tiny_input_file: Path) -> None:
    done = command("export", "out", *SET, "--ciphertext", tiny_input_file)
    assert done.code == 0
    assert sorted(p.name for p in (desk.folder / "out").iterdir()) == ["context.bin", "input.bin", "public.bin"]
    assert [Path(line).name for line in done.out.splitlines()] == ["context.bin", "public.bin", "input.bin"]
    assert command("export", "secret", *SET, "--secret").code == 0
    assert stat.S_IMODE((desk.folder / "secret" / "secret.bin").stat().st_mode) == 0o600


def test_a_passphrase(command: Command, desk: Desk, tiny_result_file: Path) -> None:
    Path("pass").write_text("correct horse\n")
    assert command("keygen", "plan", "-o", "sealed", "--passphrase-file", "pass").code == 0
    arguments = ("infer", "--plan", "plan", "--keys", "sealed", "--image", "tiny.png", "--json")
    refused = command(*arguments)
    assert (refused.code, "passphrase" in refused.err) == (5, True)
    assert parsed(command(*arguments, "--passphrase-file", "pass"))["logits"]
    encrypting = ("encrypt", "--keys", "sealed", "--image", "tiny.png", "-o", "in.ct")
    sizes = []
    for more in ((), ("--passphrase-file", "pass")):
        done = command(*encrypting, *more)
        assert done.code == 0, done.err
        assert ("encrypting under the public key, to twice the bytes" in done.err) == (not more)
        sizes.append(Path("in.ct").stat().st_size)
    assert 1.9 < sizes[0] / sizes[1] < 2.1


def test_a_passphrase_is_asked_for_where_somebody_is_there(
    command: Command, desk: Desk, tiny_result_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message promised a prompt, which `keygen --add` and `export --secret` did not have."""
    monkeypatch.setattr("fheinfer.crypto.passphrase.LOG2_N", 10)
    (desk.folder / "pass").write_text("a word\n")
    sealed = ("keygen", "plan", "-o", "sealed", "--rotations", "minimal", "--passphrase-file", "pass")
    assert command(*sealed).code == 0
    other = json.loads((desk.plan / "client.json").read_text()) | {"plan": "0" * 64}
    needs = other["keys"]["minimal"]
    needs["rotations"] = sorted([*needs["rotations"], [777, 2]])
    (desk.folder / "other.json").write_text(json.dumps(other))
    assert command("keygen", "plan", "--add", "-o", "sealed").code == 0  # nothing to make: nothing to ask
    asking: tuple[tuple[object, ...], ...] = (
        ("decrypt", tiny_result_file, "--client", "plan", "--keys", "sealed"),
        ("export", "out", "--keys", "sealed", "--secret"),
        ("keygen", "other.json", "--add", "-o", "sealed"),
    )
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "another word"

    monkeypatch.setattr("getpass.getpass", answer)
    for arguments in asking:
        refused = command(*arguments)
        assert (refused.code, asked) == (5, []), refused.err
    monkeypatch.setattr("fheinfer.cli.unlock._somebody_is_there", lambda: True)
    for number, arguments in enumerate(asking, 1):
        refused = command(*arguments)
        assert (refused.code, len(asked)) == (5, number), refused.err
    assert "the passphrase does not open" in refused.err
    monkeypatch.setattr("getpass.getpass", lambda question: "a word")
    for arguments in asking[1:]:
        assert command(*arguments).code == 0
    assert (desk.folder / "out" / "secret.bin").exists()


def test_paths_with_markup(command: Command, desk: Desk) -> None:
    """`keygen -o 'keys[/z]'` ended in an error of markup after the work."""
    name = "keys[/z] [bold]:smile:"
    done = command("keygen", "plan", "-o", name)
    assert done.code == 0, done.err
    assert f"{name}/secret stays with you" in done.out
    shutil.copy(desk.image, "x[bold].png")
    shown = command("infer", "--plan", "plan", "--keys", name, "--images", "x[bold].png")
    assert "x[bold].png" in shown.out


def test_names_that_are_not_utf_8(process: Command, desk: Desk) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    shutil.copy(desk.image, name)
    arguments = ("infer", "--plan", "plan", "--csv", os.fsdecode(b"\xfd.csv"))
    for given in (("--image", name), ("--images", name), ("--images", name, "--json")):
        done = process(*arguments, *given, cwd=desk.folder)
        assert done.code == 0, done.err
        assert b"\\xff\\xfe.png" in Path(os.fsdecode(b"\xfd.csv")).read_bytes()


@pytest.mark.parametrize("option", ["--image", "--images", "--plan", "--keys", "--model", "--csv", "--runs"])
def test_names_of_five_thousand_characters(command: Command, desk: Desk, option: str) -> None:
    given = {"--image": "tiny.png", "--plan": "plan"}
    if option == "--images":
        del given["--image"]
    if option == "--model":
        given = {"--image": "tiny.png", "--set": "insecure-tiny"}
    given[option] = "x" * 5000
    done = command("infer", *(word for pair in given.items() for word in pair))
    assert done.code in (3, 4, 5, 6), done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("evaluating: ")]
    assert len(lines) == 1
    assert len(lines[0]) < 6000
    assert lines[0].startswith("error: ")


def test_the_module_is_the_command(process: Command) -> None:
    result = process("--help")
    assert result.code == 0
    commands = "sets plan compile keygen encrypt evaluate decrypt infer demo precision accuracy search export train"
    for name in f"{commands} finetune calibrate model approx bench".split():
        assert f"  {name} " in result.out
    assert "  eval " not in result.out
    assert "--install-completion" in result.out
    assert process("--version").out.startswith("fheinfer ")


def test_a_named_model_without_a_set_gets_one_chosen(tmp_path: Path) -> None:
    from fheinfer.cli.choices import model_file, set_of
    from fheinfer.crypto.params import parameter_set
    from fheinfer.errors import UsageError

    model = tmp_path / "m.safetensors"
    assert set_of(None, model) == set_of("auto", model) == set_of(None, model, "native") == "auto"
    assert set_of(None, None) == parameter_set("1")
    assert set_of("turbo", model) == parameter_set("turbo")
    assert set_of(None, model, "openfhe") == parameter_set("1-openfhe")
    with pytest.raises(UsageError, match="name it with --model"):
        model_file(None, set_of("auto", None))
