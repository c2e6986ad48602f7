"""What keys and ciphertexts weigh is what the plan predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer import _core
from fheinfer.compiler.keys import rotation_keys
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.backends import backend
from fheinfer.crypto.manifest import Manifest, rotation_file
from fheinfer.crypto.params import parameter_set, public_key_bytes


def test_bytes_are_those_of_the_files(tiny_keys: Path, tiny_plan: Plan) -> None:
    files = Manifest.load(tiny_keys / "server" / "manifest.json").files
    for key in rotation_keys(tiny_plan):
        assert files[rotation_file(key.rotation, key.limbs)].bytes == pytest.approx(key.bytes, abs=1024)


def test_key_bytes_are_predicted(tiny_plan: Plan, tiny_keys: Path) -> None:
    """Of the whole folder, within the container of each file."""
    manifest = Manifest.load(tiny_keys / "server" / "manifest.json")
    on_disk = sum(path.stat().st_size for path in (tiny_keys / "server").glob("*.key"))
    assert on_disk == manifest.total_bytes
    assert 0 <= on_disk - tiny_plan.keys["fast"].key_bytes < 1024 * len(manifest.files)


@pytest.mark.parametrize("name", ["insecure-tiny", "insecure-tiny-turbo", "insecure-tiny-openfhe"])
def test_the_public_key_is_predicted(name: str) -> None:
    params = parameter_set(name)
    context = backend("openfhe" if name.endswith("openfhe") else "native").context(params)
    keys = _core.ClientKeys.generate(context, "ab" * 16)
    assert len(keys.public_key()) == public_key_bytes(params)


def test_ciphertext_bytes_are_predicted(tiny_plan: Plan, tiny_client: fheinfer.Client, tiny_image: Any) -> None:
    size = len(tiny_client.encrypt(tiny_image))
    assert tiny_plan.client.input.bytes == pytest.approx(size, rel=0.02)
