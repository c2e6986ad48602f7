"""A passphrase on the secret key."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer.crypto import artifact, passphrase
from fheinfer.crypto.artifact import Artifact, Kind
from fheinfer.crypto.secret import open_secret, read_secret, wrap_secret
from fheinfer.errors import CorruptArtifactError, FheinferError, InputError, KeyStoreError, MismatchError, UsageError

HASH, KEY = b"\x11" * 32, "ab" * 16
BODY = b"\0\1\xff" * 100


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "LOG2_N", 10)


def sealed(body: bytes = BODY, word: str | bytes = "correct horse") -> bytes:
    return artifact.to_bytes(wrap_secret(body, HASH, KEY, word))


def resealed(data: bytes, **changes: Any) -> bytes:
    """The same with other parameters in its metadata."""
    found = artifact.from_bytes(data, kind=Kind.SECRET_KEY, max_body=len(data))
    metadata = {"passphrase": {**found.metadata["passphrase"], **changes}}
    return artifact.to_bytes(Artifact(Kind.SECRET_KEY, found.identity, found.key_id, metadata, bytes(found.body)))


@given(st.binary(max_size=300), st.text(min_size=1, max_size=50, alphabet=st.characters(exclude_categories=["Cs"])))
@settings(max_examples=20)
def test_round_trip(body: bytes, word: str) -> None:
    data = sealed(body, word)
    assert len(body) < 8 or body not in data[104:]
    assert bytes(open_secret(data, identity=HASH, passphrase=word).body) == body
    assert bytes(open_secret(data, identity=HASH, passphrase=word.encode()).body) == body


def test_a_new_seal_is_a_new_salt_and_nonce() -> None:
    one, other = (artifact.from_bytes(sealed(), kind=Kind.SECRET_KEY, max_body=1000) for _ in range(2))
    assert one.metadata["passphrase"]["salt"] != other.metadata["passphrase"]["salt"]
    assert one.metadata["passphrase"]["nonce"] != other.metadata["passphrase"]["nonce"]
    assert bytes(one.body) != bytes(other.body)


def test_the_default_cost_is_that_of_a_person_who_waits_and_bounded() -> None:
    assert (1 << 17) * 128 * 8 == 128 << 20
    for changes in ({"log2_n": 30}, {"log2_n": 9}, {"r": 1 << 20}, {"p": 1000}, {"kdf": "none"}, {"more": 1}):
        with pytest.raises(CorruptArtifactError, match="seal"):
            open_secret(resealed(sealed(), **changes), identity=HASH, passphrase="correct horse")


def test_wrong_passphrases_and_changed_files_look_the_same() -> None:
    messages = set()
    for data, word in (
        (sealed(), "wrong"),
        (resealed(sealed(), salt="0" * 32), "correct horse"),
        (resealed(sealed(), nonce="0" * 24), "correct horse"),
        (sealed(b""), "wrong"),
    ):
        with pytest.raises(KeyStoreError) as caught:
            open_secret(data, identity=HASH, passphrase=word)
        messages.add(str(caught.value))
    assert messages == {"the passphrase does not open the secret key; try again, or get the file from a backup"}


def test_a_seal_is_of_one_key_and_set() -> None:
    found = artifact.from_bytes(sealed(), kind=Kind.SECRET_KEY, max_body=1000)
    for identity, key in ((b"\x22" * 32, KEY), (HASH, "cd" * 16)):
        moved = artifact.to_bytes(Artifact(Kind.SECRET_KEY, identity, key, found.metadata, bytes(found.body)))
        with pytest.raises(KeyStoreError, match="does not open"):
            open_secret(moved, identity=identity, passphrase="correct horse")
    with pytest.raises(MismatchError, match="the secret key: of another key"):
        open_secret(sealed(), identity=HASH, key_id="cd" * 16, passphrase="correct horse")


def test_without_its_passphrase_it_says_how_to_give_it() -> None:
    assert passphrase.is_sealed(read_secret(sealed(), identity=HASH).metadata)
    with pytest.raises(KeyStoreError, match="--passphrase-file"):
        open_secret(sealed(), identity=HASH)
    with pytest.raises(UsageError, match="1 to 4096"):
        sealed(word="")


@given(st.data())
@settings(max_examples=30)
def test_damaged_secrets_raise_only_typed_errors(data: st.DataObject) -> None:
    good = bytearray(sealed())
    at = data.draw(st.integers(0, len(good) - 1))
    good[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(min_size=1, max_size=2))
    with suppress(FheinferError):
        assert bytes(open_secret(bytes(good), identity=HASH, passphrase="correct horse").body) == BODY


def test_where_a_passphrase_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(passphrase.VARIABLE, raising=False)
    assert passphrase.read_passphrase() is None
    monkeypatch.setenv(passphrase.VARIABLE, "from outside")
    assert passphrase.read_passphrase() == b"from outside"
    (tmp_path / "word").write_bytes(b"a word with spaces \r\nmore\n")
    assert passphrase.read_passphrase(tmp_path / "word") == b"a word with spaces "
    (tmp_path / "word").write_bytes(b"\n")
    with pytest.raises(InputError, match="first line is empty"):
        passphrase.read_passphrase(tmp_path / "word")
    with pytest.raises(InputError, match="no such file"):
        passphrase.read_passphrase(tmp_path / "none")
    with pytest.raises(InputError, match="a file with the passphrase was expected there"):
        passphrase.read_passphrase(Path("/dev/zero"))
    monkeypatch.setenv(passphrase.VARIABLE, "")
    with pytest.raises(UsageError):
        passphrase.read_passphrase()
