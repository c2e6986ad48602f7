"""What a service and its clients say to each other: paths, bounds and the JSON that both sides check.

docs/reference/http.md has the API in prose; `/openapi.json` of a running service has it as a description.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fheinfer.crypto import artifact, client_spec, manifest
from fheinfer.crypto.client_tensors import Hash
from fheinfer.crypto.key_policy import KeyPolicy

PROTOCOL: Literal[1] = 1
PREFIX = "/v1"
CHUNK_BYTES = 8 << 20
"""Bytes of a key file that travel in one request at most."""
TOKEN_PREFIX = "fi_"
TOKEN_PATTERN = r"^fi_[A-Za-z0-9_-]{43}$"
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
KEY_ID = r"^[0-9a-f]{32}$"
JOB_ID = r"^[0-9a-f]{32}$"
KEY_FILE = r"^[a-z_]{1,32}\.key$|^rotation_[0-9]{1,6}_[0-9]{1,3}\.key$"
RECEIPT_HEADER, SIGNATURE_HEADER = "Fheinfer-Receipt", "Fheinfer-Signature"

ModelName = Annotated[str, Field(pattern=MODEL_NAME)]
KeyId = Annotated[str, Field(pattern=KEY_ID)]
JobId = Annotated[str, Field(pattern=JOB_ID)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Seconds since 1970, UTC."""
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL: frozenset[JobState] = frozenset(("done", "failed", "cancelled"))


class Message(BaseModel):
    """Frozen. What a newer version adds is ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class ServerInfo(Message):
    """The handshake: who answers, which formats it reads, and the Ed25519 key (hex) that signs its receipts."""

    service: Literal["fheinfer"] = "fheinfer"
    version: Annotated[str, Field(max_length=64)]
    protocol: int = PROTOCOL
    container: int = artifact.VERSION
    client: int = client_spec.FORMAT
    keys: int = manifest.FORMAT
    signing_key: Hash


class ModelInfo(Message):
    """A model of the service, and what a run of it is predicted to take.

    name        by which it is asked for
    plan        SHA-256 (hex) of the plan that this name means now
    client      SHA-256 (hex) of its client.json
    model       the network's own name
    set         name of the parameter set
    input_shape of what a client encrypts
    input_bytes of an encrypted input under the secret key
    seconds, key_bytes, memory    of an evaluation, by key policy, on the reference machine (docs/benchmarks)
    accuracy    a fraction, where the service's owner states one
    split       whether the first layers are computed by the client
    worker_memory   bytes that a worker of this service may take for a job; None where nobody limits them
    """

    name: ModelName
    plan: Hash
    client: Hash
    model: Annotated[str, Field(max_length=200)]
    set: Annotated[str, Field(max_length=64)]
    input_shape: Annotated[list[int], Field(min_length=1, max_length=4)]
    input_bytes: Count
    result_bytes: Count
    seconds: dict[KeyPolicy, Seconds]
    key_bytes: dict[KeyPolicy, Count]
    memory: dict[KeyPolicy, Count]
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    description: Annotated[str, Field(max_length=2000)] = ""
    split: bool = False
    worker_memory: Count | None = None

    @model_validator(mode="after")
    def _same_policies(self) -> ModelInfo:
        if not self.seconds or not self.seconds.keys() == self.key_bytes.keys() == self.memory.keys():
            raise ValueError("predictions of other key policies than there are")
        return self


class KeyFile(Message):
    """A key file, and how much of it the service has. It is verified and usable where both numbers are the same."""

    name: Annotated[str, Field(pattern=KEY_FILE)]
    bytes: Count
    received: Count


class KeyStatus(Message):
    """The keys of one key id: usable where `complete`. `files` is empty in lists of keys."""

    key_id: KeyId
    complete: bool
    bytes: Count
    received: Count
    created: Time
    used: Time
    files: list[KeyFile] = []


class Problem(Message):
    """An error as RFC 9457 has it. `kind` is its class in `fheinfer.errors`; `received` is told of a wrong offset."""

    type: str = "about:blank"
    title: Annotated[str, Field(max_length=200)]
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(max_length=2000)]
    kind: Annotated[str, Field(max_length=64)] = "ServiceError"
    received: Count | None = None


class JobInfo(Message):
    """A job as its owner sees it.

    request       SHA-256 (hex) of the encrypted input
    position      in the queue, 1 being the next; None where it is not queued
    step, steps   of the plan that are done, while it runs
    seconds_left  predicted, while it runs
    expires       when input and result are deleted
    """

    id: JobId
    plan: Hash
    key_id: KeyId
    request: Hash
    state: JobState
    created: Time
    position: Count | None = None
    step: Count = 0
    steps: Count = 0
    seconds_left: Seconds | None = None
    started: Time | None = None
    finished: Time | None = None
    expires: Time | None = None
    error: Problem | None = None


class Receipt(Message):
    """What the service states of a result, signed with the key in `ServerInfo`.

    request, result  SHA-256 (hex) of the encrypted input and of the encrypted result
    """

    job: JobId
    request: Hash
    result: Hash
    plan: Hash
    key_id: KeyId
    finished: Time
