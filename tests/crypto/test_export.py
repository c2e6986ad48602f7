"""OpenFHE's own binary form, and OpenFHE's Python module reading it where it can be imported."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fheinfer import storage
from fheinfer.client import Client
from fheinfer.crypto import export, passphrase
from fheinfer.crypto.export import export_openfhe
from fheinfer.crypto.keygen import generate, keygen
from fheinfer.crypto.keystore import KeySet
from fheinfer.errors import InputError, KeyStoreError, MismatchError, StorageError, UsageError
from fheinfer.evaluation.metrics import precision_bits
from tests.crypto.specs import SHAPE, spec


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    keygen(spec(), tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def ciphertext(keys: Path, tmp_path: Path) -> Path:
    path = tmp_path / "image.ct"
    path.write_bytes(Client(keys, spec()).encrypt(np.zeros(SHAPE) + 0.5))
    return path


def test_files_are_named_after_what_they_hold(keys: Path, ciphertext: Path, tmp_path: Path) -> None:
    written = export_openfhe(keys, tmp_path / "out", [ciphertext])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["context.bin", "image.bin", "public.bin"]
    assert {p.name for p in written} == {"context.bin", "image.bin", "public.bin"}
    assert all(p.stat().st_size > 1000 for p in written)


def test_two_files_of_one_name_are_refused(keys: Path, ciphertext: Path, tmp_path: Path) -> None:
    for name in ("context.ct", "image.result"):
        with pytest.raises(UsageError, match="rename"):
            export_openfhe(keys, tmp_path / "out", [ciphertext, ciphertext.with_name(name)])
    assert not (tmp_path / "out").exists()


def test_the_secret_is_written_only_when_asked_for_and_for_its_owner_alone(keys: Path, tmp_path: Path) -> None:
    export_openfhe(keys, tmp_path / "out", [])
    assert not (tmp_path / "out" / "secret.bin").exists()
    export_openfhe(keys, tmp_path / "out", [], secret=True)
    assert stat.S_IMODE((tmp_path / "out" / "secret.bin").stat().st_mode) == 0o600
    (keys / "secret").chmod(0o755)
    with pytest.raises(KeyStoreError, match="chmod 700"):
        export_openfhe(keys, tmp_path / "again", [], secret=True)
    assert not (tmp_path / "again").exists()


def test_without_its_secret_folder_a_client_can_still_export_what_is_public(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "server").symlink_to(keys / "server")
    assert len(export_openfhe(tmp_path / "public", tmp_path / "out", [])) == 2
    with pytest.raises(KeyStoreError):
        export_openfhe(tmp_path / "public", tmp_path / "secret", [], secret=True)
    assert not (tmp_path / "secret").exists()


def test_keys_in_memory_and_passphrases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "LOG2_N", 10)
    made = generate(spec(), passphrase="word")
    assert len(export_openfhe(made, tmp_path / "out", [], secret=True, passphrase="word")) == 3
    with pytest.raises(KeyStoreError, match="passphrase"):
        export_openfhe(made, tmp_path / "out", [], secret=True)
    with pytest.raises(KeyStoreError, match="no secret key"):
        export_openfhe(KeySet(made.manifest, made.files), tmp_path / "out", [], secret=True)


def test_a_missing_or_foreign_ciphertext_leaves_nothing(keys: Path, ciphertext: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ciphertext"):
        export_openfhe(keys, tmp_path / "out", [tmp_path / "none.ct"])
    keygen(spec(), tmp_path / "others")
    with pytest.raises(MismatchError, match="another key"):
        export_openfhe(tmp_path / "others", tmp_path / "out", [ciphertext])
    assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_what_was_there(
    keys: Path, ciphertext: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It deleted the files of an earlier export that it had replaced by then."""
    out, left = tmp_path / "out", [2]
    export_openfhe(keys, out, [ciphertext])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    keygen(spec(), tmp_path / "others")
    write = storage.atomic_write

    def full(path: Path, chunks: Any, mode: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StorageError(f"{path}: the disk is full; make room there")
        write(path, chunks, mode)

    monkeypatch.setattr(export, "atomic_write", full)
    for folder in (out, tmp_path / "new"):
        left[0] = 2
        with pytest.raises(StorageError, match="disk is full"):
            export_openfhe(tmp_path / "others", folder, [], secret=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_a_folder_in_the_way_is_refused_first(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "public.bin").mkdir(parents=True)
    with pytest.raises(StorageError, match="is a folder"):
        export_openfhe(keys, tmp_path / "out", [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["public.bin"]


def test_openfhe_itself_reads_and_decrypts_them(keys: Path, ciphertext: Path, tmp_path: Path) -> None:
    try:
        import openfhe  # type: ignore[import-untyped]
    except ImportError as error:
        pytest.skip(f"openfhe's Python module imports on CPython 3.10 (or 3.12 with another build) only: {error}")
    export_openfhe(keys, tmp_path, [ciphertext], secret=True)

    def load(kind: str, name: str) -> object:
        value, ok = getattr(openfhe, f"Deserialize{kind}")(str(tmp_path / name), openfhe.BINARY)
        assert ok
        return value

    context = load("CryptoContext", "context.bin")
    public, secret = load("PublicKey", "public.bin"), load("PrivateKey", "secret.bin")
    (expected,) = Client(keys).decrypt_slots(ciphertext.read_bytes())
    plain = context.Decrypt(secret, load("Ciphertext", "image.bin"))  # type: ignore[attr-defined]
    plain.SetLength(len(expected))
    assert precision_bits(expected, plain.GetRealPackedValue()).minimum > 20
    again = context.Encrypt(public, context.MakeCKKSPackedPlaintext([0.5, -0.25]))  # type: ignore[attr-defined]
    plain = context.Decrypt(secret, again)  # type: ignore[attr-defined]
    plain.SetLength(2)
    assert precision_bits([0.5, -0.25], plain.GetRealPackedValue()).minimum > 20
