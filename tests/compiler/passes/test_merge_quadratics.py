"""Polynomials of degree 2 that are written out become one quadratic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fheinfer


class Written(nn.Module):
    """Two linear layers with an activation of one's own between them."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.form = nn.Linear(6, 5), nn.Linear(5, 3), form
        self.factor = nn.Parameter(torch.rand(5) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        forms = {
            "products": lambda: 0.25 * x * x + 0.5 * x + 0.1,
            "powers": lambda: x**2 / 8 + x / 2 + 0.25,
            "a square of a sum": lambda: x * (x + 1),
            "by channel": lambda: self.factor * x * x - x,
            "factors first": lambda: x * (x * 0.5) + x * 0.25,
        }
        return self.last(forms[self.form]())  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["products", "powers", "a square of a sum", "by channel", "factors first"])
def test_it_takes_one_level_and_computes_the_same(form: str) -> None:
    module, x = Written(form).eval(), torch.randn(50, 6)
    model = fheinfer.from_torch(module, x[:1]).calibrate(x.numpy())
    plan = fheinfer.compile(model)
    assert [step.op.kind for step in plan.steps] == ["linear", "square", "linear"]
    with torch.inference_mode():
        expected = module(x)
    for one, exact in zip(x.numpy(), expected.numpy(), strict=True):
        assert np.abs(fheinfer.run_slots(plan, one) - exact).max() < 1e-6 * np.abs(expected.numpy()).max()


def test_a_product_of_two_values_stays_one() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x) * self.b(x))  # type: ignore[no-any-return]

    x = torch.randn(20, 6)
    model = fheinfer.from_torch(Gate().eval(), x[:1]).calibrate(x.numpy())
    assert "multiply" in [step.op.kind for step in fheinfer.compile(model).steps]
