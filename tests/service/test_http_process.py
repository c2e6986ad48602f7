"""The service as a process: how it starts, stops, is killed, and what it never opens (threats: operations)."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.errors import UnreachableError
from fheinfer.service.http import serving as module
from tests.service.conftest import PATIENCE, Api, Serving, serve
from tests.service.running import wait_for

Run = Callable[..., Any]


def events_of(api: Api, job_id: str) -> list[dict[str, Any]]:
    """The events of a job up to the end of the stream."""
    headers = {"Authorization": f"Bearer {api.token}"}
    with api.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]


def test_a_job_from_its_submission_to_its_events_and_result(
    serving: Serving, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    api = serving.api()
    key_id = api.upload(tiny_keys / "server")
    encrypted = tiny_client.encrypt(tiny_image)
    job = api.submit(encrypted, tiny_plan.identity, key_id).json()
    seen = events_of(api, job["id"])
    assert seen[-1]["state"] == "done"
    assert [event["state"] for event in seen] == sorted(
        (e["state"] for e in seen), key=["queued", "running", "done"].index
    )
    result = api("GET", f"/v1/jobs/{job['id']}/result").content
    there = fheinfer.Server().session(tiny_plan, tiny_keys / "server").evaluate(encrypted)
    np.testing.assert_allclose(
        tiny_client.decrypt(result, request=encrypted), tiny_client.decrypt(there), rtol=0, atol=1e-4
    )
    assert serving.end() == 0
    text = "".join(serving.log)
    assert {line["event"] for line in serving.logged} >= {"request"}
    assert api.token not in text
    assert key_id not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_by_a_signal_with_jobs_waiting_and_goes_on(
    number: int,
    models: Path,
    tmp_path: Path,
    tiny_plan: Plan,
    tiny_keys: Path,
    tiny_client: fheinfer.Client,
    tiny_image: Any,
) -> None:
    encrypted = [tiny_client.encrypt(tiny_image) for _ in range(6)]
    options = ("--models", models, "--threads", 1)
    with serve(tmp_path / "data", *options) as first:
        api = first.api()
        key_id = api.upload(tiny_keys / "server")
        ids = [api.submit(each, tiny_plan.identity, key_id).json()["id"] for each in encrypted]
        assert first.end(number) == 0
    with serve(tmp_path / "data", *options) as second:
        again = second.api(first.token)  # tokens and keys are still there
        jobs = [again.finished(job_id) for job_id in ids]
        assert [job["state"] for job in jobs] == ["done"] * 6
        for job_id, each in zip(ids, encrypted, strict=True):
            result = again("GET", f"/v1/jobs/{job_id}/result").content
            assert tiny_client.decrypt(result, request=each).shape == (10,)


def test_kill_9_loses_no_accepted_job_and_does_none_twice(
    models: Path, tmp_path: Path, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    options = ("--models", models, "--threads", 1)
    data, ids, requests = tmp_path / "data", [], []
    token = ""
    for round_ in range(3):
        with serve(data, *options) as service:
            token = token or service.token
            api = service.api(token)
            key_id = api.upload(tiny_keys / "server")  # the same keys again: nothing is sent twice
            for _ in range(3):
                requests.append(tiny_client.encrypt(tiny_image))
                ids.append(api.submit(requests[-1], tiny_plan.identity, key_id).json()["id"])
            time.sleep(0.15 * round_)
            service.end(signal.SIGKILL)
    with serve(data, *options) as service:
        api = service.api(token)
        for job_id, request in zip(ids, requests, strict=True):
            assert api.finished(job_id)["state"] == "done"
            result = api("GET", f"/v1/jobs/{job_id}/result").content
            assert tiny_client.decrypt(result, request=request).shape == (10,)
        assert len(api("GET", "/v1/jobs").json()) == len(ids)


SLOW_STOP = """
import time
from pathlib import Path
from fheinfer.service.dispatcher import Dispatcher
stop = Dispatcher.stop

def slow(self, grace):
    while not Path({go!r}).exists():
        time.sleep(0.05)
    stop(self, grace)

