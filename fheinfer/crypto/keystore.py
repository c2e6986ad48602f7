"""Keys on disk and in memory.

    keys/set1/secret/secret.key             0600; the only thing here that can decrypt
    keys/set1/server/manifest.json          what is in this folder, with sizes and checksums
    keys/set1/server/public.key             encrypts
    keys/set1/server/{relinearisation,conjugation,to_sparse,to_dense,rotation_<k>_<limbs>}.key

The server folder stands by itself: copy it to another machine as it is. Nothing in it is secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact
from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER, SERVER_FOLDER, KeyWriter
from fheinfer.crypto.manifest import FILE_NAME as MANIFEST_FILE
from fheinfer.crypto.manifest import Manifest, describe
from fheinfer.crypto.secret import MAX_SECRET, read_secret
from fheinfer.crypto.verified import VerifiedFiles
from fheinfer.errors import CorruptArtifactError, KeyStoreError, MismatchError
from fheinfer.machine import usable_threads
from fheinfer.storage import read_small, shown

MAX_KEY_BYTES = 1 << 36
"""Bytes of one key file that `KeySet.load` reads."""


@dataclass(frozen=True)
class KeySet:
    """Keys in memory, each file as it would be on disk.

    manifest  what there is
    files     file name -> container
    secret    container of the secret key, sealed where it has a passphrase; None where it is kept elsewhere. It is not
              shown in `repr`
    """

    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)
    secret: bytes | None = field(default=None, repr=False)

    def save(self, folder: Path, *, force: bool = False, keep_secret: bool = True) -> None:
        """Writes `folder`, which appears once complete or not at all.

        Args:
            force: replace keys that are there.
            keep_secret: write the secret key, too.

        Raises:
            KeyStoreError: there are keys already and no `force`.
            StorageError: see `storage.atomic_write`.
        """
        with KeyWriter(folder, force=force) as writer:
            for name, container in self.files.items():
                writer.add(name, container)
            writer.finish(self.manifest, self.secret if keep_secret else None)

    @classmethod
    def load(cls, folder: Path) -> KeySet:
        """All that is in a folder, checked; the secret only where it is there.

        Raises:
            KeyStoreError, ArtifactError, StorageError: as `ServerKeys` and `secret.read_secret`.
        """
        server, secret = ServerKeys(folder / SERVER_FOLDER), folder / SECRET_FOLDER / SECRET_FILE
        files = {}
        for name, entry in server.manifest.files.items():
            server.read(name)
            files[name] = read_small(folder / SERVER_FOLDER / name, min(entry.bytes, MAX_KEY_BYTES), "a key")
        container = None
        if secret.exists():
            read_secret(secret, identity=server.manifest.identity, key_id=server.key_id)
            container = read_small(secret, 2 * MAX_SECRET, "a secret key")
        return cls(server.manifest, files, container)


class ServerKeys:
    """The public and evaluation keys in a server folder, or in memory. Opens nothing outside of that folder.

    Args:
        source: the server folder, or keys in memory.
        identity: of parameter set and backend that they have to be of (`ClientSpec.identity`).
        key_id: that they have to have.
        verified: memory of checksums; that of the user by default.

    Raises:
        KeyStoreError: no keys there.
        CorruptArtifactError: a damaged manifest.
        MismatchError: keys of another parameter set or backend, or not those of `key_id`.
    """

    def __init__(
        self,
        source: Path | KeySet,
        *,
        identity: bytes | None = None,
        key_id: str | None = None,
        verified: VerifiedFiles | None = None,
    ) -> None:
        self._source = source
        self._name = shown(source) if isinstance(source, Path) else "keys in memory"
        self.manifest = Manifest.load(source / MANIFEST_FILE) if isinstance(source, Path) else source.manifest
        self._verified = verified if verified or not isinstance(source, Path) else VerifiedFiles()
        if identity is not None and self.manifest.identity != identity:
            raise MismatchError(
                f"{self._name}: of another parameter set or backend (set {self.manifest.set_name}, "
                f"{self.manifest.backend}); name the keys that were made for this plan, or make some: `fheinfer keygen`"
            )
        if key_id is not None and self.key_id != key_id:
            raise MismatchError(
                f"{self._name}: keys {self.key_id[:8]}, not those asked for ({key_id[:8]}); "
                "use the folder that was made together with that secret key"
            )

    @property
    def key_id(self) -> str:
        """Which keys these are: 32 hexadecimal digits."""
        return self.manifest.key_id

    @property
    def place(self) -> str:
        """The folder that they are in; "" of keys in memory."""
        return str(self._source.absolute()) if isinstance(self._source, Path) else ""

    @property
    def total_bytes(self) -> int:
        """Bytes of all key files."""
        return self.manifest.total_bytes

    def read(self, name: str) -> memoryview:
        """The body of one key, mapped into memory. Its size, checksum, identity, kind and metadata are checked.

        Raises:
            KeyStoreError: the manifest has no such key, or its file is gone.
            CorruptArtifactError, MismatchError, StorageError: see `artifact.read`.
        """
        body = self._read(name)
        if self._verified:
            self._verified.save()
        return body

    def read_all(self, names: Iterable[str], threads: int | None = None) -> Iterator[tuple[str, memoryview]]:
        """Names and bodies of keys, each as soon as it is checked, in no order; several are checked at once.

        Args:
            threads: that check; as many as this process has processors by default.

        Raises:
            what `read` does, for the first key that is wrong.
        """
        pool = ThreadPoolExecutor(threads or usable_threads(), thread_name_prefix="fheinfer-keys")
        try:
            waiting = {pool.submit(self._read, name): name for name in names}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)
            if self._verified:
                self._verified.save()

    def _read(self, name: str) -> memoryview:
        entry, key = self.manifest.files.get(name), describe(name)
        if entry is None or key is None:
            raise KeyStoreError(f"{self._name}: no {name}; make it with `fheinfer keygen --add`")
        kind, metadata = key
        found = self._open(name, kind, entry.bytes)
        if found.checksum.hex() != entry.sha256:
            raise CorruptArtifactError(
                f"{self._name}: {name} is intact, but not the file that the manifest lists; "
                "copy the whole folder again, or run `fheinfer keygen --force`"
            )
        if dict(found.metadata) != metadata:
            raise CorruptArtifactError(
                f"{self._name}: {name} holds another key than its name says ({str(found.metadata)[:60]}); "
                "make new keys with `fheinfer keygen --force`"
            )
        return memoryview(found.body)

    def _open(self, name: str, kind: artifact.Kind, size: int) -> Artifact:
        identity, source = self.manifest.identity, self._source
        if isinstance(source, Path):
            return artifact.read(
                source / name,
                kind=kind,
                identity=identity,
                key_id=self.key_id,
                max_body=size,
                verified=self._verified,
            )
        if name not in source.files:
            raise KeyStoreError(f"{self._name}: no {name} among the files")
        return artifact.from_bytes(source.files[name], kind=kind, identity=identity, key_id=self.key_id, max_body=size)
