"""OpenFHE's own binary form, and OpenFHE's Python module reading it where it can be imported."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.crypto.export import export_openfhe
from fheinfer.errors import InputError, KeyStoreError
from fheinfer.evaluation.metrics import precision_bits


@pytest.fixture(scope="module")
def ciphertext(
    tiny_client: fheinfer.Client,
    tiny_plan: fheinfer.Plan,
    tiny_picture: NDArray[np.float64],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("export") / "picture.ct"
    path.write_bytes(tiny_client.encrypt(tiny_picture, tiny_plan.client))
    return path


@pytest.fixture
def keys(tiny_keys: Path) -> Path:
    return tiny_keys / "setinsecure-tiny"


def test_files_are_named_after_what_they_hold(keys: Path, ciphertext: Path, tmp_path: Path) -> None:
    written = export_openfhe(keys, tmp_path / "out", [ciphertext])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["context.bin", "picture.bin", "public.bin"]
    assert {p.name for p in written} == {"context.bin", "picture.bin", "public.bin"}
    assert all(p.stat().st_size > 1000 for p in written)


def test_the_secret_is_written_only_when_asked_for_and_for_its_owner_alone(keys: Path, tmp_path: Path) -> None:
    export_openfhe(keys, tmp_path, [])
    assert not (tmp_path / "secret.bin").exists()
    export_openfhe(keys, tmp_path, [], secret=True)
    assert stat.S_IMODE((tmp_path / "secret.bin").stat().st_mode) == 0o600


def test_without_its_secret_folder_a_client_can_still_export_what_is_public(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "server").symlink_to(keys / "server")
    assert len(export_openfhe(tmp_path / "keys", tmp_path / "out", [])) == 2
    with pytest.raises(KeyStoreError):
        export_openfhe(tmp_path / "keys", tmp_path / "secret", [], secret=True)
    assert not (tmp_path / "secret").exists()


def test_a_missing_ciphertext_leaves_nothing(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ciphertext"):
        export_openfhe(keys, tmp_path / "out", [tmp_path / "none.ct"])
    assert list(tmp_path.iterdir()) == []


def test_openfhe_itself_reads_and_decrypts_them(
    keys: Path, ciphertext: Path, tiny_client: fheinfer.Client, tmp_path: Path
) -> None:
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
    expected = tiny_client.decrypt_slots(ciphertext.read_bytes())
    plain = context.Decrypt(secret, load("Ciphertext", "picture.bin"))  # type: ignore[attr-defined]
    plain.SetLength(len(expected))
    assert precision_bits(expected, plain.GetRealPackedValue()).minimum > 20
    again = context.Encrypt(public, context.MakeCKKSPackedPlaintext([0.5, -0.25]))  # type: ignore[attr-defined]
    plain = context.Decrypt(secret, again)  # type: ignore[attr-defined]
    plain.SetLength(2)
    assert precision_bits([0.5, -0.25], plain.GetRealPackedValue()).minimum > 20
