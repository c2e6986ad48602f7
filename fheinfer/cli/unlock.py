"""The client of a folder of keys, and the passphrase of its secret. Not for commands of the server."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fheinfer.errors import FheinferError

if TYPE_CHECKING:
    from fheinfer.client import Client
    from fheinfer.crypto.client_spec import ClientSpec


def open_client(keys: Path, spec: ClientSpec, passphrase_file: Path | None, *, ask: bool = True) -> Client:
    """The client of these keys; asks for a passphrase where `passphrase_of` does.

    Args:
        ask: False where the public key does.

    Raises:
        KeyStoreError, ArtifactError, InputError: see `Client` and `read_passphrase`.
    """
    from fheinfer.client import Client
    from fheinfer.crypto.passphrase import read_passphrase

    given = passphrase_of(keys, passphrase_file) if ask else read_passphrase(passphrase_file)
    return Client(keys, spec, passphrase=given)


def passphrase_of(keys: Path, passphrase_file: Path | None) -> str | bytes | None:
    """The passphrase that opens the secret in a folder of keys: from the file, else from the environment; asked for
    where neither has one, the secret needs one and somebody is there. None where there is none.

    Raises:
        InputError, StorageError, UsageError: see `read_passphrase`.
    """
    from fheinfer.crypto.passphrase import read_passphrase

    given = read_passphrase(passphrase_file)
    if given is None and _somebody_is_there() and _is_sealed(keys):
        from getpass import getpass

        return getpass("passphrase of the secret key: ")
    return given


def _somebody_is_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _is_sealed(keys: Path) -> bool:
    """Whether the secret has a passphrase; False of one that is not to be used, which its reader says better."""
    from fheinfer.crypto.artifact import Kind, read
    from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER
    from fheinfer.crypto.passphrase import is_sealed
    from fheinfer.crypto.secret import MAX_SECRET
    from fheinfer.storage import check_private

    path = keys / SECRET_FOLDER / SECRET_FILE
    with suppress(FheinferError, FileNotFoundError):
        check_private(path.parent)
        check_private(path)
        return is_sealed(read(path, kind=Kind.SECRET_KEY, max_body=MAX_SECRET).metadata)
    return False
