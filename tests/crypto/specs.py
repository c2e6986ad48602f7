"""Small `client.json`s to make keys, encrypt and decrypt by."""

from __future__ import annotations

from typing import Any

from fheinfer.crypto.client_spec import ClientSpec, KeyNeeds
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.params import parameter_set

TINY, TURBO = "insecure-tiny", "insecure-tiny-turbo"
SHAPE, OUTPUTS = (3, 8, 8), 5
LOW: Rotations = ((1, 4), (2, 4), (5, 4))


def spec(
    name: str = TINY, *, plan: str = "a" * 64, rotations: Rotations = LOW, bootstraps: bool = False, **changes: Any
) -> ClientSpec:
    """What a compiler could have written for a set of tests; `changes` are fields of `ClientSpec`."""
    needs = KeyNeeds(rotations=tuple(sorted(rotations)), key_bytes=1 << 20, peak_memory=1 << 20, seconds=1.0)
    fields: dict[str, Any] = {
        "model": "tests",
        "plan": plan,
        "params": parameter_set(name),
        "backend": "openfhe" if name.endswith("-openfhe") else "native",
        "input_shape": SHAPE,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "input_scale": 2.0,
        "input_level": 4,
        "input_bytes": 1 << 16,
        "outputs": OUTPUTS,
        "output_scale": 10.0,
        "output_bound": 15.0,
        "output_bytes": 1 << 14,
        "classes": tuple(f"class {i}" for i in range(OUTPUTS)),
        "bootstraps": bootstraps,
        "keys": {"minimal": needs, "fast": needs},
    }
    return ClientSpec(**(fields | changes))