Dispatcher.stop = slow
from fheinfer.cli.main import main
main()
"""
"""A service whose jobs take until a file is there to stop."""


def stopping(service: Serving) -> bool:
    return httpx.get(f"{service.url}/readyz", timeout=PATIENCE).status_code == 503


def test_it_says_that_it_stops_while_jobs_write_checkpoints(models: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with serve(tmp_path / "data", "--models", models, python=SLOW_STOP.format(go=str(go))) as service:
        assert not stopping(service)
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: stopping(service))
        assert httpx.get(f"{service.url}/livez", timeout=PATIENCE).status_code == 200
        go.touch()
        assert service.process.wait(PATIENCE) == 0


def test_a_second_signal_ends_it_at_once(models: Path, tmp_path: Path) -> None:
    never = SLOW_STOP.format(go=str(tmp_path / "never"))
    with serve(tmp_path / "data", "--models", models, python=never) as service:
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: stopping(service))
        assert service.process.poll() is None
        assert service.end(signal.SIGTERM) == 128 + signal.SIGTERM


def test_workers_end_with_the_service(
    monkeypatch: pytest.MonkeyPatch,
    models: Path,
    tmp_path: Path,
    tiny_plan: Plan,
    tiny_keys: Path,
    tiny_client: fheinfer.Client,
    tiny_image: Any,
) -> None:
    monkeypatch.setenv("FHEINFER_TOKEN", "fi_" + "A" * 43)
    monkeypatch.setenv("FHEINFER_PASSPHRASE", "secret")
    with serve(tmp_path / "data", "--models", models) as service:
        api = service.api()
        key_id = api.upload(tiny_keys / "server")
        job = api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()
        assert api.finished(job["id"])["state"] == "done"
        children = psutil.Process(service.process.pid).children(recursive=True)
        workers = [child for child in children if "fheinfer.worker" in child.cmdline()]
        assert workers
        for child in workers:
            assert not child.environ().keys() & {"FHEINFER_TOKEN", "FHEINFER_PASSPHRASE"}
        service.end(signal.SIGKILL)
        assert not psutil.wait_procs(workers, timeout=PATIENCE)[1]


def test_an_upload_goes_on_after_kill_9(models: Path, tmp_path: Path, tiny_keys: Path) -> None:
    folder = tiny_keys / "server"
    raw = (folder / "manifest.json").read_bytes()
    key_id, key = json.loads(raw)["key_id"], (folder / "relinearisation.key").read_bytes()
    at = f"/v1/keys/{key_id}"
    with serve(tmp_path / "data", "--models", models) as service:
        api = service.api()
        assert api("PUT", at, content=raw).status_code == 201
        part = api("PUT", f"{at}/files/relinearisation.key", content=key[:1000])
        assert part.json()["received"] == 1000
        service.end(signal.SIGKILL)
    with serve(tmp_path / "data", "--models", models) as service:
        api = service.api()
        wrong = api("PUT", f"{at}/files/relinearisation.key?offset=500", content=key[500:])
        assert (wrong.status_code, wrong.json()["received"]) == (409, 1000)
        rest = api("PUT", f"{at}/files/relinearisation.key?offset=1000", content=key[1000:])
        assert rest.json()["received"] == len(key)


WATCH = """
import json, sys
opened = []
EVENTS = ("open", "os.listdir", "os.scandir", "sqlite3.connect")
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in EVENTS else None)
from fheinfer.cli.main import main
try:
    main()
finally:
    print(json.dumps({"opened": opened, "modules": sorted(sys.modules)}))
"""


def test_the_http_process_opens_no_secret_and_loads_no_client(
    models: Path, tmp_path: Path, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    """Watched by an audit hook, with the client's keys in the folder that the service is started in."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copytree(tiny_keys, data / "keys" / "set1")
    with serve(data, "--models", models, python=WATCH) as service:
        api = service.api()
        key_id = api.upload(tiny_keys / "server")
        job = api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()["id"]
        assert api.finished(job)["state"] == "done"
        assert api("GET", f"/v1/jobs/{job}/result").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.stdout
        seen = json.loads(service.process.stdout.readlines()[-1])
        assert service.process.wait(PATIENCE) == 0
    assert any(path.endswith("service.db") for path in seen["opened"])
    assert any(path.endswith("client.json") for path in seen["opened"])
    assert not [path for path in seen["opened"] if "/secret/" in path or path.endswith("/secret")]
    loaded = set(seen["modules"])
    assert "fheinfer.service.http.app" in loaded
    for name in ("client", "local", "server", "worker", "service.remote", "runtime.executor"):
        assert f"fheinfer.{name}" not in loaded, name
    assert "torch" not in loaded


def test_addresses_that_are_open_need_protection(process: Run, models: Path, tmp_path: Path) -> None:
    options = ["--models", models, "--data", tmp_path / "data", "--port", "0"]
    for host in ("0.0.0.0", "::"):
        refused = process("serve", *options, "--host", host)
        assert refused.code == 2
        assert "--tls-cert" in refused.err
        assert len(refused.err.splitlines()) == 1
    assert "no address" not in process("serve", *options, "--host", "no.such.host.invalid").out


