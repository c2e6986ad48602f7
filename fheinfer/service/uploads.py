"""Keys of clients as they arrive: a manifest, then its files in pieces, each verified before anything uses it.

    DATA/uploads/<account>/<key id>/    manifest.json, NAME.part while it arrives, NAME.key once it is verified
    DATA/keys/<account>/<key id>/       manifest.json and all its files: what workers read

The folder moves from the first place to the second when its last file is verified. Keys that are extended stay usable:
new files go beside the old ones, and then the new manifest takes the place of the old one. A process that is killed at
any point leaves what `recover` finishes, or what is asked for again. All of it is pure Python: no key is parsed here.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from fheinfer.crypto import artifact
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.manifest import FILE_NAME, MAX_BYTES, Manifest, describe, evaluation_keys
from fheinfer.errors import ArtifactError, CorruptArtifactError, KeyStoreError, MismatchError, NotFoundError, PlanError
from fheinfer.service.protocol import KEY_ID, KeyFile, KeyStatus
from fheinfer.service.rows import KeySetRow
from fheinfer.service.store import JobRow, Store
from fheinfer.storage import (
    PUBLIC,
    atomic_write,
    make_folder,
    remove_leftovers,
    require_disk,
    shown,
    storage_errors,
    sync_folder,
    temporary_sibling,
)

KEYS, UPLOADS = "keys", "uploads"
_PART = ".part"
_LOCKS = 64


class OffsetError(MismatchError):
    """Bytes that do not begin where those that were received end. `received` says how many those are."""

    def __init__(self, received: int) -> None:
        super().__init__(f"{received} bytes of this file were received; send what follows them")
        self.received = received


class KeyUploads:
    """The keys of all accounts in the folder `data`. One process at a time; safe to use from several threads.

    An account is its id, as `Store` gives it; whatever else is named comes from outside and is checked. Two accounts
    with the same key id have nothing to do with each other.
    """

    def __init__(self, data: Path, store: Store) -> None:
        self._data, self._store = data, store
        self._locks = [threading.RLock() for _ in range(_LOCKS)]  # one account's wait is rarely another's

    def begin(self, account: str, key_id: str, raw: bytes) -> tuple[KeyStatus, bool]:
        """Begins an upload, or extends keys, by a manifest; and True where the key id is new to this account.

        A manifest that is known, or has a part of the known one's files, changes nothing.

        Raises:
            ArtifactError, PlanError: no manifest, or one that this program does not take (`Manifest.from_bytes`).
            MismatchError: of other keys than `key_id`, or of one whose files are known with other hashes.
            LimitError: more bytes or key sets than the account may have.
            StorageError: the disk has no room for the files.
        """
        if len(raw) > MAX_BYTES:
            raise CorruptArtifactError(f"a manifest has at most {MAX_BYTES} bytes")
        manifest = Manifest.from_bytes(raw)
        if manifest.key_id != key_id:
            raise MismatchError("the manifest is of other keys than those of this address; send that of these keys")
        with self._locked(account, key_id):
            if self._store.key_set(account, key_id) is None:
                self._remove(account, key_id)  # what a deletion could not delete
            known = self._newest(account, key_id)
            if known is None or not _extends(known, manifest):
                folder = self._uploads(account, key_id)
                sizes = self._sizes(account, key_id)
                missing = sum(entry.bytes - _received(sizes, name) for name, entry in manifest.files.items())
                require_disk(folder, missing)
                self._store.put_key_set(account, manifest)
                make_folder(folder)
                atomic_write(folder / FILE_NAME, [raw])  # as it came: written anew, it could be over the bound
            self._finish(account, key_id)
            return self.status(account, key_id), known is None

    def append(self, account: str, key_id: str, name: str, offset: int, chunk: bytes) -> KeyFile:
        """Takes the bytes of a file from `offset` on. The last one makes it verified, or deleted.

        Raises:
            NotFoundError: the account has no such keys, or their manifest no such file.
            OffsetError: not the bytes that come next.
            CorruptArtifactError: more bytes than the manifest says, or not the key that it lists: send the file again.
            StorageError: the disk is full or fails; what was received before is kept.
        """
        with self._locked(account, key_id):
            manifest = self._newest(account, key_id) if self._store.key_set(account, key_id) else None
            if manifest is None or name not in manifest.files:
                raise NotFoundError("this account has no such keys, or they have no such file")
            size, received = manifest.files[name].bytes, _received(self._sizes(account, key_id), name)
            if offset != received:
                raise OffsetError(received)
            if received + len(chunk) > size:
                raise CorruptArtifactError(f"{name}: more than the {size} bytes that its manifest says")
            part = self._uploads(account, key_id) / (name + _PART)
            if chunk:
                _append(part, offset, chunk)
            if offset + len(chunk) == size and part.exists():
                _verify(part, name, manifest)
                self._publish(account, manifest)
            return KeyFile(name=name, bytes=size, received=offset + len(chunk))

    def status(self, account: str, key_id: str) -> KeyStatus:
        """How much of the keys is here.

        Raises:
            NotFoundError: this account has no such keys.
        """
        with self._locked(account, key_id):
            row = self._store.key_set(account, key_id)
            if row is None:
                raise NotFoundError("this account has no such keys")
            manifest, sizes = self._newest(account, key_id), self._sizes(account, key_id)
        entries = {} if manifest is None else manifest.files
        files = [KeyFile(name=n, bytes=entry.bytes, received=_received(sizes, n)) for n, entry in entries.items()]
        return _status(row, sizes, files)

    def statuses(self, account: str) -> list[KeyStatus]:
        """All keys of an account, without their files. No manifest is read: there may be many, and large ones."""
        found = []
        for row in self._store.key_sets(account):
            with self._locked(account, row.key_id):
                found.append(_status(row, self._sizes(account, row.key_id), []))
        return found

    def usable(self, account: str, key_id: str, spec: ClientSpec) -> Path:
        """The folder of keys that serve a plan.

        Raises:
            NotFoundError: this account has no such keys.
            KeyStoreError: they are not all here yet.
            MismatchError: they are of another parameter set, or lack keys that the plan needs.
        """
        with self._locked(account, key_id):
            if self._store.key_set(account, key_id) is None:
                raise NotFoundError("this account has no such keys; upload them first")
            folder = self._keys(account, key_id)
            manifest = _manifest(folder)
        if manifest is None:
            raise KeyStoreError("these keys are not all uploaded yet; send the rest of them first")
        if manifest.identity != spec.identity:
            raise MismatchError(
                f"these keys are of the set {manifest.set_name}, and {spec.model} is of {spec.params.name}; "
                "make keys with the client.json of this model"
            )
        if manifest.policy not in spec.keys:
            raise MismatchError(f"{spec.model} takes no {manifest.policy} keys; it takes {', '.join(spec.keys)} ones")
        manifest.keys_for(spec.keys[manifest.policy].rotations, evaluation_keys(spec))
        return folder

    def delete(self, account: str, key_id: str) -> list[JobRow]:
        """Deletes keys, uploaded wholly or in part, and cancels the jobs that wait for them, which are returned.

        Raises:
            NotFoundError: this account has no such keys.
        """
        with self._locked(account, key_id):
            jobs = self._store.delete_key_set(account, key_id)
            self._remove(account, key_id)
        return jobs

    def abandon(self, account: str, key_id: str) -> list[JobRow]:
        """Gives up an upload that nobody goes on with; keys that it was to extend stay. Otherwise as `delete`."""
        with self._locked(account, key_id):
            _delete(self._uploads(account, key_id))
            return self._settle(account, key_id)

    def stale(self, before: float) -> list[tuple[str, str]]:
        """(account, key id) of the uploads that got no byte since `before`."""
        found = []
        for folder in self._folders(UPLOADS):
            with suppress(OSError):  # it was moved meanwhile
                if max(path.stat().st_mtime for path in (folder, *folder.iterdir())) < before:
                    found.append((folder.parent.name, folder.name))
        return found

    def recover(self) -> list[JobRow]:
        """At the start: finishes what a killed process was about to do, and removes what nobody knows of.

        Returns jobs that were cancelled because their keys are gone.
        """
        known = {(row.account, row.key_id) for row in self._store.key_sets()}
        for place in (KEYS, UPLOADS):
            for folder in self._folders(place):
                if (folder.parent.name, folder.name) not in known:
                    _delete(folder)
            for folder in (self._data / place).glob("*"):
                remove_leftovers(folder)
        return [job for account, key_id in sorted(known) for job in self._settle(account, key_id)]

    def _settle(self, account: str, key_id: str) -> list[JobRow]:
        """Brings files and row of a key set to what one of them says, wherever a process was killed."""
        keys = self._keys(account, key_id)
        for folder in (keys, self._uploads(account, key_id)):
            try:
                manifest = _manifest(folder)
                whole = manifest is not None and (folder != keys or _whole(keys, manifest))
            except (ArtifactError, PlanError):  # damaged, or of another version
                whole = False
            if not whole:
                _delete(folder)  # keys are asked for again
        manifest = self._newest(account, key_id)
        if manifest is None:
            return self._store.delete_key_set(account, key_id)
        for path in keys.glob("*.key"):
            if path.name not in manifest.files:
                path.unlink()
        self._finish(account, key_id)
        return []

    def _finish(self, account: str, key_id: str) -> None:
        """Verifies whole parts, which only a killed process or a failing disk leaves, and publishes."""
        uploads, manifest = self._uploads(account, key_id), self._newest(account, key_id)
        if manifest is None:
            return
        for path in uploads.glob("*" + _PART):
            name = path.name.removesuffix(_PART)
            if path.stat().st_size >= manifest.files[name].bytes:
                with suppress(CorruptArtifactError):
                    _verify(path, name, manifest)
        self._publish(account, manifest)

    def _publish(self, account: str, manifest: Manifest) -> None:
        """Makes keys usable where all files of the manifest are verified. Repeated after a kill, it goes on."""
        keys, uploads = self._keys(account, manifest.key_id), self._uploads(account, manifest.key_id)
        with storage_errors(keys):
            if not all((keys / name).exists() or (uploads / name).exists() for name in manifest.files):
                return
            if not keys.exists():
                make_folder(keys.parent)
                uploads.rename(keys)
                for folder in (keys.parent, keys.parent.parent, uploads.parent):
                    sync_folder(folder)
            elif uploads.exists():
                for path in uploads.glob("*.key"):
                    path.rename(keys / path.name)
                sync_folder(keys)
                (uploads / FILE_NAME).rename(keys / FILE_NAME)
                sync_folder(keys)
                _delete(uploads)
        self._store.complete_key_set(account, manifest)

    def _remove(self, account: str, key_id: str) -> None:
        for folder in (self._keys(account, key_id), self._uploads(account, key_id)):
            _delete(folder)

    def _newest(self, account: str, key_id: str) -> Manifest | None:
        return _manifest(self._uploads(account, key_id)) or _manifest(self._keys(account, key_id))

    def _sizes(self, account: str, key_id: str) -> dict[str, int]:
        """Bytes of all that is here, by file name: NAME.key of verified keys, NAME.key.part of what arrives."""
        found: dict[str, int] = {}
        for folder in (self._uploads(account, key_id), self._keys(account, key_id)):
            with storage_errors(folder), suppress(FileNotFoundError), os.scandir(folder) as entries:
                found |= {entry.name: entry.stat().st_size for entry in entries}
        return found

    @contextmanager
    def _locked(self, account: str, key_id: str) -> Iterator[None]:
        if not re.fullmatch(KEY_ID, key_id):
            raise NotFoundError("this account has no such keys")
        with self._locks[hash((account, key_id)) % _LOCKS]:
            yield

    def _keys(self, account: str, key_id: str) -> Path:
        return self._data / KEYS / account / key_id

    def _uploads(self, account: str, key_id: str) -> Path:
        return self._data / UPLOADS / account / key_id

    def _folders(self, place: str) -> Iterator[Path]:
        yield from (self._data / place).glob("*/[!.]*")


def _received(sizes: Mapping[str, int], name: str) -> int:
    """Bytes of a file that are here: all of a verified one, or those of its part."""
    return sizes.get(name, sizes.get(name + _PART, 0))


def _status(row: KeySetRow, sizes: Mapping[str, int], files: list[KeyFile]) -> KeyStatus:
    here = {name.removesuffix(_PART): size for name, size in sizes.items()}
    return KeyStatus(
        key_id=row.key_id,
        complete=row.complete,
        bytes=row.bytes,
        received=sum(size for name, size in here.items() if name.endswith(".key")),
        created=row.created,
        used=row.used,
        files=files,
    )


def _extends(known: Manifest, manifest: Manifest) -> bool:
    """Whether a manifest is nothing new beside the known one.

    Raises:
        MismatchError: it is neither that, nor the known one with more files.
    """
    both = known.files.keys() & manifest.files.keys()
    same = (known.identity, known.policy) == (manifest.identity, manifest.policy)
    if not same or any(known.files[name] != manifest.files[name] for name in both):
        raise MismatchError(
            "the service has other keys of this key id; delete those first, or make new keys with `fheinfer keygen`"
        )
    if len(both) < min(len(known.files), len(manifest.files)):
        raise MismatchError(
            "the service has more keys of this key id, which this manifest lacks; send one that lists them all, or "
            "delete those first"
        )
    return len(both) == len(manifest.files)


def _manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.load(folder / FILE_NAME)
    except KeyStoreError:
        return None


def _whole(folder: Path, manifest: Manifest) -> bool:
    """Whether all files are there and as long as they were: workers map them, and shortened ones would end those."""
    with suppress(FileNotFoundError):
        return all((folder / name).stat().st_size == entry.bytes for name, entry in manifest.files.items())
    return False


def _append(part: Path, offset: int, chunk: bytes) -> None:
    """Writes at the end of a part; where that fails, the part is as long as it was."""
    with storage_errors(part):
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PUBLIC)
        try:
            rest, at = memoryview(chunk), offset
            while rest:
                written = os.pwrite(fd, rest, at)
                rest, at = rest[written:], at + written
        except BaseException:
            with suppress(OSError):
                os.ftruncate(fd, offset)
            raise
        finally:
            os.close(fd)


def _verify(part: Path, name: str, manifest: Manifest) -> None:
    """Gives a part that is the key that the manifest lists its name, and deletes any other.

    Raises:
        CorruptArtifactError: it is another one, or damaged.
    """
    key, entry = describe(name), manifest.files[name]
    if key is None:
        raise NotFoundError("no key is called so")
    with storage_errors(part):
        fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    try:
        found = artifact.read(
            part, kind=key[0], identity=manifest.identity, key_id=manifest.key_id, max_body=entry.bytes
        )
        if found.checksum.hex() != entry.sha256:
            raise CorruptArtifactError("intact, but not the file that the manifest lists; send that one")
        if dict(found.metadata) != key[1]:
            raise CorruptArtifactError("another key than its name says; make new keys with `fheinfer keygen`")
    except ArtifactError as error:
        with suppress(OSError):
            part.unlink()
        reason = str(error).removeprefix(f"{shown(part)}: ")  # paths of this machine are nobody's business
        raise CorruptArtifactError(f"{name}: {reason}") from None
    with storage_errors(part):
        part.rename(part.with_name(name))
    sync_folder(part.parent)


def _delete(folder: Path) -> None:
    """Deletes a folder: at once under its name, so that nothing half deleted is ever taken for keys."""
    with storage_errors(folder), suppress(FileNotFoundError):
        hidden = temporary_sibling(folder)
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
        sync_folder(folder.parent)
