"""Receipts: signed by a key that is made once, and refused where anything of them is another."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fheinfer.errors import KeyStoreError, UntrustedServerError
from fheinfer.service.protocol import RECEIPT_HEADER, SIGNATURE_HEADER, Receipt
from fheinfer.service.receipts import Signer, encode, verify

RECEIPT = Receipt(
    job="1" * 32, request="2" * 64, result="3" * 64, plan="4" * 64, key_id="5" * 32, finished=1_790_000_000.123456
)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signing.key")


def test_the_key_is_made_once_and_private(signer: Signer, tmp_path: Path) -> None:
    assert Signer(tmp_path / "signing.key").public == signer.public
    assert Signer(tmp_path / "other.key").public != signer.public
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_or_that_is_none_is_refused(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    path.chmod(0o644)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        Signer(path)
    path.chmod(0o600)
    for content in (b"", b"x" * 100, path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(KeyStoreError, match="Ed25519"):
            Signer(path)


def test_a_receipt_comes_back_as_it_was_signed(signer: Signer) -> None:
    assert verify(signer.headers(RECEIPT), signer.public) == RECEIPT
    assert encode(RECEIPT) == encode(Receipt.model_validate_json(encode(RECEIPT)))


def test_a_receipt_of_anything_else_is_refused(signer: Signer, tmp_path: Path) -> None:
    """Row "files have a checksum, no signature"."""
    headers = signer.headers(RECEIPT)
    with pytest.raises(UntrustedServerError):
        verify(headers, Signer(tmp_path / "other.key").public)
    for field in ("job", "request", "result", "plan", "key_id", "finished"):
        other = RECEIPT.model_copy(update={field: 7.0 if field == "finished" else "6" * len(getattr(RECEIPT, field))})
        forged = base64.urlsafe_b64encode(encode(other)).decode().rstrip("=")
        with pytest.raises(UntrustedServerError):
            verify({**headers, RECEIPT_HEADER: forged}, signer.public)
    for name in (RECEIPT_HEADER, SIGNATURE_HEADER):
        raw = headers[name]
        for wrong in ("", "=", "ä", "\0", raw[:-4], raw + raw, "A" * 100_000, raw.swapcase()):
            with pytest.raises(UntrustedServerError):
                verify({**headers, name: wrong}, signer.public)
        with pytest.raises(UntrustedServerError):
            verify({key: value for key, value in headers.items() if key != name}, signer.public)
    with pytest.raises(UntrustedServerError):
        verify(headers, "no key")


def test_a_client_checks_receipts_without_the_service(process: Callable[..., Any]) -> None:
    result = process(python="import fheinfer.service.receipts, sys; print(*sys.modules)")
    assert result.code == 0, result.err
    loaded = set(result.out.split())
    assert not {name for name in loaded if name.startswith(("sqlite3", "fastapi", "fheinfer.service.store"))}
