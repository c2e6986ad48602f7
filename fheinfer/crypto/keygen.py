"""Makes keys from a `client.json`: those that the plan needs, and no more. Needs no model, no weights, no compiler."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fheinfer import _core
from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact
from fheinfer.crypto.backends import Backend, backend
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.key_policy import KeyPolicy, choose
from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER, SERVER_FOLDER, KeyAdder, KeyWriter
from fheinfer.crypto.keystore import KeySet
from fheinfer.crypto.manifest import (
    CONJUGATION,
    MAX_PLANS,
    PUBLIC,
    RELINEARISATION,
    TO_DENSE,
    TO_SPARSE,
    FileEntry,
    Manifest,
    PlanEntry,
    describe,
    evaluation_keys,
    rotation_file,
    rotations_of,
)
from fheinfer.crypto.params import ParameterSet
from fheinfer.crypto.secret import open_secret, wrap_secret
from fheinfer.errors import CorruptArtifactError, MismatchError
from fheinfer.machine import available_memory, require_memory, usable_threads
from fheinfer.progress import ProgressCallback
from fheinfer.storage import require_disk

_DISK_MARGIN = 64 << 20
_OPENFHE_MEMORY = 3 << 30  # context, and the keys in the making, each at full height
_PROCESS_MEMORY = 256 << 20
_POLYNOMIALS = 24  # over all primes: what the native backend has in the making, at least


def new_key_id() -> str:
    """A fresh name for a set of keys: 16 random bytes in hexadecimal. It is public."""
    return secrets.token_hex(16)


def new_secret(spec: ClientSpec, *, passphrase: str | bytes | None = None) -> bytes:
    """A fresh secret key as bytes, for a vault: what `keygen`, `add_keys` and `Client` take as `secret`.

    Raises:
        PlanError, UsageError: parameters that no context can have; an empty passphrase.
    """
    key_id = new_key_id()
    client = _core.ClientKeys.generate(spec.key_backend.context(spec.params), key_id)
    return artifact.to_bytes(wrap_secret(client.secret(), spec.identity, key_id, passphrase))


def keygen(
    spec: ClientSpec,
    folder: Path | str,
    *,
    policy: str = "auto",
    force: bool = False,
    secret: bytes | None = None,
    passphrase: str | bytes | None = None,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Writes `folder`/server and, with a fresh secret, `folder`/secret: all or nothing.

    Args:
        policy: "minimal", "fast", or "auto", which looks at predictions and at the memory that is free here.
        force: replace keys that are there.
        secret: make keys of this secret (`new_secret`), which is not written anywhere.
        passphrase: seals a fresh secret, or opens `secret`.
        progress: called after every key.

    Raises:
        UsageError: no such policy, or an empty passphrase.
        KeyStoreError: there are keys already and no `force`; a passphrase that does not open `secret`.
        MismatchError: `secret` is of other parameters.
        NotEnoughMemoryError, StorageError: asked before starting, and while writing.
    """
    folder = Path(folder)
    chosen = choose(spec.keys, policy, available_memory())
    _require_memory(spec)
    require_disk(folder, spec.keys[chosen].key_bytes + _DISK_MARGIN)
    names = _names(spec, spec.keys[chosen].rotations)
    with KeyWriter(folder, force=force) as writer:
        maker, container = _begin(spec, secret, passphrase)
        files = _write(writer.add, maker, names, progress)
        manifest = _manifest(spec, chosen, maker.key_id, files)
        writer.finish(manifest, container)
    return manifest


