"""Set 1: N = 2^16, gigabytes of keys, minutes. `pytest -m n16`, with keys (`fheinfer keygen`) at $FHEINFER_KEYS."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MINUTES, GB = 60, 10**9


@pytest.mark.n16
def test_set_1_sees_the_dog_in_nine_minutes_and_14_gigabytes(process: Callable[..., Any], tmp_path: Path) -> None:
    """The issue: at most 9 minutes, 14 GB of memory and 9 GB of keys, and PyTorch's class."""
    keys = os.environ.get("FHEINFER_KEYS")
    if not keys or not (Path(keys) / "set1" / "server" / "manifest.json").is_file():
        pytest.skip("no keys of set 1 in $FHEINFER_KEYS")
    weights = os.environ.get("FHEINFER_WEIGHTS")
    arguments = ["infer", "--set", "1", "--image", "vale.jpg", "--plain", "--json", "--keys", Path(keys).absolute()]
    result = process(*arguments, *(["--weights", Path(weights).absolute()] if weights else []), timeout=60 * MINUTES)
    assert result.code == 0, result.err
    run = json.loads(result.out)
    print(json.dumps({key: run[key] for key in ("class", "seconds", "memory", "bytes")}, indent=2))
    assert run["class"] == run["plain"]["class"] == "dog"
    assert run["plain"]["worst_bits"] > 3
    assert run["bytes"]["server keys"] < 9 * GB
    assert max(run["memory"].values()) < 14 * GB
    assert sum(run["seconds"].values()) < 9 * MINUTES
