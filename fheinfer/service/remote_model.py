"""One model of a service: encrypted inputs to it, and results that are believed only with a receipt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.client import Client
from fheinfer.crypto.artifact import HEADER_BYTES, MAX_METADATA, key_id_of, request_id
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.errors import (
    ArtifactError,
    BackendError,
    FheinferError,
    InputError,
    JobError,
    KeyStoreError,
    LimitError,
    NotFoundError,
    RangeError,
    UntrustedServerError,
)
from fheinfer.evaluating import Event, ignore
from fheinfer.service import receipts
from fheinfer.service.connection import Answer, Connection, TooLongError
from fheinfer.service.following import follow
from fheinfer.service.protocol import (
    PREFIX,
    JobInfo,
    ModelInfo,
)
from fheinfer.service.remote_keys import RemoteKeys
from fheinfer.service.uploading import away
from fheinfer.storage import shown

F64 = NDArray[np.float64]
AHEAD = 4
"""Jobs of one client that wait at once, of many inputs: so that a service with several workers has work for them."""


@dataclass(frozen=True)
class Evaluated:
    """What became of one input.

    name     of the input
    outputs  by name, as the service computed them: without a last softmax
    job      as it ended
    sizes    bytes of the encrypted input and of the result
    """

    name: str
    outputs: dict[str, F64]
    job: JobInfo
    sizes: dict[str, int]


@dataclass(frozen=True)
class _Sent:
    name: str
    encrypted: bytes
    job: JobInfo


class RemoteModel:
    """A model of a service, opened by `Remote.open`. Its methods tell `on_event` of what is done:

        {"event": "keygen", "fraction": 0.5}
        {"event": "upload", "done": 1024, "total": 4096}                          bytes of keys
        {"event": "encrypt"}
        {"event": "queued", "job": "...", "position": 2}                          1 is the next
        {"event": "step", "job": "...", "index": 3, "total": 30, "seconds_left": 4.5}   steps that are done
        {"event": "result"}
        {"event": "decrypt"}
        {"event": "away", "reason": "..."}                                        no answer; it is asked again

    info    of the model, as the service says
    spec    of its plan, as it was pinned
    keys    for it
    folder  where they are kept
    """

    def __init__(
        self, connection: Connection, signing_key: str, info: ModelInfo, spec: ClientSpec, keys: RemoteKeys
    ) -> None:
        self.info, self.spec, self.keys, self.folder = info, spec, keys, keys.folder
        self._connection, self._signing_key = connection, signing_key
        self._fetched: set[str] = set()

    @property
    def client(self) -> Client:
        """The client with the present keys.

        Raises:
            UsageError: `prepare` was not called yet.
        """
        return self.keys.present

    def prepare(self, on_event: Callable[[Event], None] = ignore) -> None:
        """Makes keys where there are none, or none that still serve, and uploads what the service lacks of them.

        Whoever is interrupted calls it again: it goes on where it was. Raises what `RemoteKeys.prepare` does.
        """
        self.keys.prepare(on_event)

    def encrypt(self, x: NDArray[np.floating]) -> bytes:
        """A normalised input as an artifact, under the present keys. Raises what `Client.encrypt` and `client` do."""
        return self.client.encrypt(x)

    def submit(self, encrypted: bytes) -> JobInfo:
        """Sends an encrypted input. The same one again gives the same job.

        Raises:
            UntrustedServerError: the service took something else.
            ServiceError: see `connection.Connection.request`; LimitError where too many jobs wait.
            KeyStoreError, NotFoundError: it lacks these keys (any more).
        """
        return self._submit(encrypted)

    def _submit(self, encrypted: bytes, **options: Any) -> JobInfo:
        key_id, request = key_id_of(encrypted), request_id(encrypted)
        params: dict[str, str | int] = {"plan": self.spec.plan, "key": key_id}
        job = self._connection.json(JobInfo, "POST", f"{PREFIX}/jobs", params=params, content=encrypted, **options)
        if (job.plan, job.key_id, job.request) != (self.spec.plan, key_id, request):
            raise UntrustedServerError(f"{self._connection.url} took another request than was sent; tell its owner")
        return job

    def follow(self, job_id: str, on_event: Callable[[Event], None] = ignore) -> JobInfo:
        """The job when it is done, failed or cancelled. Raises what `following.follow` does."""

        def tell(job: JobInfo) -> None:
            if job.state == "queued":
                on_event({"event": "queued", "job": job.id, "position": job.position})
            elif job.state == "running":
                left = {"index": job.step, "total": job.steps, "seconds_left": job.seconds_left}
                on_event({"event": "step", "job": job.id, **left})

        return follow(self._connection, job_id, tell, away(on_event))

    def result(self, job_id: str, encrypted: bytes) -> bytes:
        """The encrypted result of a job that is done, with a receipt that was checked. Its job is deleted first.

        Raises:
            UntrustedServerError: it is not the result of this input under these keys and this plan, signed.
            JobError: the job is not done; or its result was fetched already, and once is enough (SECURITY.md).
            NotFoundError: its result was deleted.
        """
        answer = self._fetch(job_id)
        self._drop(job_id)  # before the result is looked at, whatever comes of that
        return self._checked(answer, job_id, encrypted)

    def decrypt(self, result: bytes, encrypted: bytes) -> dict[str, F64]:
        """Outputs by name, without a last softmax, of a result of this input. It counts toward new keys.

        Raises:
            UntrustedServerError: the result does not decrypt to what this plan can give; nothing says what was wrong.
            UsageError: keys that this object did not encrypt with.
        """
        client = self.keys.client_of(key_id_of(encrypted))
        self.folder.count(client.key_id)
        try:
            return client.outputs(result, request=encrypted)
        except (ArtifactError, RangeError, BackendError):
            raise self._refused() from None

    def evaluate(
        self,
        inputs: Mapping[str, NDArray[np.floating]],
        on_event: Callable[[Event], None] = ignore,
        on_failure: Callable[[str, FheinferError], None] | None = None,
    ) -> Iterator[Evaluated]:
        """Keys, then every input: encrypted, sent, followed, fetched and decrypted. In their order; a few wait at once.

        Jobs leave the service when their result is here, or when something fails or stops this.

        Args:
            on_failure: told of an input whose job failed, and why; the others go on. By default its error is raised.

        Raises:
            InputError, RangeError: an input that the network does not take; before anything is sent.
            FheinferError: see the other methods; a job that failed raises what its worker raised.
        """
        for name, x in inputs.items():
            self._require_fit(name if len(inputs) > 1 else None, x)
        self.prepare(on_event)
        waiting: deque[_Sent] = deque()
        try:
            for name, x in inputs.items():
                if len(waiting) == AHEAD:
                    yield from self._finished(waiting, on_event, on_failure)
                if self.keys.used_up(len(waiting)):
                    while waiting:
                        yield from self._finished(waiting, on_event, on_failure)
                    self.prepare(on_event)
                on_event({"event": "encrypt"})
                encrypted, new = self.encrypt(x), None
                while new is None:
                    try:
                        new = self._sent(name, x, encrypted, on_event, at_limit=not waiting)
                    except LimitError:  # one that is finished makes room sooner than a pause does
                        if not waiting:
                            raise
                        yield from self._finished(waiting, on_event, on_failure)
                waiting.append(new)
            while waiting:
                yield from self._finished(waiting, on_event, on_failure)
        finally:
            for sent in waiting:
                self._drop(sent.job.id)

    def _require_fit(self, name: str | None, x: NDArray[np.floating]) -> None:
        try:
            self.spec.pack(x)
        except (InputError, RangeError) as error:
            if name is None:
                raise
            raise type(error)(f"input {shown(name)}: {error}") from None

    def outputs(self, x: NDArray[np.floating], on_event: Callable[[Event], None] = ignore) -> dict[str, F64]:
        """Outputs by name of one normalised input, without a last softmax. Raises what `evaluate` does."""
        [found] = self.evaluate({"input": x}, on_event)
        return found.outputs

    def infer(self, x: NDArray[np.floating], on_event: Callable[[Event], None] = ignore) -> Any:
        """What the network returns of one normalised input, or of several along a first axis; see `Remote.infer`."""
        values = np.asarray(x, np.float64)
        many = values.ndim == len(self.spec.input_shape) + 1
        inputs = {str(index): one for index, one in enumerate(values if many else values[None])}
        found = [one.outputs for one in self.evaluate(inputs, on_event)]
        return self.spec.finish_many(found) if many else self.spec.finish(found[0])

    def failure(self, job: JobInfo) -> FheinferError:
        """Why a job that ended is not done: what its worker raised, or a JobError."""
        if job.error is not None:
            return self._connection.error(job.error)
        return JobError(f"{self._connection.url}: job {job.id[:8]} was {job.state}; send the input again")

    def delete(self, job_id: str) -> None:
        """Cancels a job where it is not done, and deletes all of it at the service; one that is gone is no error."""
        self._delete(job_id)

    def _delete(self, job_id: str, patience: float | None = None) -> None:
        path = f"{PREFIX}/jobs/{job_id}"
        self._connection.request(lambda answer: None, "DELETE", path, also=(404,), patience=patience)

    def _sent(
        self, name: str, x: NDArray[np.floating], encrypted: bytes, on_event: Callable[[Event], None], at_limit: bool
    ) -> _Sent:
        """Sends an encrypted input; encrypted once more where the service has lost the keys meanwhile.

        Args:
            at_limit: whether to wait where too many jobs wait; otherwise a LimitError says so at once.
        """
        options: dict[str, Any] = {"at_limit": at_limit, "on_away": away(on_event)}
        try:
            return _Sent(name, encrypted, self._submit(encrypted, **options))
        except (KeyStoreError, NotFoundError):
            self.prepare(on_event)
        encrypted = self.encrypt(x)
        return _Sent(name, encrypted, self._submit(encrypted, **options))

    def _finished(
        self,
        waiting: deque[_Sent],
        on_event: Callable[[Event], None],
        on_failure: Callable[[str, FheinferError], None] | None,
    ) -> Iterator[Evaluated]:
        """The first of those that wait, when it is done; nothing where it failed and `on_failure` was told."""
        sent = waiting.popleft()
        try:
            job = self.follow(sent.job.id, on_event)
            if job.state != "done":
                if on_failure is None:
                    raise self.failure(job)
                on_failure(sent.name, self.failure(job))
                return
            on_event({"event": "result"})
            answer = self._fetch(job.id, on_event)
        finally:
            self._drop(sent.job.id)
        result = self._checked(answer, sent.job.id, sent.encrypted)
        on_event({"event": "decrypt"})
        outputs = self.decrypt(result, sent.encrypted)
        yield Evaluated(sent.name, outputs, job, {"input": len(sent.encrypted), "result": len(result)})

    def _drop(self, job_id: str) -> None:
        """Deletes a job at the service if that is easy; it is deleted there after a while, too."""
        with suppress(FheinferError):
            self._delete(job_id, patience=0.0)

    def _fetch(self, job_id: str, on_event: Callable[[Event], None] = ignore) -> Answer | None:
        """The answer with the result of a job, whole and unchecked; None of one that is too long to be a result."""
        if job_id in self._fetched:
            raise JobError("the result of this job was fetched already; encrypt and send the input again")
        limit = self.spec.output_bytes + HEADER_BYTES + MAX_METADATA
        try:
            path = f"{PREFIX}/jobs/{job_id}/result"
            answer = self._connection.request(lambda answer: answer, "GET", path, limit=limit, on_away=away(on_event))
        except TooLongError:
            answer = None
        self._fetched.add(job_id)
        return answer

    def _checked(self, answer: Answer | None, job_id: str, encrypted: bytes) -> bytes:
        """The result in an answer, if its receipt says what it has to."""
        if answer is None:
            raise self._refused()
        try:
            found = receipts.verify(answer.headers, self._signing_key)
        except UntrustedServerError:
            raise self._refused() from None
        said = (found.job, found.request, found.result, found.plan, found.key_id)
        if said != (job_id, request_id(encrypted), request_id(answer.body), self.spec.plan, key_id_of(encrypted)):
            raise self._refused()
        return answer.body

    def _refused(self) -> UntrustedServerError:
        """The same whatever was wrong: more would tell a service that makes up results about the secret key."""
        return UntrustedServerError(
            f"{self._connection.url}: a result that is not the signed answer to this input: it is not shown, and not "
            "asked for again; docs/how-to/remote.md says what to do"
        )
