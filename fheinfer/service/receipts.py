"""What the service states of a result, signed: the service makes the key once, a client pins it and checks.

A receipt travels as JSON with sorted keys and no spaces, and the signature (Ed25519) is of those very bytes.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import ValidationError

from fheinfer.errors import KeyStoreError, UntrustedServerError
from fheinfer.service.protocol import RECEIPT_HEADER, SIGNATURE_HEADER, Receipt
from fheinfer.storage import PRIVATE, atomic_write, check_private, read_small, shown

FILE_NAME = "signing.key"
_CONTEXT = b"fheinfer receipt 1\n"
"""Signed before every receipt: a signature of this key on anything else is none on a receipt."""
_MAX_HEADER = 4096


class Signer:
    """The service's signing key, in the file `path` (PEM, mode 0600), made where it is missing.

    Raises:
        KeyStoreError: the file is open to others, or holds no such key.
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        try:
            check_private(path)
            pem = read_small(path, 4096, "a signing key")
        except FileNotFoundError:
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            atomic_write(path, [pem], PRIVATE)
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyStoreError(
                f"{shown(path)} holds no Ed25519 key; restore it from a backup, or delete it: clients then have to be "
                "told that the key is a new one"
            )
        self._key = key

    @property
    def public(self) -> str:
        """The public key, 64 hexadecimal digits: `ServerInfo.signing_key`."""
        return self._key.public_key().public_bytes_raw().hex()

    def headers(self, receipt: Receipt) -> dict[str, str]:
        """The receipt and its signature as the headers of a response."""
        encoded = encode(receipt)
        signature = self._key.sign(_CONTEXT + encoded)
        return {RECEIPT_HEADER: _base64(encoded), SIGNATURE_HEADER: _base64(signature)}


def encode(receipt: Receipt) -> bytes:
    """The bytes of a receipt that are signed."""
    return json.dumps(receipt.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def verify(headers: Mapping[str, str], signing_key: str) -> Receipt:
    """The receipt in the headers of a response, once its signature is that of `signing_key` (64 hexadecimal digits).

    What the receipt says has still to be compared with what was sent and received.

    Raises:
        UntrustedServerError: no receipt, or not one that this key signed.
    """
    untrusted = UntrustedServerError(
        "this result comes without a receipt that is signed by the service you trusted first; do not use it, and ask "
        "the service's owner"
    )
    try:
        encoded, signature = (_bytes(headers[name]) for name in (RECEIPT_HEADER, SIGNATURE_HEADER))
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signing_key)).verify(signature, _CONTEXT + encoded)
        return Receipt.model_validate_json(encoded)
    except (LookupError, ValueError, InvalidSignature, ValidationError):
        raise untrusted from None


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    if len(text) > _MAX_HEADER:
        raise ValueError("too long")
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
