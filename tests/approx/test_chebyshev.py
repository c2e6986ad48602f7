from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev as numpy_chebyshev
from numpy.typing import NDArray

from fheinfer.approx import chebyshev


def _relu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(x, 0))


@pytest.mark.parametrize("degree", [27, 58, 59, 119, 200])
def test_the_relu_is_half_the_identity_plus_an_even_function(degree: int) -> None:
    coefficients = chebyshev.relu(degree)
    assert coefficients.shape == (degree + 1,)
    assert coefficients[1] == 0.5
    assert not coefficients[3::2].any()


@pytest.mark.parametrize("degree", [27, 59, 119, 200])
def test_the_largest_error_falls_with_the_degree(degree: int) -> None:
    assert chebyshev.max_error(chebyshev.relu(degree), _relu) < 1.0 / degree


@pytest.mark.parametrize("degree", [59, 119, 200])
def test_small_inputs_are_met_better_than_by_interpolation(degree: int) -> None:
    """Where most inputs are: that is what the weight is for."""
    x = np.random.default_rng(0).normal(0, 0.15, 20000).clip(-1, 1)
    nodes = numpy_chebyshev.chebpts1(degree + 1)
    through_nodes = numpy_chebyshev.chebfit(nodes, _relu(nodes), degree)
    fitted, interpolated = (
        np.sqrt(np.mean((numpy_chebyshev.chebval(x, c) - _relu(x)) ** 2))
        for c in (chebyshev.relu(degree), through_nodes)
    )
    assert fitted < 0.75 * interpolated
