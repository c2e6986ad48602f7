"""What the page asks the local process for, with a service that is played."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from fheinfer.data.images import load_image
from fheinfer.errors import BackendError
from fheinfer.service.page import app, runs
from fheinfer.service.page.clear import InClear
from fheinfer.service.page.steps import Run
from fheinfer.service.remote import Remote
from tests.page.conftest import JOB, PlayedModel, PlayedRemote, until


def start(browser: TestClient, body: bytes | Iterator[bytes] = b"", **query: str) -> Any:
    return browser.post("/api/runs", params={"model": "tiny", **query}, content=body)


@pytest.fixture
def image(tiny_image_file: Path) -> bytes:
    return tiny_image_file.read_bytes()


def test_an_image_goes_the_whole_way(
    browser: TestClient, model: PlayedModel, image: bytes, tiny_image_file: Path
) -> None:
    answer = start(browser, image, name="holiday.png", compare="1")
    assert answer.status_code == 202
    run = until(browser, answer.json(), "done")
    assert [step["state"] for step in run["steps"]] == ["done"] * 7
    assert run["name"] == "holiday.png"
    assert run["error"] is None

    [found] = run["answers"]
    parts = [bar["part"] for bar in found["bars"]]
    assert len(parts) == 10
    assert parts == sorted(parts, reverse=True)
    assert all(part == round(part, 3) for part in parts), "no more than what is shown leaves this process"
    assert found["agrees"]
    assert all(abs(bar["part"] - bar["plain"]) < 0.01 for bar in found["bars"])

    seen = np.asarray(Image.open(io.BytesIO(browser.get(f"/api/runs/{run['id']}/seen.png").content)))
    assert (seen == load_image(tiny_image_file, 8)).all()
    [sent] = model.sent
    assert run["sent"]["bytes"] == len(sent)
    assert bytes.fromhex(run["sent"]["hex"]) in sent
    noise = np.asarray(Image.open(io.BytesIO(browser.get(f"/api/runs/{run['id']}/sent.png").content)))
    assert noise.tobytes() in sent
    assert noise.std() > 60
    assert model.deleted == [JOB], "the service forgets it at once"


def test_the_keys_are_seen_to_be_made_and_uploaded(browser: TestClient, model: PlayedModel, image: bytes) -> None:
    model.gate.clear()
    run = until(browser, start(browser, image).json(), "running")
    keys = run["steps"][0]
    assert keys["doing"] == "upload"
    assert keys["bytes"] == 20
    model.gate.set()
    run = until(browser, run, "done")
    assert run["steps"][4] | {"seconds": 0} == {
        **{"name": "layers", "state": "done", "seconds": 0, "part": None},
        **{"left": 0.5, "layers": 4},
    }


def test_changes_are_told_to_the_end(browser: TestClient, image: bytes) -> None:
    run = start(browser, image).json()
    with browser.stream("GET", f"/api/runs/{run['id']}/events") as events:
        lines = [line for line in events.iter_lines() if line]
    assert all(line.startswith("data: {") for line in lines)
    assert '"state": "done"' in lines[-1]


@pytest.mark.parametrize("name", app.EXAMPLES)
def test_examples_come_along(browser: TestClient, name: str) -> None:
    assert name in browser.get("/api/page").json()["examples"]
    shown = Image.open(io.BytesIO(browser.get(f"/api/examples/{name}").content))
    assert min(shown.size) >= 8
    assert until(browser, start(browser, example=name).json(), "done")["name"] == name


@pytest.mark.parametrize("name", ["../pyproject.toml", "draw.py", "%2e%2e/pyproject.toml", "nobody.png"])
def test_nothing_else_is_an_example(browser: TestClient, name: str) -> None:
    assert browser.get(f"/api/examples/{name}").status_code == 404
    assert start(browser, example=name).json()["kind"] == "NotFoundError"


@pytest.mark.parametrize(
    "body", [b"", b"no image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a"]
)
def test_what_is_no_image_is_said_to_be_none(browser: TestClient, body: bytes) -> None:
    answer = start(browser, body, name="notes.txt")
    assert answer.status_code == 400
    assert answer.json()["kind"] == "ImageError"
    assert answer.json()["message"].startswith("notes.txt: ")
    assert browser.get("/api/runs").json() == []


def test_an_image_that_claims_too_many_pixels_is_refused(browser: TestClient) -> None:
    bomb = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(bomb, "PNG")
    answer = start(browser, bomb.getvalue(), name="bomb.png").json()
    assert answer["kind"] == "ImageError"
    assert "megapixels" in answer["message"]


def test_a_body_is_read_no_further_than_an_image_may_be_long(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_IMAGE", 1 << 20)
    answer = start(browser, b"\0" * ((1 << 20) + 1))
    assert answer.status_code == 400
    assert answer.json()["kind"] == "ImageError"
    assert "1 MB" in answer.json()["message"]


def test_names_are_shown_as_names(browser: TestClient, image: bytes) -> None:
    run = start(browser, image, name="<b>\x1b[2J" + 500 * "x").json()
    assert len(run["name"]) <= 80
    assert "\x1b" not in run["name"]


def test_a_network_that_takes_no_image_says_what_to_do(
    browser: TestClient, model: PlayedModel, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model.spec), "input_shape", (30,))
    takes = browser.get("/api/models/tiny").json()
    assert (takes["image"], takes["shape"]) == (False, [30])
    answer = start(browser, image).json()
    assert answer["kind"] == "InputError"
    assert takes["command"] == "fheinfer infer --plan MODELS/tiny --input FILE"
    assert takes["command"] in answer["message"]


def test_a_network_of_a_server_is_asked_there_on_the_command_line(model: PlayedModel) -> None:
    page = app.LocalPage(cast(Remote, PlayedRemote(model)), "https://fhe.example.org", InClear())
    assert page._command("tiny") == "fheinfer infer --server https://fhe.example.org --model tiny --input FILE"


def test_a_model_is_described(browser: TestClient, model: PlayedModel) -> None:
    takes = browser.get("/api/models/tiny").json()
    assert takes == {
        "image": True,
        "shape": [3, 8, 8],
        "classes": list(model.spec.outputs[0].classes),
        "compare": True,
    } | {"command": "fheinfer infer --plan MODELS/tiny --input FILE"}


def test_a_model_of_another_name_is_nothing_to_compare_with(
    browser: TestClient, model: PlayedModel, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "spec", model.spec.model_copy(update={"model": "another"}))
    assert not browser.get("/api/models/tiny").json()["compare"]
    run = until(browser, start(browser, image, compare="1").json(), "done")
    assert run["error"] is None
    assert "plain" not in run["answers"][0]["bars"][0]
    assert "no model of another is here" in run["note"]


def test_a_comparison_that_fails_leaves_the_answer(
    browser: TestClient, model: PlayedModel, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fheinfer.service.page.clear.plain_values", lambda model, x: 1 / 0)
    run = until(browser, start(browser, image, compare="1").json(), "done")
    assert run["answers"]
    assert run["note"] == "PyTorch failed (ZeroDivisionError)"


def test_an_unknown_model_is_said_to_be_unknown(browser: TestClient, image: bytes) -> None:
    answer = browser.post("/api/runs", params={"model": "other"}, content=image)
    assert (answer.status_code, answer.json()["kind"]) == (404, "NotFoundError")


def test_one_image_is_on_its_way_at_a_time(browser: TestClient, model: PlayedModel, image: bytes) -> None:
    model.gate.clear()
    run = start(browser, image).json()
    assert start(browser, image).json()["kind"] == "JobError"
    model.gate.set()
    until(browser, run, "done")
    until(browser, start(browser, image).json(), "done")


def test_a_run_that_is_stopped_leaves_nothing_at_the_service(
    browser: TestClient, model: PlayedModel, image: bytes
) -> None:
    model.gate.clear()
    run = until(browser, start(browser, image).json(), "running")
    while browser.get(f"/api/runs/{run['id']}").json()["steps"][3]["state"] != "now":
        pass
    assert browser.post(f"/api/runs/{run['id']}/stop").status_code == 204
    run = until(browser, run, "stopped")
    assert run["answers"] is None
    assert run["error"] is None
    assert model.deleted == [JOB]


def test_a_service_that_goes_away_is_waited_for(browser: TestClient, model: PlayedModel, image: bytes) -> None:
    model.gate.clear()
    run = start(browser, image).json()
    until(browser, run, "running")
    model.down = True
    waiting = until(browser, run, "waiting")
    assert waiting["error"]["kind"] == "UnreachableError"
    model.down = False
    model.gate.set()
    assert until(browser, run, "done")["error"] is None
    assert len(model.sent) == 1, "the same job goes on"


def test_whoever_waits_for_a_service_may_stop(browser: TestClient, model: PlayedModel, image: bytes) -> None:
    model.gate.clear()
    run = start(browser, image).json()
    until(browser, run, "running")
    model.down = True
    until(browser, run, "waiting")
    browser.post(f"/api/runs/{run['id']}/stop")
    until(browser, run, "stopped")


def test_a_service_that_was_never_there_is_said_to_be_away(
    browser: TestClient, model: PlayedModel, image: bytes
) -> None:
    model.down = True
    for answer in (browser.get("/api/page"), browser.get("/api/models/tiny"), start(browser, image)):
        assert (answer.status_code, answer.json()["kind"]) == (503, "UnreachableError")


def test_a_job_that_failed_says_why_and_can_be_tried_again(
    browser: TestClient, model: PlayedModel, image: bytes
) -> None:
    model.fails = BackendError("the worker died three times; ask the service's owner")
    run = until(browser, start(browser, image, name="a.png").json(), "failed")
    assert run["error"] == {"kind": "BackendError", "message": str(model.fails)}
    assert run["steps"][5]["state"] == "todo"
    assert model.deleted == [JOB]
    model.fails = None
    again = browser.post("/api/runs", params={"again": str(run["id"])})
    assert until(browser, again.json(), "done")["name"] == "a.png"
    assert model.sent[0] != model.sent[1], "it is encrypted anew: the same ciphertext is never asked about twice"


def test_a_fault_of_ours_ends_the_run_in_words(
    browser: TestClient, model: PlayedModel, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    monkeypatch.setattr(model, "encrypt", lambda x: 1 / 0)
    run = until(browser, start(browser, image).json(), "failed")
    assert "ZeroDivisionError" in run["error"]["message"]
    assert "report" in run["error"]["message"]


def test_the_history_is_bounded_and_can_be_cleared(
    browser: TestClient, model: PlayedModel, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "KEPT", 2)
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        until(browser, start(browser, image, name=name).json(), "done")
    assert [run["name"] for run in browser.get("/api/runs").json()] == ["c.png", "b.png"]
    assert browser.get("/api/runs/1").status_code == 404
    model.gate.clear()
    going = start(browser, image, name="d.png").json()
    assert browser.request("DELETE", "/api/runs").status_code == 204
    assert [run["id"] for run in browser.get("/api/runs").json()] == [going["id"]]


def test_a_service_that_does_not_answer_is_not_said_to_be_back() -> None:
    run = Run(1, "tiny", "x.png", np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 2)), compare=False)
    run.wait(BackendError("no answer"))
    states = []
    for event in ({"event": "away", "reason": "no answer"}, {"event": "queued", "job": JOB, "position": 1}):
        run.follow(event)
        states.append(run.state)
    assert states == ["waiting", "running"]
