"""What a client keeps of a service: its signing key as pinned, and of each model the plan as pinned and the keys.

keys/servers/<host>_<port>/server.json                address and signing key, as of the first contact
keys/servers/<host>_<port>/<model>/client.json        the plan that was accepted, with what a client knows of it
keys/servers/<host>_<port>/<model>/keys/{secret,server}   as `fheinfer keygen` writes them
keys/servers/<host>_<port>/<model>/results.json       results decrypted with these keys; replaced keys still to delete
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fheinfer.crypto.client_spec import FILE_NAME, ClientSpec
from fheinfer.crypto.client_tensors import Hash
from fheinfer.crypto.key_writer import SERVER_FOLDER
from fheinfer.crypto.manifest import FILE_NAME as MANIFEST_FILE
from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import StorageError, UntrustedServerError
from fheinfer.service.protocol import Count, KeyId, ServerInfo
from fheinfer.storage import PRIVATE_FOLDER, make_folder, read_json, shown, storage_errors, write_json

MAX_BYTES = 1 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Pinned(_Frozen):
    """A service as it was at first contact."""

    url: Annotated[str, Field(max_length=300)]
    signing_key: Hash


class Results(_Frozen):
    """Results that were decrypted with the keys of `key_id`, and replaced keys that the service may still have."""

    key_id: KeyId
    results: Count = 0
    replaced: tuple[KeyId, ...] = ()

    @field_validator("replaced", mode="before")
    @classmethod
    def _tuples(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


def pin(folder: Path, url: str, info: ServerInfo) -> None:
    """Remembers the signing key of a service, or asks whether it is the one that is remembered.

    Raises:
        UntrustedServerError: it is another one.
        CorruptArtifactError, StorageError: see `storage.read_json` and `storage.atomic_write`.
    """
    path = folder / "server.json"
    make_folder(folder)
    with locked(folder / ".lock"):
        try:
            known = read_json(path, MAX_BYTES, Pinned, "delete it if this service was set up anew")
        except FileNotFoundError:
            write_json(path, Pinned(url=url, signing_key=info.signing_key).model_dump(mode="json"))
            return
    if known.signing_key != info.signing_key:
        raise UntrustedServerError(
            f"{url} signs with another key ({info.signing_key[:8]}) than before ({known.signing_key[:8]}): it is "
            f"another service, or was set up anew; ask its owner, and only then delete {shown(path)}"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process and no other thread has this lock, and has it.

    Raises:
        StorageError: its file cannot be made or locked.
    """
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageError(
                f"cannot lock {shown(path)} ({error.strerror}); choose a folder on a disk of this machine"
            ) from error
        yield
    finally:
        os.close(fd)


class ModelFolder:
    """What is kept of one model of a service, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys = folder, folder / "keys"
        self._results = folder / "results.json"

    def make(self) -> None:
        """Makes the folder. Raises StorageError."""
        make_folder(self.folder, PRIVATE_FOLDER)

    def spec(self) -> ClientSpec | None:
        """The plan that was accepted; None before that. Raises what `ClientSpec.load` does."""
        return ClientSpec.load(self.folder / FILE_NAME) if (self.folder / FILE_NAME).exists() else None

    def accept(self, spec: ClientSpec) -> None:
        """Pins a plan. Raises StorageError."""
        self.make()
        spec.save(self.folder / FILE_NAME)

    def manifest(self) -> Manifest | None:
        """What keys there are. Raises what `Manifest.load` does."""
        path = self.keys / SERVER_FOLDER / MANIFEST_FILE
        return Manifest.load(path) if path.exists() else None

    @contextmanager
    def making_keys(self) -> Iterator[None]:
        """While nobody else makes or replaces keys. Raises StorageError."""
        self.make()
        with locked(self.folder / ".keys.lock"):
            yield

    def results(self, key_id: str) -> int:
        """How many results were decrypted with these keys. Raises CorruptArtifactError, StorageError."""
        known = self._read()
        return known.results if known is not None and known.key_id == key_id else 0

    def begin(self, key_id: str) -> tuple[str, ...]:
        """Notes that these are the keys now; ids of replaced ones that the service may still have. Raises the same."""
        with self._changing():
            known = self._read()
            if known is None or known.key_id != key_id:
                replaced = () if known is None else (*known.replaced, known.key_id)
                known = self._write(Results(key_id=key_id, replaced=replaced))
        return known.replaced

    def count(self, key_id: str) -> None:
        """Counts a result that is about to be decrypted with these keys. Raises the same."""
        with self._changing():
            known = self._read()
            if known is not None and known.key_id == key_id:
                self._write(known.model_copy(update={"results": known.results + 1}))

    def deleted(self, replaced: str) -> None:
        """Notes that the service does not have these replaced keys any more. Raises the same."""
        with self._changing():
            known = self._read()
            if known is not None:
                self._write(known.model_copy(update={"replaced": tuple(k for k in known.replaced if k != replaced)}))

    def remove_replaced(self) -> None:
        """Deletes secrets that a process left which was killed while it replaced keys."""
        for path in self.folder.glob(f"{self.keys.name}.old-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _changing(self) -> AbstractContextManager[None]:
        return locked(self.folder / ".results.lock")

    def _read(self) -> Results | None:
        try:
            return read_json(self._results, MAX_BYTES, Results, "delete it, and make new keys")
        except FileNotFoundError:
            return None

    def _write(self, results: Results) -> Results:
        write_json(self._results, results.model_dump(mode="json"))
        return results
