"""A service as its client sees it: models, one of them opened, and answers to encrypted inputs (docs/how-to/remote.md).

The client believes its own files. What it learnt of a service at first contact is pinned (`remembered`), and a result
counts only under a receipt by the pinned key that names this input, this plan, these keys and this very result.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from fheinfer.crypto import artifact, client_spec, manifest
from fheinfer.crypto.client_layers import MAX_BYTES as MAX_LAYERS
from fheinfer.crypto.client_layers import SUFFIX, ClientLayers
from fheinfer.crypto.client_spec import FILE_NAME, ClientSpec
from fheinfer.errors import MismatchError, NotFoundError, UntrustedServerError, UsageError
from fheinfer.evaluating import Event, ignore
from fheinfer.service.connection import PATIENCE, Answer, Connection
from fheinfer.service.protocol import KEY_ID, MODEL_NAME, PREFIX, PROTOCOL, JobInfo, KeyStatus, ModelInfo, ServerInfo
from fheinfer.service.remembered import ModelFolder, pin
from fheinfer.service.remote_keys import RemoteKeys
from fheinfer.service.remote_model import RemoteModel
from fheinfer.storage import shown

__all__ = ["Remote", "RemoteModel"]


class Remote:
    """A service that evaluates encrypted inputs. Keys are made and kept here; the secret never leaves this machine.

    Args:
        url: https://HOST[:PORT], or http://127.0.0.1:PORT on this machine.
        token: by which the service knows this client; from FHEINFER_TOKEN by default.
        keys: folder for keys and what is pinned, one folder in it for each service.
        passphrase: seals secret keys that are made, and opens those that are there.
        renew_after: results that are decrypted before keys are replaced by new ones (SECURITY.md says why).
        rotations: kind of keys that are made: minimal, fast, or by default the fastest that the service's workers have
            the memory for. Keys of another kind are replaced.
        transport: instead of the network, for tests.
        verify: True, or a context that has other authorities; certificates are always checked.
        name: of the service's folder in `keys`, for one whose address changes; by default the address names it.
        patience: seconds that requests are repeated for while a service that has answered is away.

    Raises:
        UsageError: no such address, plain http to another machine, or keys that would last for no result.
        TokenError: something that is no token.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        keys: Path | str = "keys/servers",
        passphrase: str | bytes | None = None,
        renew_after: int = 1000,
        rotations: str = "auto",
        transport: httpx.BaseTransport | None = None,
        verify: ssl.SSLContext | Literal[True] = True,
        name: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        if renew_after < 1:
            raise UsageError(f"new keys after {renew_after} results; choose 1 or more")
        self._connection = Connection(url, token, transport=transport, verify=verify, patience=patience)
        self._folder = Path(keys) / (name or self._connection.name)
        self._passphrase, self._renew_after, self._rotations = passphrase, renew_after, rotations
        self._opened: dict[str, RemoteModel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

    @property
    def url(self) -> str:
        """The service's address."""
        return self._connection.url

    @cached_property
    def info(self) -> ServerInfo:
        """Who answers there. Its signing key is pinned at the first contact.

        Raises:
            UnreachableError: nobody, or no service.
            MismatchError: it speaks another version.
            UntrustedServerError: another signing key than the one that was pinned.
        """
        info = self._connection.json(ServerInfo, "GET", f"{PREFIX}/server")
        theirs = (info.protocol, info.container, info.client, info.keys)
        if theirs != (PROTOCOL, artifact.VERSION, client_spec.FORMAT, manifest.FORMAT):
            raise MismatchError(
                f"{self.url} runs fheinfer {shown(info.version, 40)}, which has other formats than this program; "
                "use that version"
            )
        pin(self._folder, self.url, info)
        return info

    def models(self) -> tuple[ModelInfo, ...]:
        """The models of the service.

        Raises:
            ServiceError, MismatchError: see `info`; TokenError where the service wants another token.
        """
        _ = self.info  # who answers is asked first
        return tuple(self._connection.json(list[ModelInfo], "GET", f"{PREFIX}/models"))

    def keys(self) -> tuple[KeyStatus, ...]:
        """The evaluation keys that the service keeps of this client, without their files. Raises what `models` does."""
        _ = self.info
        return tuple(self._connection.json(list[KeyStatus], "GET", f"{PREFIX}/keys"))

    def jobs(self) -> tuple[JobInfo, ...]:
        """The jobs that the service keeps of this client. Raises what `models` does."""
        _ = self.info
        return tuple(self._connection.json(list[JobInfo], "GET", f"{PREFIX}/jobs"))

    def delete_keys(self, key_id: str) -> None:
        """Deletes keys at the service, and the jobs that wait for them. Those that are here stay, and are uploaded
        again when they are used again.

        Raises:
            UsageError: no key id.
            NotFoundError: the service has no such keys of this client.
            ServiceError: see `models`.
        """
        if not re.fullmatch(KEY_ID, key_id):
            raise UsageError(f"{shown(key_id)}: no key id; `fheinfer model keys --server {self.url}` lists them")
        _ = self.info
        self._connection.request(lambda answer: None, "DELETE", f"{PREFIX}/keys/{key_id}")

    def open(self, model: str | None = None, *, accept_plan: bool = False) -> RemoteModel:
        """A model of the service. Its plan is pinned the first time.

        Args:
            model: its name; the only one that there is by default.
            accept_plan: take and pin whatever plan the service has under that name now.

        Raises:
            UsageError: there are several models, or what was given is no name.
            NotFoundError: no such model.
            UntrustedServerError: the plan is another one than the one that was pinned.
            ServiceError, ArtifactError, PlanError: see `info` and `ClientSpec.load`.
        """
        name = self._only_name() if model is None else model
        if not re.fullmatch(MODEL_NAME, name):
            raise UsageError(f"{shown(name)}: no name of a model; `fheinfer model list --server {self.url}` lists them")
        key = self.info.signing_key
        try:
            info = self._connection.json(ModelInfo, "GET", f"{PREFIX}/models/{name}")
        except NotFoundError:
            raise NotFoundError(
                f"{self.url} has no model {shown(name)}; `fheinfer model list --server {self.url}` lists those it has"
            ) from None
        known = self._opened.get(name)
        if known is None or known.info.plan != info.plan:
            spec = self._spec(name, info, accept_plan)
            folder = self._model_folder(name)
            keys = RemoteKeys(
                self._connection, spec, folder, self._passphrase, self._renew_after, self._rotations, info.worker_memory
            )
            known = RemoteModel(self._connection, key, info, spec, keys)
            self._opened[name] = known
        return known

    def infer(
        self, x: NDArray[np.floating], model: str | None = None, on_event: Callable[[Event], None] = ignore
    ) -> Any:
        """What the network returns of normalised inputs, computed encrypted by the service.

        Args:
            x: one input, or several along a first axis.
            model: its name; the only one that there is by default.
            on_event: told of every event (`RemoteModel`).

        Returns:
            As `Client.decrypt`, of several inputs with a first axis for them.

        Raises:
            FheinferError: see `open` and `RemoteModel.evaluate`.
        """
        return self.open(model).infer(x, on_event)

    def _only_name(self) -> str:
        names = [info.name for info in self.models()]
        if not names:
            raise NotFoundError(f"{self.url} has no model; its owner adds them")
        if len(names) > 1:
            few = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise UsageError(f"{self.url} has several models; name one of {few}")
        return names[0]

    def _model_folder(self, name: str) -> ModelFolder:
        return ModelFolder(self._folder / name)

    def _spec(self, name: str, info: ModelInfo, accept: bool) -> ClientSpec:
        """The pinned plan of a model, or the one that the service has, which is pinned then."""
        folder = self._model_folder(name)
        pinned = None if accept else folder.spec()
        if pinned is not None and pinned.plan != info.plan:
            raise UntrustedServerError(
                f"{self.url} has another plan as {name} ({info.plan[:8]}) than before ({pinned.plan[:8]}): its network "
                "or its weights were changed; ask its owner, and accept it by --accept-plan (accept_plan=True)"
            )
        if pinned is not None:
            return pinned
        spec = self._fetched_spec(name, info)
        folder.accept(spec)
        return spec

    def _fetched_spec(self, name: str, info: ModelInfo) -> ClientSpec:
        path = f"{PREFIX}/plans/{info.plan}/client"
        raw = self._file(f"{path}.json", client_spec.MAX_BYTES, info.client)
        title = f"{self.url}, {FILE_NAME} of {name}"
        spec = ClientSpec.from_bytes(raw, title)
        if spec.plan != info.plan:
            raise UntrustedServerError(f"{title}: of another plan than the one that was asked for; tell its owner")
        if spec.before is None:
            return spec
        data = self._file(f"{path}{SUFFIX}", MAX_LAYERS, spec.before.sha256)
        return spec.with_layers(ClientLayers.from_bytes(data, title))

    def _file(self, path: str, limit: int, sha256: str) -> bytes:
        """The file with that hash; another one is a damaged answer."""

        def checked(answer: Answer) -> bytes:
            if hashlib.sha256(answer.body).hexdigest() != sha256:
                raise ValueError("another file")
            return answer.body

        return self._connection.request(checked, "GET", path, limit=limit)
