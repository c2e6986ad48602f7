"""What the remote client does with keys that the service does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fheinfer.crypto.manifest import FILE_NAME, Manifest
from fheinfer.errors import MismatchError
from fheinfer.service import uploading
from fheinfer.service.protocol import KeyStatus


class _Refusing:
    """A connection to a service that has other keys of this key id, and takes none beside them."""

    url = "http://127.0.0.1:1"

    def __init__(self, status: KeyStatus) -> None:
        self.status, self.methods = status, list[str]()

    def json(self, kind: object, method: str, path: str, **options: object) -> KeyStatus:
        self.methods.append(method)
        if method == "PUT":
            raise MismatchError("other keys of this id are here")
        return self.status

    def request(self, read: object, method: str, path: str, **options: object) -> None:
        self.methods.append(method)


@pytest.mark.parametrize("complete", [True, False])
def test_keys_that_jobs_may_use_are_not_deleted_for_others(tiny_keys: Path, complete: bool) -> None:
    """A second machine with an older copy of a folder, to which keys were added elsewhere."""
    manifest = Manifest.load(tiny_keys / "server" / FILE_NAME)
    status = KeyStatus(key_id=manifest.key_id, complete=complete, bytes=1, received=1, created=0.0, used=0.0)
    connection: Any = _Refusing(status)
    with pytest.raises(MismatchError):
        uploading.upload(connection, tiny_keys / "server", manifest, lambda event: None)
    assert ("DELETE" in connection.methods) is not complete
