"""Keys and ciphertexts in OpenFHE's own binary form, for people who want to read them with OpenFHE itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fheinfer import _core
from fheinfer.crypto.backends import backend
from fheinfer.crypto.ciphertexts import open_ciphertexts
from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER, SERVER_FOLDER
from fheinfer.crypto.keystore import KeySet, ServerKeys
from fheinfer.crypto.manifest import PUBLIC
from fheinfer.crypto.secret import open_secret
from fheinfer.errors import KeyStoreError, StorageError, UsageError
from fheinfer.storage import atomic_write, storage_errors, sync_folder, temporary_sibling


def export_openfhe(
    keys: Path | KeySet,
    folder: Path,
    ciphertexts: list[Path],
    *,
    secret: bool = False,
    passphrase: str | bytes | None = None,
) -> list[Path]:
    """Writes context.bin, public.bin, <name>.bin for each ciphertext and, if asked for, secret.bin (0600, in clear).

    Of a file with several ciphertexts each is one of its own, <name>_0.bin and on.

    Files of these names are replaced, all or none.

    They can be read with OpenFHE 1.4.2 (`DeserializeCryptoContext` and so on, BINARY).

    Args:
        keys: folder of keys, of which the manifest and the public key are read; or keys in memory.
        secret: write the secret key, too; a passphrase on it does not carry over.
        passphrase: opens the secret key.

    Raises:
        UsageError: two files would have the same name.
        KeyStoreError, ArtifactError, StorageError: see the readers and `storage.atomic_write`.
    """
    server = ServerKeys(keys / SERVER_FOLDER if isinstance(keys, Path) else keys)
    manifest = server.manifest
    names = _names(ciphertexts)
    body = _secret_body(keys, server, passphrase) if secret else b""
    context = backend(manifest.backend).context(manifest.params)
    client = _core.ClientKeys.load(context, manifest.key_id, body, server.read(PUBLIC))
    files = {"context.bin": _core.export_context(context), "public.bin": _core.export_public_key(client)}
    for name, path in names.items():
        found = open_ciphertexts(path, manifest.params, manifest.backend, manifest.key_id)
        for number, part in enumerate(found.bodies):
            whole = name if len(found.bodies) == 1 else f"{name.removesuffix('.bin')}_{number}.bin"
            if whole in files or (whole != name and whole in names):
                raise UsageError(f"{whole}: two exported ciphertexts of one name; rename {path}")
            files[whole] = _core.export_ciphertext(context, manifest.key_id, part)
    if secret:
        files["secret.bin"] = _core.export_secret_key(client)
    return _write(folder, files)


def _names(ciphertexts: list[Path]) -> dict[str, Path]:
    names = {f"{path.stem}.bin": path for path in ciphertexts}
    taken = names.keys() & {"context.bin", "public.bin", "secret.bin"}
    if taken or len(names) < len(ciphertexts):
        what = min(taken) if taken else "two ciphertexts of one name"
        raise UsageError(f"{what}: each exported file needs a name of its own; rename the ciphertext")
    return names


def _secret_body(keys: Path | KeySet, server: ServerKeys, passphrase: str | bytes | None) -> bytes | memoryview:
    source = keys / SECRET_FOLDER / SECRET_FILE if isinstance(keys, Path) else keys.secret
    if source is None:
        raise KeyStoreError("these keys have no secret key; nothing but public files can be exported")
    opened = open_secret(source, identity=server.manifest.identity, key_id=server.key_id, passphrase=passphrase)
    return opened.body


def _write(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """All files, under temporary names until each is on the disk: what they replace is there until then."""
    new = not folder.exists()
    for name in files:
        if (folder / name).is_dir():
            raise StorageError(f"{folder / name} is a folder; choose another one for the export")
    with storage_errors(folder):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    written: dict[Path, Path] = {}
    try:
        for name, data in files.items():
            temporary = temporary_sibling(folder / name)
            written[folder / name] = temporary
            atomic_write(temporary, [data], mode=0o600 if name == "secret.bin" else 0o644)
        for path, temporary in written.items():
            with storage_errors(path):
                temporary.replace(path)
    except BaseException:
        for temporary in written.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise
    sync_folder(folder)
    return list(written)
