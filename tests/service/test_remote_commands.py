"""`fheinfer infer --server` and `fheinfer model list`: what they print and write, and what they refuse."""

from __future__ import annotations

import csv
import functools
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fheinfer.service.protocol import Problem
from fheinfer.service.remote import Remote
from tests.conftest import Result
from tests.service.fake import TOKEN, URL, FakeService
from tests.service.remotes import NEAR, clear, compiled, fake, impatient, network, other_folder, plan_folder, vectors

__all__ = ["fake", "impatient", "other_folder", "plan_folder"]
Command = Callable[..., Result]
INFER = ("infer", "--server", URL)


@pytest.fixture(autouse=True)
def _desk(fake: FakeService, impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with a vector, several and a token; the service behind all addresses."""
    monkeypatch.setattr("fheinfer.cli.remote.Remote", functools.partial(Remote, transport=fake.transport))
    monkeypatch.setenv("FHEINFER_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    np.save("one.npy", vectors(1)[0])
    np.save("many.npy", vectors(3))
    Path("token").write_text(f"{TOKEN}\n")


def parsed(result: Result) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_one_input(command: Command, plan_folder: Path) -> None:
    [x] = vectors(1)
    expected = clear(plan_folder, x)
    found = parsed(command(*INFER, "-i", "one.npy", "--json", "-o", "out.npy", "--csv", "out.csv"))
    assert found["class"] == ("cat", "dog", "owl")[int(np.argmax(expected))]
    assert np.abs(np.array(found["logits"]) - expected).max() < NEAR + 10.0 ** -found["decimals"]
    assert found["logits"] == [round(value, found["decimals"]) for value in found["logits"]]  # no digits to learn from
    assert np.load("out.npy").tolist() == found["logits"]
    assert found["seconds"].keys() == {"keys", "answers", "evaluate"}
    assert found["bytes"]["input"] > found["bytes"]["result"] > 0
    [row] = csv.DictReader(Path("out.csv").read_text().splitlines())
    assert row["class"] == found["class"]
    assert [float(row[f"logit_{i}"]) for i in range(3)] == pytest.approx(found["logits"], abs=1e-5)
    for name in ("out.npy", "out.csv"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600
    shown = command(*INFER, "-i", "one.npy", "--model", "first")
    assert shown.code == 0, shown.err
    assert f"class: {found['class']}" in shown.out
    assert "keys 0.0 s" in shown.out
    assert Path("keys/servers/127.0.0.1_8000/first/keys/secret/secret.key").exists()


def test_several_inputs_and_outputs(command: Command, fake: FakeService, tmp_path: Path) -> None:
    fake.serve("heads", compiled(tmp_path / "heads", network(3, ("kind", "price"))))
    given = (*INFER, "--model", "heads", "-i", "many.npy", "--json", "-o", "out.npz", "--keys", "mine")
    found = parsed(command(*given))
    assert [row["image"] for row in found["images"]] == ["many.npy:0", "many.npy:1", "many.npy:2"]
    values = np.load("out.npz")
    for i, x in enumerate(vectors(3)):
        for name, expected in clear(tmp_path / "heads", x).items():
            assert np.abs(values[name][i] - expected).max() < NEAR + 1e-6, name
    assert Path("mine/127.0.0.1_8000/heads/client.json").exists()
    shown = command(*given[:-5])
    assert "classes of kind" in shown.out
    assert "values of price" in shown.out
    refused = command(*INFER, "--model", "heads", "-i", "one.npy", "-o", "out.npy")
    assert (refused.code, "name a .npz" in refused.err) == (2, True)


def test_images(command: Command, fake: FakeService, tiny_plan_folder: Path, tiny_image_file: Path) -> None:
    fake.models.clear()
    fake.serve("tiny", tiny_plan_folder)
    one = parsed(command(*INFER, "--image", tiny_image_file, "--json"))
    many = parsed(command(*INFER, "--images", tiny_image_file.parent, "--json"))
    assert [row["class"] for row in many["images"]] == [one["class"]]
    assert many["images"][0]["logits"] == pytest.approx(one["logits"], abs=0.5)


@pytest.mark.parametrize(
    "option",
    [
        ("--plan", "x"),
        ("--set", "turbo"),
        ("--act", "square"),
        ("--bits", "8"),
        ("--backend", "native"),
        ("--plain",),
        ("--resume",),
        ("--keep",),
        ("--runs", "x"),
        ("--threads", "2"),
        ("--memory", "1GB"),
        ("--verbose",),
    ],
)
def test_options_that_would_change_nothing(command: Command, fake: FakeService, option: tuple[str, ...]) -> None:
    done = command(*INFER, "-i", "one.npy", *option)
    assert done.code == 2
    assert f"error: {option[0]} changes nothing here: the server evaluates" in done.err
    assert fake.seen == []


@pytest.mark.parametrize("option", [("--token-file", "token"), ("--accept-plan",), ("--rotations", "fast")])
def test_options_of_a_server_need_one(command: Command, option: tuple[str, ...]) -> None:
    done = command("infer", "-i", "one.npy", *option)
    assert done.code == 2
    assert f"{option[0]} changes nothing here: it is of a --server" in done.err


def test_another_plan_is_accepted_by_an_option(command: Command, fake: FakeService, other_folder: Path) -> None:
    assert command(*INFER, "-i", "one.npy").code == 0
    fake.serve("first", other_folder)
    refused = command(*INFER, "-i", "one.npy")
    assert refused.code == 10
    assert "accept it by --accept-plan" in refused.err
    assert refused.err.count("\n") == 1
    found = parsed(command(*INFER, "-i", "one.npy", "--accept-plan", "--json"))
    assert np.abs(np.array(found["logits"]) - clear(other_folder, vectors(1)[0])).max() < 0.1
    assert command(*INFER, "-i", "one.npy").code == 0


def test_tokens(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FHEINFER_TOKEN")
    without = command(*INFER, "-i", "one.npy")
    assert (without.code, "--token-file" in without.err) == (10, True)
    assert command(*INFER, "-i", "one.npy", "--token-file", "token").code == 0
    for content, says in (("", "it is empty"), ("nonsense", "this is no token"), (None, "no such file")):
        Path("bad").unlink(missing_ok=True)
        if content is not None:
            Path("bad").write_text(content)
        refused = command(*INFER, "-i", "one.npy", "--token-file", "bad")
        assert refused.code in (3, 10)
        assert says in refused.err
    assert TOKEN not in refused.err


def test_plain_http_to_another_machine(command: Command, fake: FakeService) -> None:
    refused = command("infer", "--server", "http://example.org", "-i", "one.npy")
    assert refused.code == 2
    assert "without TLS" in refused.err
    assert fake.seen == []


def test_a_passphrase(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("passphrase").write_text("open\n")
    given = (*INFER, "-i", "one.npy", "--passphrase-file")
    assert command(*given, "passphrase").code == 0
    closed = command(*INFER, "-i", "one.npy")
    assert closed.code == 5
    assert "has a passphrase; name its file by --passphrase-file, or set FHEINFER_PASSPHRASE" in closed.err
    monkeypatch.setenv("FHEINFER_PASSPHRASE", "open")
    assert command(*INFER, "-i", "one.npy").code == 0


def test_models(command: Command, fake: FakeService, tiny_plan_folder: Path) -> None:
    fake.serve("tiny", tiny_plan_folder)
    found = parsed(command("model", "list", "--server", URL, "--json"))
    assert [(info["name"], info["model"], info["set"]) for info in found] == [
        ("first", "vectors", "insecure-tiny-turbo"),
        ("tiny", "resnet8-tiny", "insecure-tiny"),
    ]
    shown = command("model", "list", "--server", URL, "--token-file", "token")
    assert shown.code == 0, shown.err
    assert "seconds on the reference machine" in shown.out
    seconds = f"{min(found[1]['seconds'].values()):.3g}"
    for what in ("first", "resnet8-tiny", "3x8x8", found[0]["plan"][:8], seconds):
        assert what in shown.out
    unknown = command(*INFER, "-i", "one.npy", "--model", "tinny")
    assert f"no model tinny; `fheinfer model list --server {URL}`" in unknown.err
    unnamed = command(*INFER, "-i", "one.npy")
    assert (unnamed.code, "name one of first, tiny" in unnamed.err) == (2, True)


def test_keys_at_the_service(command: Command, fake: FakeService) -> None:
    given = ("model", "keys", "--server", URL)
    assert parsed(command(*given, "--json")) == {"keys": [], "jobs": []}
    assert command(*INFER, "-i", "one.npy").code == 0
    [key_id] = fake.keys
    assert [(key["key_id"], key["complete"]) for key in parsed(command(*given, "--json"))["keys"]] == [(key_id, True)]
    assert key_id in command(*given).out
    assert command(*given, "--delete", "nonsense").code == 2
    assert parsed(command(*given, "--delete", key_id, "--json"))["keys"] == []
    assert fake.keys == {}
    assert command(*given, "--delete", key_id).code == 10
    assert command(*INFER, "-i", "one.npy").code == 0  # those that are here are uploaded again
    assert list(fake.keys) == [key_id]


def test_what_is_said_on_the_way(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines where there is no terminal: keys, upload and evaluation, each under its name."""
    for name in ("FIRST", "EVERY"):
        monkeypatch.setattr(f"fheinfer.cli.progress.{name}", 0.0)
    done = command(*INFER, "-i", "one.npy")
    assert done.code == 0
    for what in ("making keys: ", "uploading keys: ", "evaluating: ", "number 1 in the queue", "1/2"):
        assert what in done.err, what
    done = command(*INFER, "-i", "many.npy")
    assert "inputs: 33 %, 1 of 3" in done.err


def submitted(fake: FakeService, number: int, then: Callable[[Any], Any]) -> None:
    """Does `then` with the answer to the submission of that number, counted from 1."""
    count = 0

    def answer(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        nonlocal count
        if (request.method, request.url.path) == ("POST", "/v1/jobs"):
            count += 1
            if count == number:
                return then(true)  # type: ignore[no-any-return]
        return true

    fake.answer = answer


def test_a_job_that_fails_ends_no_others(command: Command, fake: FakeService) -> None:
    def fail(true: httpx.Response) -> httpx.Response:
        job = fake.jobs[true.json()["id"]]
        error = Problem(title="refused", status=503, detail="the worker was lost", kind="WorkerLostError")
        fake.jobs[job.id] = job.model_copy(update={"state": "failed", "error": error})
        return true

    submitted(fake, 2, fail)
    done = command(*INFER, "-i", "many.npy", "--json", "--csv", "out.csv", "-o", "out.npy")
    found = parsed(done)
    assert [row["image"] for row in found["images"]] == ["many.npy:0", "many.npy:2"]
    assert found["failures"] == {"many.npy:1": f"{URL}: the worker was lost"}
    assert f"many.npy:1: {URL}: the worker was lost" in done.err
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["many.npy:0", "many.npy:2"]
    assert np.isnan(np.load("out.npy")).all(axis=1).tolist() == [False, True, False]
    submitted(fake, 1, fail)
    alone = command(*INFER, "-i", "one.npy")
    assert (alone.code, alone.err.splitlines()[-1]) == (9, f"error: {URL}: the worker was lost")


@pytest.mark.parametrize(("error", "code"), [(httpx.ConnectError("gone"), 10), (KeyboardInterrupt(), 130)])
def test_what_arrived_is_kept(
    command: Command, fake: FakeService, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """The service goes away, or somebody stops it, when one result of six is here."""
    np.save("many.npy", vectors(6))
    remote = functools.partial(Remote, transport=fake.transport, patience=0.2)
    monkeypatch.setattr("fheinfer.cli.remote.Remote", remote)

    def fail(true: httpx.Response) -> httpx.Response:
        def gone(request: httpx.Request, true: httpx.Response) -> httpx.Response:
            raise error

        fake.answer = gone
        raise error

    submitted(fake, 5, fail)
    done = command(*INFER, "-i", "many.npy", "--csv", "out.csv", "-o", "out.npy")
    assert done.code == code
    assert "1 of 6 inputs have an answer" in done.err
    assert "many.npy:0" in done.out
    [row] = csv.DictReader(Path("out.csv").read_text().splitlines())
    assert row["image"] == "many.npy:0"
    assert np.isnan(np.load("out.npy")).all(axis=1).tolist() == [False] + [True] * 5


def test_a_bad_input_is_named(command: Command, fake: FakeService) -> None:
    values = vectors(3)
    values[1, 2] = np.nan
    np.save("bad.npy", values)
    done = command(*INFER, "-i", "bad.npy")
    assert done.code == 3
    assert "input bad.npy:1: " in done.err
    assert fake.keys == {}


def test_a_service_that_is_away_is_said_to_be(
    command: Command, fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fheinfer.service.connection.AWAY", 0.0)
    away = 0

    def answer(request: httpx.Request, true: httpx.Response) -> httpx.Response:
        nonlocal away
        if request.method == "POST" and away < 3:
            away += 1
            raise httpx.ConnectError("gone")
        return true

    fake.answer = answer
    done = command(*INFER, "-i", "one.npy")
    assert done.code == 0
    assert done.err.count("no answer from the service, trying again\n") == 1


def test_ctrl_c_says_what_goes_on(
    command: Command, fake: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(request: Any, true: Any) -> Any:
        if request.url.path.endswith("/events"):
            raise KeyboardInterrupt
        return true

    fake.answer = stop
    done = command(*INFER, "-i", "one.npy")
    assert done.code == 130
    assert done.err.splitlines()[-1] == (
        "error: stopped; the same command goes on with the keys that are made and uploaded"
    )
    assert fake.jobs == {}  # nobody waits for it any more
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
