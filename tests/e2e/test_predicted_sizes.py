"""What keys and ciphertexts weigh is what the plan predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.compiler.keys import rotation_keys
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.manifest import Manifest, rotation_file


def test_bytes_are_those_of_the_files(tiny_keys: Path, tiny_plan: Plan) -> None:
    files = Manifest.load(tiny_keys / "server" / "manifest.json").files
    for key in rotation_keys(tiny_plan):
        assert files[rotation_file(key.rotation, key.limbs)].bytes == pytest.approx(key.bytes, abs=1024)


def test_key_bytes_are_predicted(tiny_plan: Plan, tiny_keys: Path) -> None:
    manifest = Manifest.load(tiny_keys / "server" / "manifest.json")
    evaluation = manifest.total_bytes - manifest.files["public.key"].bytes
    assert tiny_plan.keys["fast"].key_bytes == pytest.approx(evaluation, rel=0.02)


def test_ciphertext_bytes_are_predicted(tiny_plan: Plan, tiny_client: fheinfer.Client, tiny_image: Any) -> None:
    size = len(tiny_client.encrypt(tiny_image))
    assert tiny_plan.client.input_bytes == pytest.approx(size, rel=0.02)
