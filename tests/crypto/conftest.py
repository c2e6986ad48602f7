"""Ciphertext bodies (docs/reference/formats.md) read and written in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fheinfer._testing import ckks

U64 = NDArray[np.uint64]


def _unpack(body: bytes, q: Sequence[int], n: int) -> U64:
    limbs, polynomials, dropped = np.frombuffer(body[:12], "<u4").tolist()
    assert dropped == 0
    seed, at = body[12:44], 12 + (32 if polynomials == 1 else 0)
    out = np.zeros((2, limbs, n), np.uint64)
    for k in range(2):
        for row, p in enumerate(q[:limbs]):
            if k == polynomials:
                out[k, row] = ckks.uniform(n, p, seed, 0, row)
                continue
            width = p.bit_length()
            packed = np.frombuffer(body[at : at + n * width // 8], np.uint8)
            bits = np.unpackbits(packed, bitorder="little").reshape(n, width).astype(np.uint64)
            out[k, row] = bits @ (np.uint64(1) << np.arange(width, dtype=np.uint64))
            at += n * width // 8
    assert at == len(body)
    return out


def _pack(rows: U64, q: Sequence[int]) -> bytes:
    out = [np.array([rows.shape[1], rows.shape[0], 0], "<u4").tobytes()]
    for half in rows:
        for row, p in zip(half, q, strict=False):
            places = np.arange(p.bit_length(), dtype=np.uint64)
            bits = (row[:, None] >> places) & np.uint64(1)
            out.append(np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes())
    return b"".join(out)


@pytest.fixture(scope="session")
def unpack() -> Callable[[bytes, Sequence[int], int], U64]:
    """unpack(body, primes, N): (2, limbs, N) residues, c1 from its seed where the body has one."""
    return _unpack


@pytest.fixture(scope="session")
def pack() -> Callable[[U64, Sequence[int]], bytes]:
    """pack(residues, primes): a body of so many polynomials."""
    return _pack


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _small_parameters_and_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("FHEINFER_ALLOW_INSECURE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
