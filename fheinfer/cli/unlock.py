"""The client of a folder of keys; asks for the passphrase of its secret. Not for commands of the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fheinfer.client import Client
    from fheinfer.crypto.client_spec import ClientSpec


def open_client(keys: Path, spec: ClientSpec, passphrase_file: Path | None, *, ask: bool = True) -> Client:
    """The client of these keys; asks for a passphrase where the secret has one, none was given and somebody is there.

    Args:
        ask: False where the public key does.

    Raises:
        KeyStoreError, ArtifactError, InputError: see `Client` and `read_passphrase`.
    """
    from fheinfer.client import Client
    from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER
    from fheinfer.crypto.passphrase import read_passphrase

    passphrase = read_passphrase(passphrase_file)
    client = Client(keys, spec, passphrase=passphrase)
    sealed = ask and not client.can_decrypt and (keys / SECRET_FOLDER / SECRET_FILE).exists()
    if passphrase is None and sealed and sys.stdin is not None and sys.stdin.isatty():
        from getpass import getpass

        client = Client(keys, spec, passphrase=getpass("passphrase of the secret key: "))
    return client