def generate(
    spec: ClientSpec,
    *,
    policy: str = "auto",
    secret: bytes | None = None,
    passphrase: str | bytes | None = None,
    progress: ProgressCallback | None = None,
) -> KeySet:
    """As `keygen`, in memory; `KeySet.secret` is a fresh secret, or None where `secret` was given.

    Raises:
        UsageError, KeyStoreError, MismatchError, NotEnoughMemoryError: as `keygen`.
    """
    chosen = choose(spec.keys, policy, available_memory())
    _require_memory(spec, spec.keys[chosen].key_bytes)
    maker, container = _begin(spec, secret, passphrase)
    made: dict[str, bytes] = {}

    def keep(name: str, key: Artifact) -> FileEntry:
        made[name] = artifact.to_bytes(key)
        checksum = artifact.from_bytes(made[name], kind=key.kind, max_body=len(made[name])).checksum
        return FileEntry(bytes=len(made[name]), sha256=checksum.hex())

    files = _write(keep, maker, _names(spec, spec.keys[chosen].rotations), progress)
    manifest = _manifest(spec, chosen, maker.key_id, files)
    return KeySet(manifest, made, artifact.to_bytes(container) if container else None)


def add_keys(
    spec: ClientSpec,
    folder: Path,
    *,
    secret: bytes | None = None,
    passphrase: str | bytes | None = None,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Makes the keys that another plan lacks, under the secret of the keys in `folder`. Those that serve it are kept.

    The manifest changes last and at once: a process that is killed before leaves the old one, and it holds.

    Args:
        secret: of these keys, where it is not in `folder`; it is not written.
        passphrase: opens the secret.
        progress: called after every key.

    Raises:
        KeyStoreError: no keys or no secret there, another process is adding, or a passphrase that does not open it.
        MismatchError: the plan is for another parameter set, backend or kind of keys, or the secret of other keys.
        NotEnoughMemoryError, StorageError: asked before starting, and while writing.
    """
    with KeyAdder.opened(folder / SERVER_FOLDER) as adder:
        old = adder.manifest
        names = missing_keys(spec, old)
        if not names and any(entry.plan == spec.plan for entry in old.plans):
            return old
        files: dict[str, FileEntry] = {}
        if names:
            source = folder / SECRET_FOLDER / SECRET_FILE if secret is None else secret
            opened = open_secret(source, identity=old.identity, key_id=old.key_id, passphrase=passphrase)
            _require_memory(spec)
            require_disk(folder, _share(spec, old.policy, names) + _DISK_MARGIN)
            context = spec.key_backend.context(spec.params)
            client = _core.ClientKeys.load(context, old.key_id, opened.body, b"")
            maker = _Maker(spec.key_backend, client, old.identity, old.key_id)
            files = _write(adder.add, maker, names, progress)
        manifest = _extended(old, spec, files)
        adder.finish(manifest)
        return manifest


def missing_keys(spec: ClientSpec, manifest: Manifest) -> list[str]:
    """File names of the keys that a plan lacks among these: what `add_keys` makes.

    Taller keys that are there are used, and others are made of their height: rotations that share their work have to
    have keys of one height (`key_policy.select`).

    Raises:
        MismatchError: the plan is for another parameter set or backend, or was not compiled for this kind of keys.
    """
    if manifest.identity != spec.identity:
        raise MismatchError(
            f"{spec.model} needs keys of set {spec.params.name} ({spec.backend}) and these are of set "
            f"{manifest.set_name} ({manifest.backend}): make keys of their own in another folder with `fheinfer keygen`"
        )
    if manifest.policy not in spec.keys:
        raise MismatchError(
            f"these are {manifest.policy} keys and {spec.model} was compiled for {', '.join(spec.keys)} ones: "
            "compile it again, or make keys of their own in another folder with `fheinfer keygen`"
        )
    missing = manifest.select(spec.keys[manifest.policy].rotations).missing
    return [name for name in _names(spec, missing) if name not in manifest.files]


def _names(spec: ClientSpec, rotations: Iterable[tuple[int, int]]) -> list[str]:
    """File names of the keys of a plan with these rotation keys, in the order in which they are made."""
    ordered = sorted(set(rotations), key=lambda key: (key[1], key[0]))
    return [PUBLIC, *evaluation_keys(spec), *(rotation_file(*key) for key in ordered)]


def needed_memory(params: ParameterSet, backend_name: str) -> int:
    """Bytes that making keys takes beside those that are kept: the process, its context and the keys in the making.

    Rotation keys are made one per thread; each is there as polynomials and as bytes.
    """
    if backend_name == "openfhe":
        return _OPENFHE_MEMORY
    limbs = params.limbs(params.top_level) + params.composite
    special = -(-limbs // params.digits)
    polynomials = max(_POLYNOMIALS, 4 * params.digits * usable_threads())
    return _PROCESS_MEMORY + polynomials * (limbs + special) * (1 << params.log_n) * 8


def _require_memory(spec: ClientSpec, more: int = 0) -> None:
    if not spec.params.insecure:
        needed = needed_memory(spec.params, spec.backend) + more
        require_memory(needed, f"key generation for set {spec.params.name}")


def _share(spec: ClientSpec, policy: KeyPolicy, names: Sequence[str]) -> int:
    """About the bytes of these keys, as a part of all that the plan needs."""
    needs = spec.keys[policy]
    return needs.key_bytes * len(names) // max(len(names), len(needs.rotations))


@dataclass(frozen=True)
class _Maker:
    backend: Backend
    client: _core.ClientKeys
    identity: bytes
    key_id: str

    def bodies(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The keys of these names. Rotations come in batches, which OpenFHE makes one per core."""
        keys, single = self.backend.key_maker(self.client), [name for name in names if not rotations_of([name])]
        for name in single:
            if name == PUBLIC:
                yield name, self.client.public_key()
            elif name == RELINEARISATION:
                yield name, keys.relinearisation_key()
            elif name == CONJUGATION:
                yield name, keys.conjugation_key()
        if TO_SPARSE in single:  # both lead over one secret that is forgotten
            yield from zip((TO_SPARSE, TO_DENSE), keys.encapsulation_keys(), strict=True)
        rotations, batch = rotations_of(names), usable_threads()
        for start in range(0, len(rotations), batch):
            part = rotations[start : start + batch]
            yield from zip((rotation_file(*key) for key in part), keys.rotation_keys(part), strict=True)


def _begin(spec: ClientSpec, secret: bytes | None, passphrase: str | bytes | None) -> tuple[_Maker, Artifact | None]:
    """What makes the keys, and the container of a fresh secret (None where one was given)."""
    kind = spec.key_backend
    context = kind.context(spec.params)
    if secret is not None:
        opened = open_secret(secret, identity=spec.identity, passphrase=passphrase)
        client = _core.ClientKeys.load(context, opened.key_id, opened.body, b"")
        return _Maker(kind, client, spec.identity, opened.key_id), None
    key_id = new_key_id()
    client = _core.ClientKeys.generate(context, key_id)
    container = wrap_secret(client.secret(), spec.identity, key_id, passphrase)
    return _Maker(kind, client, spec.identity, key_id), container


def _write(
    add: Callable[[str, Artifact], FileEntry],
    maker: _Maker,
    names: Sequence[str],
    progress: ProgressCallback | None,
) -> dict[str, FileEntry]:
    files: dict[str, FileEntry] = {}
    for name, body in maker.bodies(names):
        key = describe(name)
        if key is None:
            raise CorruptArtifactError(f"no key is called {name}")
        files[name] = add(name, Artifact(key[0], maker.identity, maker.key_id, key[1], body))
        if progress:
            progress(len(files), len(names))
    return files


def _manifest(spec: ClientSpec, policy: KeyPolicy, key_id: str, files: dict[str, FileEntry]) -> Manifest:
    return Manifest(
        params=spec.params,
        backend=backend(spec.backend).name,
        key_id=key_id,
        policy=policy,
        plans=(PlanEntry(plan=spec.plan, model=spec.model),),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        rotations=tuple(sorted(rotations_of(files))),
        files=files,
    )


def _extended(old: Manifest, spec: ClientSpec, files: dict[str, FileEntry]) -> Manifest:
    """The manifest with a plan and files more."""
    both = {**old.files, **files}
    others = tuple(entry for entry in old.plans if entry.plan != spec.plan)[-(MAX_PLANS - 1) :]
    return Manifest(
        params=old.params,
        backend=old.backend,
        key_id=old.key_id,
        policy=old.policy,
        plans=(*others, PlanEntry(plan=spec.plan, model=spec.model)),
        created=old.created,
        rotations=tuple(sorted(rotations_of(both))),
        files=both,
    )
