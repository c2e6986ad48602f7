"""A service in this process, behind httpx's MockTransport, that can be made to lie: what a client must withstand."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import fheinfer
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.keystore import KeySet
from fheinfer.crypto.manifest import Manifest
from fheinfer.service.protocol import JobInfo, KeyFile, KeyStatus, ModelInfo, Receipt, ServerInfo
from fheinfer.service.receipts import Signer

TOKEN = "fi_" + "t" * 43
URL = "http://127.0.0.1:8000"


@dataclass
class FakeKeys:
    manifest: bytes
    files: dict[str, bytes] = field(default_factory=dict)

    def status(self, key_id: str) -> KeyStatus:
        entries = json.loads(self.manifest)["files"]
        files = [
            KeyFile(name=name, bytes=entry["bytes"], received=len(self.files.get(name, b"")))
            for name, entry in entries.items()
        ]
        received, total = sum(file.received for file in files), sum(file.bytes for file in files)
        return KeyStatus(
            key_id=key_id,
            complete=received == total,
            bytes=total,
            received=received,
            created=0.0,
            used=0.0,
            files=files,
        )


class FakeService:
    """Evaluates as a service does, one request at a time.

    models  folders of plans by name
    answer  called with every request and what would be answered: returns what is, or raises as a network does
    seen    methods and paths, in order
    """

    def __init__(self, models: Mapping[str, Path], signing_key: Path) -> None:
        self.models = dict(models)
        self.folders = {ClientSpec.load(folder).plan: folder for folder in models.values()}
        self.signer = Signer(signing_key)
        self.answer: Callable[[httpx.Request, httpx.Response], httpx.Response] = lambda request, response: response
        self.seen: list[str] = []
        self.keys: dict[str, FakeKeys] = {}
        self.jobs: dict[str, JobInfo] = {}
        self.results: dict[str, bytes] = {}
        self.worker_memory: int | None = None
        self.transport = httpx.MockTransport(self._handle)

    def serve(self, name: str, folder: Path) -> None:
        self.models[name] = folder
        self.folders[ClientSpec.load(folder).plan] = folder

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(f"{request.method} {request.url.path}")
        return self.answer(request, self._true(request))

    def _true(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/")
        if path == "server":
            return _json(ServerInfo(version="0.4", signing_key=self.signer.public))
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "TokenError", "not a token of this service")
        head, *rest = path.split("/")
        if head == "models":
            infos = [self._model(name) for name in (rest or self.models) if name in self.models]
            found = infos[0] if rest and infos else infos
            return _json(found) if infos or not rest else problem(404, "NotFoundError", "no such model")
        if head == "plans":
            return httpx.Response(200, content=(self.folders[rest[0]] / rest[1]).read_bytes())
        return self._keys(request, rest) if head == "keys" else self._jobs(request, rest)

    def _model(self, name: str) -> ModelInfo:
        spec = ClientSpec.load(self.models[name])
        policies = spec.keys
        return ModelInfo(
            name=name,
            plan=spec.plan,
            client=hashlib.sha256((self.models[name] / "client.json").read_bytes()).hexdigest(),
            model=spec.model,
            set=spec.params.name,
            input_shape=list(spec.input_shape),
            input_bytes=spec.input.bytes,
            result_bytes=spec.output_bytes,
            seconds={policy: needs.seconds for policy, needs in policies.items()},
            key_bytes={policy: needs.key_bytes for policy, needs in policies.items()},
            memory={policy: needs.peak_memory for policy, needs in policies.items()},
            worker_memory=self.worker_memory,
        )

    def _keys(self, request: httpx.Request, rest: list[str]) -> httpx.Response:
        if not rest:
            return _json([found.status(key_id).model_copy(update={"files": []}) for key_id, found in self.keys.items()])
        key_id = rest[0]
        if request.method == "DELETE":
            return httpx.Response(204 if self.keys.pop(key_id, None) else 404)
        if request.method == "PUT" and len(rest) == 1:
            self.keys.setdefault(key_id, FakeKeys(b"")).manifest = request.content
        if key_id not in self.keys:
            return problem(404, "NotFoundError", "no such keys")
        found = self.keys[key_id]
        if len(rest) == 1:
            return _json(found.status(key_id))
        name, offset = rest[2], int(request.url.params["offset"])
        have = found.files.setdefault(name, b"")
        if offset != len(have):
            return problem(409, "MismatchError", "another offset", received=len(have))
        entry = json.loads(found.manifest)["files"][name]
        found.files[name] = have + request.content
        if len(found.files[name]) == entry["bytes"] and not _intact(found.files[name], entry["sha256"]):
            del found.files[name]
            return problem(400, "CorruptArtifactError", f"{name} arrived damaged")
        return _json(KeyFile(name=name, bytes=entry["bytes"], received=len(found.files[name])))

    def _jobs(self, request: httpx.Request, rest: list[str]) -> httpx.Response:
        if not rest:
            return _json(list(self.jobs.values())) if request.method == "GET" else self._submit(request)
        if rest[0] not in self.jobs:
            return problem(404, "NotFoundError", "no such job")
        if request.method == "DELETE":
            del self.jobs[rest[0]]
            return httpx.Response(204)
        job = self.jobs[rest[0]]
        if rest[1:] == ["result"]:
            return self.signed(job, self.results[job.id])
        if rest[1:] == ["events"]:
            states = [
                job.model_copy(update={"state": "queued", "position": 1}),
                job.model_copy(update={"state": "running", "step": 1, "steps": 2, "seconds_left": 0.5}),
                job,
            ]
            text = ": hello\n\n" + "".join(f"event: job\ndata: {state.model_dump_json()}\n\n" for state in states)
            return httpx.Response(200, content=text.encode(), headers={"content-type": "text/event-stream"})
        return _json(job)

    def _submit(self, request: httpx.Request) -> httpx.Response:
        plan, key_id = request.url.params["plan"], request.url.params["key"]
        if key_id not in self.keys or not self.keys[key_id].status(key_id).complete:
            return problem(409, "KeyStoreError", "keys are missing")
        found = self.keys[key_id]
        keys = KeySet(Manifest.model_validate_json(found.manifest), found.files)
        result = fheinfer.Server().session(self.folders[plan], keys).evaluate(request.content)
        identifier = hashlib.sha256(request.content).hexdigest()[:32]
        self.results[identifier] = result
        self.jobs[identifier] = JobInfo(
            id=identifier,
            plan=plan,
            key_id=key_id,
            request=hashlib.sha256(request.content).hexdigest(),
            state="done",
            created=time.time(),
            started=time.time(),
            finished=time.time(),
        )
        return _json(self.jobs[identifier], 202)

    def signed(self, job: JobInfo, result: bytes, changes: Mapping[str, str] | None = None) -> httpx.Response:
        """A result with its receipt, in which `changes` may stand."""
        receipt = Receipt(
            job=job.id,
            request=job.request,
            result=hashlib.sha256(result).hexdigest(),
            plan=job.plan,
            key_id=job.key_id,
            finished=1.0,
        )
        return httpx.Response(
            200, content=result, headers=self.signer.headers(receipt.model_copy(update=changes or {}))
        )


def problem(status: int, kind: str, detail: str, received: int | None = None) -> httpx.Response:
    fields = {"title": "refused", "status": status, "detail": detail, "kind": kind, "received": received}
    return httpx.Response(status, json=fields, headers={"content-type": "application/problem+json"})


def _json(found: Any, status: int = 200) -> httpx.Response:
    plain = [one.model_dump(mode="json") for one in found] if isinstance(found, list) else found.model_dump(mode="json")
    return httpx.Response(status, json=plain)


def _intact(file: bytes, sha256: str) -> bool:
    """As the service does it: the checksum that stands in the header is that of the rest, and in the manifest."""
    digest = hashlib.sha256(file[:72])
    digest.update(file[104:])
    return file[72:104] == digest.digest() == bytes.fromhex(sha256)
