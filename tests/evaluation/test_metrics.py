from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fheinfer.evaluation.metrics import MAX_BITS, precision_bits, softmax, top_class


def test_softmax_is_a_distribution_and_survives_large_logits() -> None:
    assert softmax([0.0, 0.0]) == pytest.approx([0.5, 0.5])
    assert softmax([1000.0, 0.0]) == pytest.approx([1.0, 0.0])
    assert softmax([[1.0, 2.0], [5.0, 6.0]]).sum(axis=-1) == pytest.approx([1.0, 1.0])


def test_bits_are_relative_to_the_largest_entry() -> None:
    precision = precision_bits([8.0, 0.0, 1.0], [8.0 + 2**-7, 2**-9, 1.0])
    assert precision.minimum == pytest.approx(10)  # 2^-7 / 2^3
    assert precision.median == pytest.approx(12)


@given(st.integers(1, 40), st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_an_error_of_k_bits_is_measured_as_k_bits(bits: int, values: list[float]) -> None:
    reference = np.array([128.0, *values])
    found = reference.copy()
    found[0] += 128.0 * 2.0**-bits
    assert precision_bits(reference, found).minimum == pytest.approx(bits, abs=1e-3)


def test_exact_is_capped_and_not_finite_is_the_worst() -> None:
    assert precision_bits([1.0, 2.0], [1.0, 2.0]).minimum == MAX_BITS
    assert precision_bits([0.0], [0.0]).median == MAX_BITS
    assert precision_bits([1.0, 2.0], [np.nan, 2.0]).minimum == -np.inf


@pytest.mark.parametrize("reference, value", [([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0])])
def test_what_cannot_be_compared_is_refused(reference: list[float], value: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        precision_bits(reference, value)


def test_top_class_takes_the_first_of_equals() -> None:
    assert top_class([0.0, 3.0, 3.0]) == 1
