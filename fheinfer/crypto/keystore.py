"""Keys on disk.

    keys/set1/secret/secret.key             0600; the only thing here that can decrypt
    keys/set1/server/manifest.json          what is in this folder, with sizes and checksums
    keys/set1/server/public.key             encrypts
    keys/set1/server/{relinearisation,conjugation,to_sparse,to_dense,rotation_<k>_<limbs>}.key

The server folder stands by itself: copy it to another machine as it is. Nothing in it is secret.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fheinfer.compiler.policy import KeyPolicy
from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.crypto.storage import (
    PRIVATE_FOLDER,
    check_private,
    make_folder,
    parse_json,
    read_small,
    remove_leftovers,
    require_disk,
    storage_errors,
    sync_folder,
    temporary_sibling,
    write_json,
)
from fheinfer.errors import CorruptArtifactError, KeyStoreError, MismatchError, StorageError, UsageError

__all__ = ["FileEntry", "KeyWriter", "Manifest", "SecretKeys", "ServerKeys", "new_key_id", "require_disk"]

FORMAT: Literal[3] = 3
MAX_MANIFEST = 1 << 20
"""Bytes of a manifest."""
MAX_SECRET = 1 << 20
"""Bytes of a secret key: one for each coefficient, of which no set has more."""

_SECRET, _SERVER, _SECRET_FILE, _MANIFEST_FILE = "secret", "server", "secret.key", "manifest.json"
_ADVICE = "copy the folder again, or make new keys with `fheinfer keygen --force`"
_FILE_NAME = r"^[a-z0-9_-]{1,64}\.key$"
_SET_NAME = r"^[A-Za-z0-9_-]{1,32}(\+[A-Za-z0-9_:-]{1,32})?$"


def rotation_file(rotation: int, limbs: int) -> str:
    """File name of a rotation key; rotations are in [0, N/2)."""
    return f"rotation_{rotation}_{limbs}.key"


def new_key_id() -> str:
    """A fresh name for a set of keys: 16 random bytes in hexadecimal. It is public."""
    return secrets.token_hex(16)


class FileEntry(BaseModel):
    """A key file: its size in bytes, and the SHA-256 that stands in its header, which covers the rest of it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    bytes: Annotated[int, Field(gt=0, lt=1 << 48)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What a server folder holds. `policy`: what the rotations were chosen by; `rotations`: each with the limbs of its
    key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[3] = FORMAT
    set_name: Annotated[str, Field(pattern=_SET_NAME)]
    params_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    network: Annotated[str, Field(max_length=200)]
    policy: KeyPolicy
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
    rotations: list[tuple[int, Annotated[int, Field(ge=1, le=1000)]]]
    files: dict[Annotated[str, Field(pattern=_FILE_NAME)], FileEntry]

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Reads and validates a manifest.

        Raises:
            KeyStoreError: there is none.
            CorruptArtifactError: over 1 MiB, not JSON, or a field that is missing, unknown or impossible.
            MismatchError: of another version of the format.
        """
        try:
            raw = read_small(path, MAX_MANIFEST)
        except FileNotFoundError:
            raise KeyStoreError(f"no keys in {path.parent}; make them with `fheinfer keygen`, or name their folder") \
                from None
        version = parse_json(raw, path, _Version, _ADVICE).format
        if version != FORMAT:
            raise MismatchError(f"{path}: keys in version {version} of the format and this program reads {FORMAT}; "
                                "use the fheinfer that made them, or make new ones with `fheinfer keygen --force`")
        return parse_json(raw, path, cls, _ADVICE)


class _Version(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    format: int


class KeyWriter:
    """Writes the keys of one set to `root`/`set_name`, which appears once complete or not at all.

        with KeyWriter(root, "set1", params_hash=h, key_id=new_key_id()) as writer:
            writer.add_secret(payload)
            writer.add_server("public.key", Kind.PUBLIC_KEY, payload)
            writer.finish(network="resnet20", policy="fast", rotations=[(1, 8)])

    With `force`, keys of that name are moved aside to `<set_name>.old-*` first and deleted last.

    Raises:
        KeyStoreError: there are keys of that name and no `force`.
        StorageError: the disk is full, the folder is read-only, or a write failed.
    """

    def __init__(self, root: Path, set_name: str, *, params_hash: bytes, key_id: str, force: bool = False) -> None:
        if not re.fullmatch(_SET_NAME, set_name):
            raise UsageError(f"{set_name!r} cannot name a folder of keys; use letters, digits, - and _, + activation")
        self.folder = root / set_name
        self.manifest: Manifest | None = None
        self._params_hash, self._key_id, self._force = params_hash, key_id, force
        self._temp = temporary_sibling(self.folder)
        self._files: dict[str, FileEntry] = {}
        self._made_root = False

    def __enter__(self) -> KeyWriter:
        self._refuse_overwrite()
        root = self.folder.parent
        try:
            with storage_errors(self.folder):
                self._made_root = not root.exists()
                make_folder(root)
                remove_leftovers(root)  # of a key generation that was killed: secrets
                make_folder(self._temp)
                make_folder(self._temp / _SECRET, PRIVATE_FOLDER)
                make_folder(self._temp / _SERVER)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.manifest is None:
            self._abandon()
            if kind is None:
                raise UsageError("keys were written and never finished; call finish() last")

    def add_secret(self, payload: bytes) -> None:
        artifact.write(self._temp / _SECRET / _SECRET_FILE, self._wrap(Kind.SECRET_KEY, payload, {}))

    def add_server(self, name: str, kind: Kind, payload: bytes | memoryview,
                   meta: Mapping[str, Any] | None = None) -> int:
        """Writes server/`name` and returns its size in bytes. A secret key is refused."""
        if kind is Kind.SECRET_KEY or not re.fullmatch(_FILE_NAME, name) or name in self._files:
            raise UsageError(f"{name}: not a file for the server folder")
        path = self._temp / _SERVER / name
        checksum = artifact.write(path, self._wrap(kind, payload, meta or {}))
        size = path.stat().st_size
        self._files[name] = FileEntry(bytes=size, sha256=checksum.hex())
        return size

    def finish(self, *, network: str, policy: KeyPolicy, rotations: Iterable[tuple[int, int]]) -> Manifest:
        """Writes the manifest and gives the folder its name. After this the keys are there for good."""
        manifest = Manifest(set_name=self.folder.name, params_hash=self._params_hash.hex(), key_id=self._key_id,
                            network=network, policy=policy, created=datetime.now(UTC).isoformat(timespec="seconds"),
                            rotations=sorted(rotations), files=self._files)
        write_json(self._temp / _SERVER / _MANIFEST_FILE, manifest.model_dump(mode="json"))
        sync_folder(self._temp)
        self._refuse_overwrite()
        self._publish()
        self.manifest = manifest
        return manifest

    def _publish(self) -> None:
        old = self.folder.with_name(f"{self.folder.name}.old-{secrets.token_hex(4)}")
        replaces = self.folder.exists()
        with storage_errors(self.folder):
            try:
                if replaces:
                    self.folder.rename(old)
                self._temp.rename(self.folder)
            except BaseException:
                if replaces and old.exists() and not self.folder.exists():
                    old.rename(self.folder)
                raise
        sync_folder(self.folder.parent)
        if replaces:
            try:
                shutil.rmtree(old)
            except OSError as error:
                raise StorageError(f"the new keys are in place; the old ones are still in {old} ({error.strerror}); "
                                   "delete that folder, it holds a secret key") from error

    def _refuse_overwrite(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise KeyStoreError(f"{self.folder} is a link or a file, not a folder of keys; remove it first")
        if self.folder.exists() and not self._force:
            raise KeyStoreError(f"{self.folder} exists already; --force replaces those keys, and what was encrypted "
                                "with them can then never be decrypted")

    def _abandon(self) -> None:
        shutil.rmtree(self._temp, ignore_errors=True)
        if self._made_root:
            with suppress(OSError):
                self.folder.parent.rmdir()

    def _wrap(self, kind: Kind, payload: bytes | memoryview, meta: Mapping[str, Any]) -> Artifact:
        return Artifact(kind, self._params_hash, self._key_id, meta, payload)


class ServerKeys:
    """The public and evaluation keys in a server folder. Opens nothing outside of it.

    Raises:
        KeyStoreError: no keys there.
        CorruptArtifactError: a damaged manifest.
        MismatchError: keys of another parameter set, or not those of `key_id`.
    """

    def __init__(self, folder: Path, params_hash: bytes, key_id: str | None = None) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder / _MANIFEST_FILE)
        if self.manifest.params_hash != params_hash.hex():
            raise MismatchError(f"the keys in {folder} are of another parameter set ({self.manifest.set_name}, "
                                f"{self.manifest.params_hash[:8]}, not {params_hash.hex()[:8]}); "
                                "choose their set with --set, or make keys of this one: `fheinfer keygen --set ...`")
        if key_id is not None and self.manifest.key_id != key_id:
            raise MismatchError(f"the keys in {folder} ({self.manifest.key_id[:8]}) are not those asked for "
                                f"({key_id[:8]}); use the folder that was made together with that secret key")

    @property
    def key_id(self) -> str:
        return self.manifest.key_id

    @property
    def total_bytes(self) -> int:
        return self.manifest.total_bytes

    def read(self, name: str, kind: Kind) -> memoryview:
        """The payload of one key, mapped into memory; its size, checksum and identity are checked.

        Raises:
            KeyStoreError: the manifest has no such key, or its file is gone.
            CorruptArtifactError, MismatchError, StorageError: see `artifact.read`.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise KeyStoreError(f"{self.folder} has no {name}; this network needs it: run `fheinfer keygen` for it")
        found = artifact.read(self.folder / name, kind=kind, params_hash=bytes.fromhex(self.manifest.params_hash),
                              key_id=self.key_id, max_payload=entry.bytes)
        if found.checksum.hex() != entry.sha256:
            raise CorruptArtifactError(f"{self.folder / name}: intact, but not the file that the manifest lists; "
                                       "copy the whole folder again, or run `fheinfer keygen --force`")
        return memoryview(found.payload)


class SecretKeys:
    """The secret key in a secret folder: `payload`, of the keys `key_id`.

    Raises:
        KeyStoreError: no key there, or one that others can read or replace, see `storage.check_private`.
        CorruptArtifactError, MismatchError, StorageError: see `artifact.read`.
    """

    def __init__(self, folder: Path, params_hash: bytes, key_id: str | None = None) -> None:
        found = artifact.read(folder / _SECRET_FILE, kind=Kind.SECRET_KEY, params_hash=params_hash, key_id=key_id,
                              max_payload=MAX_SECRET)
        check_private(folder)
        check_private(folder / _SECRET_FILE)
        self.key_id = found.key_id
        self.payload = memoryview(found.payload)
