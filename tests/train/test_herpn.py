"""HerPN against its formula, written out in NumPy, and its folding against both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fheinfer.approx.quadratic import folded, quadratic
from fheinfer.model.ops import HERMITE
from fheinfer.train.herpn import HerPN

X = torch.randn(6, 3, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.5 + 0.3


def made() -> HerPN:
    layer = HerPN(3, 1e-3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        layer.bias.copy_(torch.tensor([0.1, 0.0, -3.0]))
    return layer


def formula(layer: HerPN, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    x = X.numpy()
    weight, bias = (p.detach().numpy()[:, None, None] for p in (layer.weight, layer.bias))
    terms = (x, (x**2 - 1) / math.sqrt(2))
    factors = (1 / 2, 1 / (2 * math.sqrt(math.pi)))
    total = np.zeros_like(x)
    for f, h, m, v in zip(factors, terms, mean[..., None, None], var[..., None, None], strict=True):
        total += f * (h - m) / np.sqrt(v + 1e-3)
    result: np.ndarray = weight * total + bias
    return result


def statistics() -> tuple[np.ndarray, np.ndarray]:
    terms = [X.numpy(), (X.numpy() ** 2 - 1) / math.sqrt(2)]
    return np.stack([h.mean((0, 2, 3)) for h in terms]), np.stack([h.var((0, 2, 3)) for h in terms])


def test_training_normalises_each_term_by_its_batch() -> None:
    layer = made().train()
    assert layer(X).detach().numpy() == pytest.approx(formula(layer, *statistics()), rel=1e-9)


def test_running_statistics_approach_those_of_the_batches_and_serve_evaluation() -> None:
    layer = made().train()
    layer.momentum = 1.0
    layer(X)
    mean, var = statistics()
    count = X.numel() / 3
    assert layer.mean.numpy() == pytest.approx(mean)
    assert layer.var.numpy() == pytest.approx(var * count / (count - 1))  # unbiased, as PyTorch keeps them
    layer.eval()
    assert layer(X).detach().numpy() == pytest.approx(formula(layer, layer.mean.numpy(), layer.var.numpy()), rel=1e-9)


def test_it_folds_to_a_quadratic_of_each_channel() -> None:
    layer = made().train()
    layer(X)
    layer.eval()
    state = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    c = folded(state["weight"], state["bias"], state["mean"], state["var"], layer.eps)
    assert c.shape == (3, 3)
    x = X.numpy()
    folded_y = c[0][:, None, None] + c[1][:, None, None] * x + c[2][:, None, None] * x**2
    assert layer(X).detach().numpy() == pytest.approx(folded_y, rel=1e-9, abs=1e-12)


def test_without_statistics_it_is_the_registrys_herpn() -> None:
    c = folded(np.ones(1), np.full(1, HERMITE[0]), np.zeros((2, 1)), np.ones((2, 1)), 0.0)
    x = np.linspace(-3, 3, 7)
    assert c[0] + c[1] * x + c[2] * x**2 == pytest.approx(quadratic("herpn").evaluate(x))


def test_half_precision_keeps_its_kind_and_squares_in_float32() -> None:
    layer = HerPN(3, 1e-5).train()
    exact = layer(X.float())
    y = layer(X.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).abs().max() < 0.1
