"""Keys of a few hundred bytes with the right containers and manifests: the service checks those, and parses no key."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from fheinfer.crypto import artifact
from fheinfer.crypto.artifact import Artifact
from fheinfer.crypto.manifest import Manifest, describe, rotations_of
from fheinfer.errors import KeyStoreError
from fheinfer.service.uploads import KeyUploads

BASE = ("public.key", "relinearisation.key", "rotation_1_4.key")
MORE = (*BASE, "rotation_2_4.key", "rotation_4_4.key")
KEY_ID = "0123456789abcdef" * 2


@dataclass(frozen=True)
class Keys:
    """A manifest as it is sent, and its files."""

    manifest: bytes
    files: dict[str, bytes]

    def only(self, *names: str) -> Keys:
        """The same with some of the files."""
        files = {name: self.files[name] for name in names}
        fields = json.loads(self.manifest)
        fields["files"] = {name: fields["files"][name] for name in names}
        fields["rotations"] = sorted(rotations_of(names))
        return Keys(json.dumps(fields).encode(), files)


def small_keys(real: Manifest, seed: int, key_id: str = KEY_ID) -> Keys:
    """Keys with all files of `MORE`, of the parameters of a real manifest; other bytes for another seed."""
    rng, files, entries = random.Random(seed), {}, {}
    for name in MORE:
        key = describe(name)
        assert key is not None
        made = Artifact(key[0], real.identity, key_id, key[1], rng.randbytes(rng.randint(1, 300)))
        files[name] = artifact.to_bytes(made)
        checksum = artifact.from_bytes(files[name], kind=key[0], max_body=300).checksum
        entries[name] = {"bytes": len(files[name]), "sha256": checksum.hex()}
    fields = {**real.to_json(), "key_id": key_id, "files": entries, "rotations": sorted(rotations_of(MORE))}
    return Keys(json.dumps(fields).encode(), files)


def send(uploads: KeyUploads, account: str, keys: Keys, chunk: int = 150) -> None:
    """What a client does: the manifest, then of every file what is not there."""
    uploads.begin(account, KEY_ID, keys.manifest)
    for file in uploads.status(account, KEY_ID).files:
        received = file.received
        while received < file.bytes:
            piece = keys.files[file.name][received : received + chunk]
            received = uploads.append(account, KEY_ID, file.name, received, piece).received


def usable(folder: Path, account: str) -> dict[str, bytes]:
    """The key files that a worker would find; none where there is no manifest."""
    place = folder / "keys" / account / KEY_ID
    try:
        manifest = Manifest.load(place / "manifest.json")
    except KeyStoreError:
        return {}
    return {name: (place / name).read_bytes() for name in manifest.files}
