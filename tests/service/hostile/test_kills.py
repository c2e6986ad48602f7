"""`kill -9` of a real service at random moments of uploads, submissions, running jobs and deletions.

Issue: "After `kill -9` at any point: accepted jobs are done, uploaded keys are there or are asked for again, nothing
half written is used". Threats: operations; resumable upload, verified.
"""

from __future__ import annotations

import hashlib
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.manifest import Manifest
from tests.service.conftest import PATIENCE, Api, serve

CHUNK = 300_000


class Client:
    """An account that uploads, submits and deletes, and remembers what it was told."""

    def __init__(self, plan: Plan, folders: list[Path], rng: random.Random) -> None:
        self.plan, self.rng = plan, rng
        self.clients = {}
        self.servers = {}
        for folder in folders:
            key_id = Manifest.load(folder / "server" / "manifest.json").key_id
            self.clients[key_id] = fheinfer.Client(folder, plan.client)
            self.servers[key_id] = folder / "server"
        self.sent: dict[str, tuple[str, bytes, Any]] = {}
        """By SHA-256 of an input: key id, input, image. Whether it was accepted or not."""
        self.accepted: dict[str, str] = {}
        """Job by SHA-256 of its input."""
        self.deleted: set[str] = set()
        """Inputs whose job or keys were deleted, or may have been."""

    def work(self, api: Api) -> None:
        """Until the service is gone."""
        try:
            while True:
                action = self.rng.random()
                key_id = self.rng.choice(list(self.servers))
                if action < 0.6:
                    self.submit(api, key_id)
                elif action < 0.7 and self.accepted:
                    self.delete_job(api, self.rng.choice(list(self.accepted)))
                elif action < 0.75:
                    self.delete_keys(api, key_id)
                self.upload(api, key_id)
        except httpx.TransportError:
            pass

    def upload(self, api: Api, key_id: str) -> None:
        at, server = f"/v1/keys/{key_id}", self.servers[key_id]
        begun = api("PUT", at, content=(server / "manifest.json").read_bytes())
        assert begun.status_code in (200, 201), begun.text
        for file in begun.json()["files"]:
            data, received = (server / file["name"]).read_bytes(), file["received"]
            while received < len(data):
                params = {"offset": received}
                answer = api("PUT", f"{at}/files/{file['name']}", params=params, content=data[received:][:CHUNK])
                assert answer.status_code == 200, answer.text
                received = answer.json()["received"]
        assert api("GET", at).json()["complete"]

    def submit(self, api: Api, key_id: str) -> None:
        image = np.random.default_rng(self.rng.randrange(1 << 30)).uniform(-1, 1, self.plan.client.input_shape)
        encrypted = self.clients[key_id].encrypt(image)
        request = hashlib.sha256(encrypted).hexdigest()
        self.sent[request] = key_id, encrypted, image
        answer = api.submit(encrypted, self.plan.identity, key_id)
        if answer.status_code == 202:
            self.accepted[request] = answer.json()["id"]
        else:
            assert answer.status_code in (404, 409), answer.text  # keys that are not there, or not all of them

    def delete_job(self, api: Api, request: str) -> None:
        self.deleted.add(request)
        assert api("DELETE", f"/v1/jobs/{self.accepted[request]}").status_code in (204, 404)

    def delete_keys(self, api: Api, key_id: str) -> None:
        self.deleted |= {request for request, (theirs, _, _) in self.sent.items() if theirs == key_id}
        assert api("DELETE", f"/v1/keys/{key_id}").status_code in (204, 404)

    def check(self, api: Api) -> None:
        """That nothing was lost, nothing is there twice, and every result is right."""
        for request, job in self.accepted.items():
            if request in self.deleted:
                continue
            key_id, encrypted, image = self.sent[request]
            done = api.finished(job)
            assert (done["state"], done["request"]) == ("done", request), done
            result = api("GET", f"/v1/jobs/{job}/result")
            assert result.status_code == 200
            found = self.clients[key_id].decrypt(result.content, request=encrypted)
            assert fheinfer.precision_bits(fheinfer.run_slots(self.plan, image), found).minimum > 12
            assert api.submit(encrypted, self.plan.identity, key_id).json()["id"] == job
        jobs = api("GET", "/v1/jobs").json()
        living = [job["request"] for job in jobs if job["state"] != "cancelled"]
        assert len(living) == len(set(living))
        assert {job["request"] for job in jobs} <= self.sent.keys()
        for job in jobs:
            if job["request"] not in self.deleted:
                assert api.finished(job["id"])["state"] == "done"


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_at_random_moments(
    rounds: int, models: Path, tmp_path: Path, tiny_plan: Plan, tiny_keys: Path, other_keys: Path
) -> None:
    rng = random.Random(rounds)
    client, token = Client(tiny_plan, [tiny_keys, other_keys], rng), ""
    options = ("--models", models, "--threads", 1)
    for _ in range(rounds):
        with serve(tmp_path / "data", *options) as service:
            token = token or service.token
            api = service.api(token)
            client.check(api)
            worker = threading.Thread(target=client.work, args=(api,))
            worker.start()
            time.sleep(rng.uniform(0.0, 4.0))
            service.end(signal.SIGKILL)
            worker.join(PATIENCE)
            assert not worker.is_alive()
    with serve(tmp_path / "data", *options) as service:
        api = service.api(token)
        client.check(api)
        for key_id in client.servers:
            client.upload(api, key_id)  # goes on wherever it was
            client.submit(api, key_id)
        client.check(api)
        left = {path.name for path in (tmp_path / "data" / "jobs").iterdir()}
        assert left <= {job["id"] for job in api("GET", "/v1/jobs").json()}
        assert not list((tmp_path / "data" / "uploads").glob("*/*"))
    assert client.accepted
