"""The client: holds the secret key, encrypts pictures, decrypts logits. Meets the server only in bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.compiler.plan import ClientSpec
from fheinfer.crypto.artifact import Artifact, Kind, open_ciphertext, to_bytes
from fheinfer.crypto.keystore import Manifest, SecretKeys, ServerKeys
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.errors import CorruptArtifactError, MismatchError

MAX_OUTPUTS = 65536


class Client:
    """Keys made by `keygen`.

    Args:
        keys: folder with `secret/` and `server/` (of which only the manifest and the public key are read).

    Raises:
        KeyStoreError, ArtifactError: keys that are missing, damaged, or whose secret others can read.
    """

    def __init__(self, keys: Path) -> None:
        manifest = Manifest.load(keys / "server" / "manifest.json")
        self.params = parameter_set(manifest.set_name)
        self.key_id = manifest.key_id
        server = ServerKeys(keys / "server", self.params.identity)
        secret = SecretKeys(keys / "secret", self.params.identity, self.key_id)
        self._keys = _core.ClientKeys.load(
            _core.Context(self.params.core()), self.key_id, secret.payload, server.read("public.key", Kind.PUBLIC_KEY)
        )

    def encrypt(self, image: NDArray[np.floating], spec: ClientSpec) -> bytes:
        """A normalised (C, H, W) picture as a ciphertext artifact.

        Args:
            spec: what the network expects: `plan.client` of the compiled plan.

        Raises:
            MismatchError: the network was compiled for another parameter set.
        """
        if spec.params != self.params.name:
            raise MismatchError(
                f"the network is compiled for set {spec.params} and these keys are of set {self.params.name}; "
                f"use keys/set{spec.params} or compile for --set {self.params.name}"
            )
        payload = self._keys.encrypt(spec.pack(image), spec.input_level)
        meta = {
            "role": "input",
            **{k: v for k, v in asdict(spec).items() if k in ("network", "plan", "output_scale", "outputs")},
        }
        return to_bytes(Artifact(Kind.CIPHERTEXT, self.params.identity, self.key_id, meta, payload))

    def decrypt(self, result: bytes | memoryview) -> NDArray[np.float64]:
        """Logits of a result artifact.

        Raises:
            CorruptArtifactError, MismatchError: damaged, or encrypted under another key.
            BackendError: the ciphertext decrypts to noise.
        """
        found = open_ciphertext(result, self.params, self.key_id)
        outputs, scale = _result_meta(found.meta, self.params)
        return np.asarray(self._keys.decrypt(found.payload, outputs)) * scale

    def decrypt_slots(self, artifact: bytes | memoryview) -> NDArray[np.float64]:
        """Every slot of any ciphertext under this key, e.g. a checkpoint: for precision reports."""
        return self._slots(open_ciphertext(artifact, self.params, self.key_id))

    def read_slots(self, path: Path) -> tuple[Mapping[str, Any], NDArray[np.float64]]:
        """Meta and every slot of the ciphertext in a file, which is read once."""
        found = open_ciphertext(path, self.params, self.key_id)
        return found.meta, self._slots(found)

    def _slots(self, found: Artifact) -> NDArray[np.float64]:
        return np.asarray(self._keys.decrypt(found.payload, self.params.slots))


def _result_meta(meta: Any, params: ParameterSet) -> tuple[int, float]:
    outputs, scale = meta.get("outputs"), meta.get("output_scale")
    if meta.get("role") != "result":
        raise MismatchError(
            f"this ciphertext is {'an encrypted picture' if meta.get('role') == 'input' else 'not a result'}; "
            "decrypt what `fheinfer evaluate` wrote"
        )
    if not isinstance(outputs, int) or not 1 <= outputs <= min(params.slots, MAX_OUTPUTS):
        raise CorruptArtifactError(f"the result claims {outputs!r} outputs; evaluate the picture again")
    if not isinstance(scale, float) or not math.isfinite(scale) or scale <= 0:
        raise CorruptArtifactError(f"the result claims the scale {scale!r}; evaluate the picture again")
    return outputs, scale
