"""Small `client.json`s to make keys, encrypt and decrypt by."""

from __future__ import annotations

from typing import Any

import numpy as np

from fheinfer.crypto.client_spec import ClientSpec, KeyNeeds
from fheinfer.crypto.client_tensors import InputSpec, OutputSpec
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.params import parameter_set
from fheinfer.packing import Packing, canonical

TINY, TURBO = "insecure-tiny", "insecure-tiny-turbo"
SHAPE, OUTPUTS = (3, 8, 8), 5
LOW: Rotations = ((1, 4), (2, 4), (5, 4))


def packing(shape: tuple[int, ...], ciphertexts: int = 1) -> Packing:
    """Channels one after the other, spread evenly over so many ciphertexts."""
    channels, height, width = canonical(shape)
    each, of_one = -(-channels // ciphertexts), height * width
    period = 1 << (each * of_one - 1).bit_length()
    start = np.array([[(c // each) * period + (c % each) * of_one] for c in range(channels)])
    return Packing(shape, (channels, height, width), start, width, 1, height, period, 0, ciphertexts, of_one, width)


def an_input(shape: tuple[int, ...] = SHAPE, ciphertexts: int = 1, **changes: Any) -> InputSpec:
    fields: dict[str, Any] = {
        "shape": shape,
        "packing": packing(shape, ciphertexts),
        "scale": 2.0,
        "level": 4,
        "bytes": 1 << 16,
    }
    return InputSpec(**(fields | changes))


def an_output(name: str = "fc", count: int = OUTPUTS, ciphertexts: int = 1, **changes: Any) -> OutputSpec:
    classes = tuple(f"class {i}" for i in range(count))
    fields: dict[str, Any] = {
        "name": name,
        "shape": (count,),
        "packing": packing((count,), ciphertexts),
        "classes": classes,
    }
    return OutputSpec(**(fields | {"scale": 10.0, "bound": 15.0} | changes))


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
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "input": an_input(),
        "outputs": (an_output(),),
        "output_bytes": 1 << 14,
        "bootstraps": bootstraps,
        "keys": {"minimal": needs, "fast": needs},
    }
    return ClientSpec(**(fields | changes))
