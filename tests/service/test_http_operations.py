"""What whoever runs the service needs, and what errors say (threats: operations; sizes, times, names in the clear)."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog
from pydantic import ValidationError

import fheinfer
from fheinfer import errors
from fheinfer.compiler.plan import Plan
from fheinfer.errors import FheinferError, ServiceError
from fheinfer.service.http import logs, problems
from fheinfer.service.http import service as module
from fheinfer.service.http.service import Service, Settings, running
from fheinfer.service.protocol import Problem, ServerInfo
from tests.service.conftest import Api, ThreadWorkers
from tests.service.running import wait_for


def test_live_and_ready_until_it_stops(http: httpx.Client, service: Service) -> None:
    assert http.get("/livez").json() == {"live": True}
    assert http.get("/readyz").json() == {"ready": True}
    assert http.head("/livez").status_code == http.head("/readyz").status_code == 200
    service.stop()
    assert http.get("/livez").status_code == 200
    stopped = http.get("/readyz")
    assert (stopped.status_code, stopped.json()["kind"]) == (503, "ServiceError")
    assert stopped.headers["Retry-After"]


def test_no_job_is_taken_while_it_stops(api: Api, service: Service, tiny_plan: Plan, tiny_keys: Path) -> None:
    key_id = api.upload(tiny_keys / "server")
    service.stop()
    assert api.submit(b"x", tiny_plan.identity, key_id).status_code == 503
    assert api("GET", "/v1/jobs").status_code == 200  # what is there can still be fetched


def test_the_handshake_is_open(http: httpx.Client, service: Service) -> None:
    info = ServerInfo.model_validate_json(http.get("/v1/server").content)
    assert info.signing_key == service.signer.public


def test_a_second_service_on_the_same_data_is_refused(service: Service, settings: Settings) -> None:
    with pytest.raises(ServiceError, match="another service runs on"), running(settings, ThreadWorkers):
        pass


def test_results_go_when_their_time_is_over_even_where_the_models_are_gone(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIDY_SECONDS", 0.05)
    models = Path(shutil.copytree(settings.models, tmp_path / "models"))
    with running(replace(settings, models=models), ThreadWorkers) as service:
        shutil.rmtree(models)
        for name in ("1" * 32, "2" * 32):  # the second one after the first was seen to go
            folder = service.folders.job(name)
            folder.mkdir(parents=True)
            os.utime(folder, (1, 1))
            wait_for(lambda folder=folder: not folder.exists())  # type: ignore[misc]


def test_models_that_nobody_can_use_are_told_at_the_start(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for changed, name, says in (
        (replace(settings, memory=1000), "tiny", "raise --memory"),
        (replace(settings, models=tmp_path / "none"), "*", "fheinfer compile"),
    ):
        with structlog.testing.capture_logs() as said, running(changed, ThreadWorkers) as service:
            service._refresh()  # which says nothing again
        assert [(line["model"], says in line["message"]) for line in said] == [(name, True)]


@pytest.fixture
def busy(api: Api, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: Any) -> Api:
    """An API that was used for a job."""
    key_id = api.upload(tiny_keys / "server")
    job = api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()["id"]
    assert api.finished(job)["state"] == "done"
    return api


def test_metrics_have_figures_and_no_names(busy: Api, service: Service, tiny_keys: Path) -> None:
    boss = Api(busy.client, service.store.add_token("boss", operator=True))
    for wild in ("BREW", "X" * 100, "PROPFIND"):
        busy(wild, "/v1/jobs")
        busy("GET", f"/nothing/{wild}")
    text = boss("GET", "/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert figures["fheinfer_jobs_done"] == "1.0"
    assert figures["fheinfer_key_sets"] == "1.0"
    assert figures["fheinfer_job_waiting_seconds_count"] == figures["fheinfer_job_evaluation_seconds_count"] == "1.0"
    assert float(figures["fheinfer_job_evaluation_seconds_sum"]) > 0
    assert figures["fheinfer_workers_lost_total"] == "0.0"
    assert figures['fheinfer_requests_total{method="POST",route="/v1/jobs",status="202"}'] == "1.0"
    assert figures['fheinfer_requests_total{method="other",route="/v1/jobs",status="405"}'] == "3.0"
    assert figures['fheinfer_requests_total{method="GET",route="-",status="404"}'] == "3.0"
    ids = [row.account for row in service.store.key_sets()] + [row.key_id for row in service.store.key_sets()]
    assert not [name for name in ("alice", "tiny", "boss", "BREW", "nothing", busy.token, *ids) if name in text]


def test_every_figure_has_its_line_in_the_page_and_lost_workers_count(service: Service) -> None:
    service.metrics.job("lost", 1.0)
    text = service.metrics.text().decode()
    assert "fheinfer_workers_lost_total 1.0" in text
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "service.md").read_text()
    names = [name for name in re.findall(r"^# TYPE (\w+)", text, re.M) if not name.endswith("_created")]
    assert len(names) == 15
    assert not [name for name in names if f"`{name}`" not in page]


def test_the_description_is_whole(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    text = json.dumps(described)
    for target in set(re.findall(r'"#/components/schemas/(\w+)"', text)):
        assert target in described["components"]["schemas"]
    assert "422" not in text
    assert "HTTPBearer" in described["components"]["securitySchemes"]
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"], path


def test_the_page_of_the_description_is_local(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"].split("script-src")[1].split(";")[0]
    assert "//" not in page.text
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 4
    for name in linked:
        assert http.get(f"/{name}").status_code == 200, name
    for name in ("index.html", "..%2f__init__.py", "%2e%2e/__init__.py", "swagger-ui.js.map"):
        assert http.get(f"/docs/{name}").status_code == 404, name


def test_answers_are_not_kept_or_guessed(http: httpx.Client, api: Api) -> None:
    for answer in (http.get("/livez"), api("GET", "/v1/models"), http.get("/nothing")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-Id"])
        assert "server" not in answer.headers


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FheinferError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_problem_of_its_kind(kind: type[FheinferError]) -> None:
    found = problems.problem(kind("it is wrong"))
    assert found.kind == kind.__name__
    assert problems.status_of(kind("x")) == found.status
    assert (found.status == 500) == (found.detail == "something went wrong in the service")
    with pytest.raises(ValidationError):
        Problem(title="x", status=200, detail="x")


def test_errors_of_the_service_do_not_tell_its_folders(
    api: Api, service: Service, monkeypatch: pytest.MonkeyPatch, tiny_keys: Path
) -> None:
    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/secret-place")

    raw = (tiny_keys / "server" / "manifest.json").read_bytes()
    key_id = raw.split(b'"key_id": "')[1][:32].decode()
    with monkeypatch.context() as patched:
        patched.setattr("fheinfer.storage.os.fsync", full)
        refused = api("PUT", f"/v1/keys/{key_id}", content=raw)
    assert (refused.status_code, refused.json()["kind"]) == (507, "StorageError")
    assert "/" not in refused.json()["detail"]
    assert api.upload(tiny_keys / "server") == key_id  # there is room again, and nothing was broken


def test_errors_of_files_name_them_without_their_folder(
    api: Api, service: Service, tiny_keys: Path, tiny_plan: Plan
) -> None:
    key_id = api.upload(tiny_keys / "server")
    manifest = next((service.settings.data / "keys").rglob("manifest.json"))
    manifest.write_bytes(b"{")
    refused = api.submit(b"x", tiny_plan.identity, key_id)
    assert (refused.status_code, refused.json()["kind"]) == (400, "CorruptArtifactError")
    assert str(service.settings.data) not in refused.text


def test_a_wrong_method_is_told_the_right_ones(http: httpx.Client) -> None:
    for path, methods in (("/v1/jobs", "GET, POST"), (f"/v1/keys/{'0' * 32}", "DELETE, GET, PUT"), ("/livez", "GET")):
        answer = http.request("PATCH", path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, methods)
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_an_unexpected_error_says_nothing(
    api: Api, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("fi_secret of /srv")

    monkeypatch.setattr(service.catalogue, "models", broken)
    with structlog.testing.capture_logs() as lines:
        answer = api("GET", "/v1/models")
    assert answer.status_code == 500
    assert answer.json() == {
        "type": "about:blank",
        "title": "Internal error",
        "status": 500,
        "detail": "something went wrong in the service",
        "kind": "FheinferError",
    }
    assert [line for line in lines if line["event"] == "unexpected error"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged, as the service writes it."""
    root, written = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=written))  # pytest sets that of `sys` anew for the test
    level = root.level
    logs.configure()
    yield written
    structlog.reset_defaults()
    root.setLevel(level)


