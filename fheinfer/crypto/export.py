"""Keys and ciphertexts in OpenFHE's own binary form, for people who want to read them with OpenFHE itself."""

from __future__ import annotations

from pathlib import Path

from fheinfer import _core
from fheinfer.crypto.artifact import Kind, open_ciphertext
from fheinfer.crypto.keystore import Manifest, SecretKeys, ServerKeys
from fheinfer.crypto.params import parameter_set
from fheinfer.storage import atomic_write, storage_errors


def export_openfhe(keys: Path, folder: Path, ciphertexts: list[Path], *, secret: bool = False) -> list[Path]:
    """Writes context.bin, public.bin, <name>.bin for each ciphertext and, if asked for, secret.bin (0600).

    They can be read with OpenFHE 1.4.2 (`DeserializeCryptoContext` and so on, BINARY).

    Raises:
        KeyStoreError, ArtifactError, StorageError: see the readers and `storage.atomic_write`.
    """
    manifest = Manifest.load(keys / "server" / "manifest.json")
    params = parameter_set(manifest.set_name)
    server = ServerKeys(keys / "server", params.identity)
    hidden = SecretKeys(keys / "secret", params.identity, server.key_id).payload if secret else b""
    context = _core.Context(params.core())
    client = _core.ClientKeys.load(context, server.key_id, hidden, server.read("public.key", Kind.PUBLIC_KEY))
    files = {"context.bin": _core.export_context(context), "public.bin": _core.export_public_key(client)}
    for path in ciphertexts:
        found = open_ciphertext(path, params, server.key_id)
        files[f"{path.stem}.bin"] = _core.export_ciphertext(context, server.key_id, found.payload)
    if secret:
        files["secret.bin"] = _core.export_secret_key(client)
    new = not folder.exists()
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        for name, data in files.items():
            atomic_write(folder / name, [data], mode=0o600 if name == "secret.bin" else 0o644)
            written.append(folder / name)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        if new:
            folder.rmdir()
        raise
    return written
