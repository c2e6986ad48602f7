"""The client: encrypts inputs and decrypts results. Meets the server in bytes, and believes `client.json` alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.crypto.artifact import request_id, to_bytes
from fheinfer.crypto.backends import backend
from fheinfer.crypto.ciphertexts import Ciphertexts, check_count, check_level, open_ciphertexts, seal
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.client_tensors import class_logits
from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER, SERVER_FOLDER
from fheinfer.crypto.keystore import KeySet, ServerKeys
from fheinfer.crypto.manifest import PUBLIC
from fheinfer.crypto.passphrase import is_sealed
from fheinfer.crypto.secret import read_secret, unseal_secret
from fheinfer.errors import KeyStoreError, MismatchError, UsageError
from fheinfer.storage import shown

MAX_DECIMALS = 6
"""Decimals that `class_decimals` returns at most."""


class Client:
    """Keys of one client, and the plan that it encrypts for.

    With the secret key an input is half as large as under the public key, and more precise, which counts where scales
    are short (docs/explanation/precision.md); `decrypt` needs the secret.

    Args:
        keys: folder with `server/` (of which only the manifest and the public key are read) and, for decryption,
            `secret/`; or keys in memory.
        spec: what is known of the plan (`client.json`); `encrypt` and `decrypt` need it.
        secret: the secret key from elsewhere, as `keygen.new_secret` returned it. It is not written anywhere.
        passphrase: opens the secret key.

    Raises:
        KeyStoreError: no keys there, a secret that is not its owner's alone, or a passphrase that does not open it.
        ArtifactError: keys that are damaged, or made for another parameter set or backend than the plan.
    """

    def __init__(
        self,
        keys: Path | str | KeySet,
        spec: ClientSpec | None = None,
        *,
        secret: bytes | None = None,
        passphrase: str | bytes | None = None,
    ) -> None:
        self.spec = spec
        keys = Path(keys) if isinstance(keys, str) else keys
        self._server = ServerKeys(keys / SERVER_FOLDER if isinstance(keys, Path) else keys)
        manifest = self._server.manifest
        self.params, self.backend, self.key_id = manifest.params, manifest.backend, manifest.key_id
        if spec is not None and spec.identity != manifest.identity:
            raise MismatchError(
                f"{spec.model} needs keys of set {spec.params.name} ({spec.backend}) and these are of set "
                f"{manifest.set_name} ({manifest.backend}); name others, or make them with `fheinfer keygen`"
            )
        self._context = backend(self.backend).context(self.params)
        self._no_secret = "there is no secret key here"
        self._private = self._open(_secret_source(keys, secret), passphrase)
        self._public: _core.ClientKeys | None = None

    @property
    def can_decrypt(self) -> bool:
        """Whether the secret key is here and open."""
        return self._private is not None

    def encrypt(self, x: NDArray[np.floating]) -> bytes:
        """A normalised input, (C, H, W) or (F,), as an input artifact: all ciphertexts that it is in.

        Raises:
            UsageError: the client has no spec.
            InputError, RangeError: an input that the network does not take (`ClientSpec.pack`).
            KeyStoreError: neither the secret nor the public key is here.
        """
        spec = self._required_spec()
        keys = self._private or self._public_keys()
        bodies = [keys.encrypt(slots, spec.input.level) for slots in spec.pack(x)]
        metadata = {"role": "input", "plan": spec.plan}
        return to_bytes(seal(self.params, self.backend, self.key_id, metadata, bodies))

    def decrypt(self, result: bytes | memoryview, *, request: bytes | str | None = None) -> Any:
        """What the network returns, float64: an array, or arrays by name where it has several outputs.

        A last softmax, log-softmax or sigmoid of the network is computed here (`OutputSpec.final`); `outputs` returns
        values before it. Scale, number and range of the outputs are those of the client's own spec, whatever the
        result says.

        Args:
            request: the input artifact that this has to be the result of, or its `artifact.request_id`.

        Raises:
            UsageError: the client has no spec.
            KeyStoreError: no secret key, or one whose passphrase is missing.
            CorruptArtifactError: damaged.
            MismatchError: no result; or of another plan, key, parameter set, request or number of ciphertexts.
            RangeError: larger than any result of this plan can be.
            BackendError: a ciphertext decrypts to noise.
        """
        found, spec = self.outputs(result, request=request), self._required_spec()
        return spec.finish(found)

    def outputs(
        self, result: bytes | memoryview, *, request: bytes | str | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Every output by name as the server computed it, without a last softmax. Arguments and errors of `decrypt`."""
        spec, keys = self._required_spec(), self._required_secret()
        found = open_ciphertexts(result, self.params, self.backend, self.key_id)
        _check_result(found.metadata, spec, request if isinstance(request, str | None) else request_id(request))
        check_count(found, spec.result_ciphertexts)
        check_level(found, self.params, 0)  # last: an input is too long, too, and that is not what is wrong with it
        periods = [output.packing.period for output in spec.outputs for _ in range(output.ciphertexts)]
        slots = [np.asarray(keys.decrypt(body, n)) for body, n in zip(found.bodies, periods, strict=True)]
        return spec.unpack(slots)

    def decrypt_slots(self, artifact: bytes | memoryview) -> list[NDArray[np.float64]]:
        """Every slot of any ciphertexts under this key, e.g. of a checkpoint: for precision reports.

        Raises:
            KeyStoreError, CorruptArtifactError, MismatchError, BackendError: as `decrypt`.
        """
        return self._slots(open_ciphertexts(artifact, self.params, self.backend, self.key_id))

    def read_slots(self, path: Path) -> tuple[Mapping[str, Any], list[NDArray[np.float64]]]:
        """Metadata and every slot of the ciphertexts in a file, read once. Raises what `decrypt_slots` does."""
        found = open_ciphertexts(path, self.params, self.backend, self.key_id)
        return found.metadata, self._slots(found)

    def _slots(self, found: Ciphertexts) -> list[NDArray[np.float64]]:
        keys = self._required_secret()
        return [np.asarray(keys.decrypt(body, self.params.slots)) for body in found.bodies]

    def _open(self, source: Path | bytes | None, passphrase: str | bytes | None) -> _core.ClientKeys | None:
        if source is None:
            return None
        found = read_secret(source, identity=self._server.manifest.identity, key_id=self.key_id)
        name = shown(source) if isinstance(source, Path) else "the secret key"
        if is_sealed(found.metadata) and passphrase is None:
            self._no_secret = f"{name} has a passphrase, which was not given"
            return None
        return _core.ClientKeys.load(self._context, self.key_id, unseal_secret(found, passphrase, name).body, b"")

    def _public_keys(self) -> _core.ClientKeys:
        if self._public is None:
            self._public = _core.ClientKeys.load(self._context, self.key_id, b"", self._server.read(PUBLIC))
        return self._public

    def _required_secret(self) -> _core.ClientKeys:
        if self._private is None:
            raise KeyStoreError(f"{self._no_secret}, and only with it can anything be decrypted")
        return self._private

    def _required_spec(self) -> ClientSpec:
        if self.spec is None:
            raise UsageError("this client has no client.json: Client(keys, ClientSpec.load(path))")
        return self.spec


