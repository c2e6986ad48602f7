"""Chains without bootstraps: how much room the last modulus leaves (docs/explanation/precision.md)."""

from __future__ import annotations

import math

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest

from fheinfer.crypto.params import ParameterSet, parameter_sets


@pytest.mark.parametrize(
    "params", [s for s in parameter_sets(insecure=True) if not s.bootstraps], ids=lambda s: str(s.name)
)
def test_a_result_of_no_precision_at_all_would_still_fit(params: ParameterSet) -> None:
    coefficients = 1 << params.log_n
    room = 2.0 ** (params.first_bits - 1 - params.scale_bits)  # q_0 / 2, in scales
    largest = params.max_slot**2
    deviation = largest * math.sqrt(2 / coefficients)  # of a coefficient, where that of a slot is as large as it gets
    one = mpmath.erfc((room - largest) / deviation / mpmath.sqrt(2))
    # Deviations of room go with the root of the ring: the small one of the tests has 32 of them, turbo 128.
    assert mpmath.log(coefficients * one, 2) < (-700 if params.insecure else -10_000)


def test_coefficients_are_no_larger_than_slots() -> None:
    """m_j = 2/N sum_k Re(z_k zeta^(-j e_k)) over N/2 slots: an average."""
    n, rng = 64, np.random.default_rng(0)
    powers = np.array([pow(5, k, 2 * n) for k in range(n // 2)])
    for _ in range(50):
        slots = rng.uniform(-1, 1, n // 2)
        phases = np.exp(-1j * np.pi / n * np.outer(np.arange(n), powers))
        coefficients = 2 / n * (phases @ slots).real
        assert np.abs(coefficients).max() <= np.abs(slots).max()
        assert np.allclose((np.conj(phases).T @ coefficients).real, slots)