def test_protected_addresses_are_open() -> None:
    module.listen("0.0.0.0", 0, protected=True).close()
    with module.listen("127.0.0.1", 0, protected=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(fheinfer.errors.UsageError, match="choose another --port"):
            module.listen("127.0.0.1", port, protected=False)


@pytest.mark.parametrize(
    "options, says",
    [
        (["--tls-cert", "cert.pem"], "go together"),
        (["--tls-cert", "cert.pem", "--tls-key", "key.pem"], "cannot use --tls-cert"),
        (["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--behind-proxy"], "leave out"),
        (["--models", "nothing"], "name the folder"),
        (["token", "list", "--data", "nothing"], "name its folder"),
        (["token", "revoke", "ann", "--data", "nothing"], "name its folder"),
        (["token", "revoke", "ann", "--token", "12", "--delete"], "--delete takes"),
    ],
)
def test_what_cannot_be_is_one_line(process: Run, models: Path, tmp_path: Path, options: list[str], says: str) -> None:
    first = [] if "--models" in options or "token" in options else ["--models", models]
    result = process("serve", *first, *options, *([] if "token" in options else ["--port", "0"]))
    assert result.code != 0
    assert says in result.err
    assert len([line for line in result.err.splitlines() if not line.startswith("{")]) == 1
    assert not (tmp_path / "empty" / "nothing").exists()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def test_a_service_without_tls_says_so(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fheinfer.service.connection.FIRST_PATIENCE", 0.1)
    with pytest.raises(UnreachableError, match="it speaks no TLS; write http://"):
        fheinfer.Remote(serving.url.replace("http", "https"), keys=tmp_path).models()


def test_tls_by_files(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    options = ("--models", models, "--tls-cert", cert, "--tls-key", key)
    with serve(tmp_path / "data", *options) as service:
        assert service.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(cert))
        url = service.url.replace("127.0.0.1", "localhost")
        assert httpx.get(f"{url}/livez", verify=trusted).json() == {"live": True}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez")
        monkeypatch.setattr("fheinfer.service.connection.FIRST_PATIENCE", 0.1)
        for wrong, says in ((url, "SSL_CERT_FILE"), (service.url.replace("https", "http"), "https:// if it has TLS")):
            with pytest.raises(UnreachableError, match=says):
                fheinfer.Remote(wrong, keys=tmp_path).models()
        assert service.end() == 0


def test_connections_without_a_request_are_closed(monkeypatch: pytest.MonkeyPatch, serving: Serving) -> None:
    """One that sends a head and never its end, and one that sends nothing: both are gone, and others are served."""
    port = int(serving.url.rsplit(":", 1)[1])
    silent, dripping = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
    dripping.sendall(b"GET /livez HTTP/1.1\r\n")
    began = time.monotonic()
    for each in (silent, dripping):
        each.settimeout(3 * module.HEAD_SECONDS)
    dripping.sendall(b"X-Slow: 1\r\n")
    assert silent.recv(100) == b""
    assert dripping.recv(100) == b""
    assert module.HEAD_SECONDS * 0.5 < time.monotonic() - began < 3 * module.HEAD_SECONDS
    assert httpx.get(f"{serving.url}/livez").status_code == 200
    for each in (silent, dripping):
        each.close()


def test_a_client_that_goes_away_leaves_nothing(serving: Serving, tiny_keys: Path) -> None:
    """In the middle of a body."""
    raw = (tiny_keys / "server" / "manifest.json").read_bytes()
    key_id = json.loads(raw)["key_id"]
    before = sorted(serving.data.rglob("*"))
    with socket.create_connection(("127.0.0.1", int(serving.url.rsplit(":", 1)[1]))) as client:
        head = f"PUT /v1/keys/{key_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {serving.token}\r\n"
        client.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw[:100])
        time.sleep(0.5)
    wait_for(lambda: [line for line in serving.logged if line.get("status") == 499])
    gone = [line for line in serving.logged if line.get("status") == 499]
    assert [line["route"] for line in gone] == ["/v1/keys/{key_id}"]
    assert {line["event"] for line in serving.logged} == {"request"}
    assert sorted(serving.data.rglob("*")) == before
    assert serving.api().upload(tiny_keys / "server") == key_id  # and no slot for bodies is held


def test_tokens_by_the_command_line(process: Run, tmp_path: Path) -> None:
    data = ["--data", tmp_path / "data"]
    made = process("serve", "token", "add", "ann", *data)
    assert made.code == 0, made.err
    token = made.out.strip()
    assert token.startswith("fi_")
    assert token.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    listed = process("serve", "token", "list", *data)
    assert "ann" in listed.out
    assert token not in listed.out
    process("serve", "token", "add", "ann", "--max-jobs", "3", *data)
    first, second = json.loads(process("serve", "token", "list", "--json", *data).out)
    assert (first["name"], first["operator"], second["max_jobs"], second["jobs"]) == ("ann", False, 3, 0)
    assert first["id"] in listed.out
    assert "revoked 1 token" in process("serve", "token", "revoke", "ann", "--token", second["id"], *data).err
    assert "revoked 1 token of ann" in process("serve", "token", "revoke", "ann", *data).err
    assert process("serve", "token", "revoke", "bob", *data).code == 10
    refused = process("serve", *data, "token", "add", "ann")
    assert (refused.code, refused.out) == (2, "")
    assert "behind it" in refused.err