def class_decimals(outputs: NDArray[np.floating]) -> int:
    """Decimals to show outputs with: one more than tell the largest from the second, 0 to `MAX_DECIMALS`.

    Of a single one, one more than tell it from 0.
    """
    ordered = np.sort(class_logits(np.asarray(outputs, dtype=np.float64).ravel()))
    for decimals in range(MAX_DECIMALS):
        if np.round(ordered[-1], decimals) > np.round(ordered[-2], decimals):
            return decimals + 1
    return MAX_DECIMALS


def decimals_of(outputs: Mapping[str, NDArray[np.floating]], spec: ClientSpec) -> int:
    """Decimals to show all outputs of a plan with: what tells the class, or `MAX_DECIMALS` where there is none."""
    return max(class_decimals(outputs[s.name]) if s.scores else MAX_DECIMALS for s in spec.outputs)


def rounded(outputs: NDArray[np.floating], decimals: int) -> NDArray[np.float64]:
    """Outputs rounded to `decimals` decimals: the omitted ones tell nobody about the secret key (SECURITY.md).

    Raises:
        UsageError: decimals below 0 or above 17.
    """
    if not 0 <= decimals <= 17:
        raise UsageError(f"{decimals} decimals; choose 0 to 17")
    return np.asarray(np.round(outputs, decimals) + 0.0, dtype=np.float64)  # no -0.0


def _secret_source(keys: Path | KeySet, secret: bytes | None) -> Path | bytes | None:
    if secret is not None:
        return secret
    if not isinstance(keys, Path):
        return keys.secret
    path = keys / SECRET_FOLDER / SECRET_FILE
    return path if os.path.lexists(path) else None


def _check_result(metadata: Mapping[str, Any], spec: ClientSpec, request: str | None) -> None:
    role = metadata.get("role")
    if role != "result":
        what = "an encrypted input" if role == "input" else "not a result"
        raise MismatchError(f"this ciphertext is {what}; decrypt what `fheinfer evaluate` wrote")
    if metadata.get("plan") != spec.plan:
        raise MismatchError(
            f"the result is of another plan than {spec.model} ({spec.plan[:8]}); name the client.json of its plan, or "
            "encrypt and evaluate again"
        )
    if request is not None and metadata.get("request") != request:
        raise MismatchError("the result answers another request; name the input it was evaluated from")
