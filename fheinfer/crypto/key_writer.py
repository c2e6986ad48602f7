"""Writes folders of keys: new ones whole or not at all, and more keys into one that is there."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact
from fheinfer.crypto.manifest import FILE_NAME as MANIFEST_FILE
from fheinfer.crypto.manifest import FileEntry, Manifest, describe, rotations_of
from fheinfer.crypto.verified import VerifiedFiles, same_file
from fheinfer.errors import KeyStoreError, StorageError, UsageError
from fheinfer.storage import (
    Buffer,
    atomic_write,
    make_folder,
    remove_leftovers,
    shown,
    storage_errors,
    sync_folder,
    temporary_sibling,
    write_json,
)

SECRET_FOLDER, SERVER_FOLDER, SECRET_FILE = "secret", "server", "secret.key"
_CLIENT_FILE = re.compile(r"client(-[0-9a-f]{16})?\.json")
"""Public files that `fheinfer keygen` leaves beside keys."""


class KeyWriter:
    """Writes a new folder of keys, which appears once complete or not at all.

        with KeyWriter(folder) as writer:
            entry = writer.add("public.key", container)
            writer.finish(manifest, secret)

    The secret is written last: a process that is killed before leaves none. With `force`, keys that are there are moved
    aside to `<name>.old-*` first and deleted last.

    Raises:
        KeyStoreError: there are keys and no `force`, or something else that is not to be replaced.
        StorageError: the disk is full, the folder is read-only, or a write failed.
    """

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        self.folder = folder.absolute()  # "." has a name, too
        self._force = force
        self._temp = temporary_sibling(self.folder)
        self._made: list[Path] = []
        self._written: list[tuple[str, FileEntry, os.stat_result]] = []
        self._mode = 0o755
        self._finished = False

    def __enter__(self) -> KeyWriter:
        self._refuse_overwrite()
        try:
            with storage_errors(self.folder):
                self._make_parents()
                remove_leftovers(self.folder.parent)  # of a key generation that was killed
                self._temp.mkdir(mode=0o755)
                self._mode = self._temp.stat().st_mode  # 0755 less the umask
                self._temp.chmod(0o700)  # until it is complete
                (self._temp / SERVER_FOLDER).mkdir(mode=0o755)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self._abandon()
            if kind is None:
                raise UsageError("keys were written and never finished; call finish() last")

    def add(self, name: str, container: Artifact | Buffer) -> FileEntry:
        """Writes server/`name` and returns its entry for the manifest. Anything but that very key is refused."""
        entry = write_key(self._temp / SERVER_FOLDER, name, container)
        self._written.append((name, entry, (self._temp / SERVER_FOLDER / name).stat()))
        return entry

    def finish(self, manifest: Manifest, secret: Artifact | Buffer | None) -> None:
        """Writes the manifest, then the secret where it is to be kept, and gives the folder its name.

        What was hashed to be written need not be hashed again to be read: the checksums are remembered.
        """
        write_json(self._temp / SERVER_FOLDER / MANIFEST_FILE, manifest.to_json())
        if secret is not None:
            self._write_secret(artifact.to_bytes(secret) if isinstance(secret, Artifact) else secret)
        with storage_errors(self.folder):
            self._temp.chmod(self._mode)
        sync_folder(self._temp)
        self._refuse_overwrite()
        self._publish()
        self._finished = True
        self._remember()

    def _remember(self) -> None:
        verified = VerifiedFiles()
        with suppress(OSError):
            for name, entry, status in self._written:
                if same_file((self.folder / SERVER_FOLDER / name).stat(), status):
                    verified.remember(status, bytes.fromhex(entry.sha256))
        verified.save()

    def _write_secret(self, container: Buffer) -> None:
        folder = self._temp / SECRET_FOLDER
        with storage_errors(folder):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)  # whatever the umask is
        atomic_write(folder / SECRET_FILE, [container], mode=0o600)
        with storage_errors(folder):
            (folder / SECRET_FILE).chmod(0o600)

    def _make_parents(self) -> None:
        self._made = [parent for parent in self.folder.parents if not parent.exists()]
        make_folder(self.folder.parent)

    def _publish(self) -> None:
        old = self.folder.with_name(f"{self.folder.name}.old-{secrets.token_hex(4)}")
        replaces = self.folder.exists() and any(self.folder.iterdir())
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
                raise StorageError(
                    f"the new keys are in place; the old ones are still in {shown(old)} ({error.strerror}); "
                    "delete that folder, it holds a secret key"
                ) from error

    def _refuse_overwrite(self) -> None:
        with storage_errors(self.folder):
            if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
                raise KeyStoreError(f"{shown(self.folder)} is a link or a file, not a folder of keys; remove it first")
            inside = sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []
        others = [name for name in inside if not _CLIENT_FILE.fullmatch(name)]
        foreign = [name for name in others if name not in (SECRET_FOLDER, SERVER_FOLDER)]
        if foreign:
            raise KeyStoreError(f"{shown(self.folder)} holds {foreign[0]!r}, no key; choose a folder of its own")
        if others and not self._force:
            raise KeyStoreError(
                f"{shown(self.folder)} has keys already; --add makes those that another plan lacks; --force replaces "
                "all, and what was encrypted with them can then never be decrypted"
            )

    def _abandon(self) -> None:
        shutil.rmtree(self._temp, ignore_errors=True)
        for parent in self._made:
            with suppress(OSError):
                parent.rmdir()


class KeyAdder:
    """Writes more keys into the server folder `folder`, one process at a time. Until `finish` the old manifest holds,
    which knows nothing of them; afterwards the new one does.

    Raises:
        KeyStoreError: another process is adding keys, or there is no such folder.
        StorageError: the disk is full, the folder is read-only, or a write failed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest = Manifest.load(folder / MANIFEST_FILE)
        remove_leftovers(folder)
        self._discard_unlisted()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[KeyAdder]:
        """An adder that has the folder for itself."""
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise KeyStoreError(
                f"no keys in {shown(folder)} ({error.strerror}); make them with `fheinfer keygen`"
            ) from None
        try:
            _lock(fd, folder)
            yield cls(folder)
        finally:
            os.close(fd)

    def add(self, name: str, container: Artifact | Buffer) -> FileEntry:
        """Writes a key that the manifest does not list yet.

        Raises:
            UsageError: it does list it; keys are never replaced.
        """
        if name in self.manifest.files:
            raise UsageError(f"{shown(self._folder)} has {name} already")
        return write_key(self._folder, name, container)

    def finish(self, manifest: Manifest) -> None:
        """Replaces the manifest."""
        write_json(self._folder / MANIFEST_FILE, manifest.to_json())
        self.manifest = manifest

    def _discard_unlisted(self) -> None:
        """Rotation keys that no manifest mentions are of an `--add` that was killed."""
        names = [path.name for path in self._folder.glob("rotation_*.key")]
        for name in names:
            if rotations_of([name]) and name not in self.manifest.files:
                with suppress(OSError):
                    (self._folder / name).unlink()


def write_key(folder: Path, name: str, container: Artifact | Buffer) -> FileEntry:
    """Writes a public or evaluation key.

    Raises:
        UsageError: the container does not hold the key that the name says.
        StorageError: see `storage.atomic_write`.
    """
    if not isinstance(container, Artifact):
        data = memoryview(container).cast("B")
        key = describe(name)
        if key is None:
            raise UsageError(f"{name}: not the name of a public or evaluation key")
        container = artifact.from_bytes(data, kind=key[0], max_body=len(data))
    if describe(name) != (container.kind, dict(container.metadata)):
        raise UsageError(f"{name}: a {container.kind.title} does not go there")
    checksum = artifact.write(folder / name, container, mode=0o644)
    return FileEntry(bytes=(folder / name).stat().st_size, sha256=checksum.hex())


def _lock(fd: int, folder: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise KeyStoreError(f"another process adds keys to {shown(folder)}; wait until it has finished") from None
    except OSError as error:
        raise StorageError(
            f"cannot lock {shown(folder)} ({error.strerror}); copy it to a disk of this machine"
        ) from error
