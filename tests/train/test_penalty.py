from __future__ import annotations

import pytest
import torch

from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import HerPN, Input, Op, Relu
from fheinfer.train.penalty import excess

HERPN = HerPN(1e-5, "a.weight", "a.bias", "a.mean", "a.var")


def graph(op: Op) -> Graph:
    return Graph("g", (Node("input", Input((1, 2, 2))), Node("act", op, ("input",))))


def test_the_penalty_is_the_mean_square_of_all_and_of_each_images_largest_excess() -> None:
    x = torch.tensor([[[[1.0, -4.0], [6.0, -5.0]]]])
    values = {"input": x, "act": x}
    assert float(excess(graph(HERPN), values, {"act": (4.0, 9.0)})) == pytest.approx((2**2 + 1**2) / 4)
    assert float(excess(graph(HERPN), values, {"act": (9.0, 4.5)})) == pytest.approx(1.5**2, rel=0.01)
    assert float(excess(graph(HERPN), values, {"act": (6.0, 6.0)})) == 0
    two = torch.cat([x, x / 10])
    alone = excess(graph(HERPN), values, {"act": (9.0, 4.0)})
    assert float(excess(graph(HERPN), {"input": two, "act": two}, {"act": (9.0, 4.0)})) == pytest.approx(alone / 2)


def test_outputs_may_be_four_times_as_large() -> None:
    x = torch.ones(1, 1, 2, 2)
    assert float(excess(graph(HERPN), {"input": x, "act": 8 * x}, {"act": (1.0, 2.0)})) == 0
    assert float(excess(graph(HERPN), {"input": x, "act": 9 * x}, {"act": (1.0, 2.0)})) == pytest.approx(1, rel=0.01)


def test_huge_values_are_punished_by_their_logarithm() -> None:
    """A value a thousand times as large must not have a million times the say."""
    penalties = []
    for size in (1e6, 1e9, 1e12):
        x = torch.full((1, 1, 2, 2), size, requires_grad=True)
        penalty = excess(graph(HERPN), {"input": x, "act": 0 * x}, {"act": (4.0, 8.0)})
        penalty.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert 0 < float(x.grad.sum()) < 1
        penalties.append(float(penalty.detach()))
    assert penalties[1] - penalties[0] == pytest.approx(penalties[2] - penalties[1], rel=1e-3)
    assert penalties[1] > penalties[0]


def test_relu_needs_no_bound() -> None:
    x = torch.full((1, 1, 2, 2), 1e9)
    assert float(excess(graph(Relu()), {"input": x, "act": x}, {})) == 0


def test_it_pulls_the_largest_value_back() -> None:
    x = torch.tensor([[[[1.0, -4.0], [6.0, -5.0]]]], requires_grad=True)
    excess(graph(HERPN), {"input": x, "act": x}, {"act": (4.0, 9.0)}).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert (x.grad.sign() == torch.tensor([[[[0.0, 0.0], [1.0, -1.0]]]])).all()
