from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


def reference(name: str) -> Any:
    """Published figures that are kept beside the checkout; tests that need them are skipped without."""
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"no {name} beside this checkout")
    return json.loads(path.read_text(), parse_float=Decimal)


@pytest.fixture
def published_minimax() -> dict[int, Any]:
    return {int(alpha): entry for alpha, entry in reference("minimax_alpha4_14.json").items()}


@pytest.fixture
def trained_pafs() -> dict[str, list[list[float]]]:
    """Name: rows of layer number and coefficients, f first, of SmartPAF's trained ResNet-18."""
    read: dict[str, list[list[float]]] = {
        name: [[float(value) for value in row] for row in rows]
        for name, rows in reference("smartpaf_posttraining.json").items()
    }
    return read