def test_logs_are_json_and_hold_nothing_secret(log: io.StringIO, busy: Api, service: Service) -> None:
    wrong = busy("GET", "/v1/keys/nothing?token=" + busy.token, headers={"X-Forwarded-For": "192.0.2.77"})
    logging.getLogger("fheinfer.other").warning("from the standard library")
    text = log.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    account = service.store.key_sets()[0]
    assert (requests[-1]["request"], requests[-1]["status"]) == (wrong.headers["X-Request-Id"], 400)
    assert {"request", "account", "method", "route", "status", "seconds", "timestamp", "level"} <= requests[0].keys()
    assert {line["account"] for line in requests} == {account.account}
    assert {line["route"] for line in requests} >= {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/keys/{key_id}"}
    assert "from the standard library" in [line["event"] for line in lines]
    for secret in (busy.token, account.key_id, "192.0.2.77", "testclient", "alice"):
        assert secret not in text, secret


def test_errors_of_files_are_logged_without_ids(
    log: io.StringIO, busy: Api, service: Service, tiny_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row "sizes, times, names, key ids in the clear": files are named by them, and errors name files."""

    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    [keys] = service.store.key_sets()
    raw = (tiny_keys / "server" / "manifest.json").read_bytes()
    assert busy("DELETE", f"/v1/keys/{keys.key_id}").status_code == 204
    with monkeypatch.context() as patched:
        patched.setattr("fheinfer.storage.os.fsync", full)
        assert busy("PUT", f"/v1/keys/{keys.key_id}", content=raw).status_code == 507
    logging.getLogger("fheinfer.other").warning("of %s/x and %s", keys.key_id, busy.token)
    try:
        raise ValueError(keys.key_id)
    except ValueError:
        logging.getLogger("fheinfer.other").exception("failed")
    text = log.getvalue()
    assert "the disk is full while writing uploads/.../.../manifest.json" in text
    assert "of .../x and ..." in text
    assert "ValueError: ..." in text
    assert keys.key_id not in text
    assert busy.token not in text
