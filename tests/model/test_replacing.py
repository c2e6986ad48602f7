"""Average pools in place of max pools."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fheinfer
from fheinfer.errors import GraphError
from fheinfer.frontends import zoo
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.replacing import replace_max_pools


def pooled(op: ops.MaxPool) -> fheinfer.Model:
    nodes = (Node("x", ops.Input((2, 8, 8))), Node("r", ops.Relu(), ("x",)), Node("p", op, ("r",)))
    return zoo.placeholder(Graph("g", nodes))


@pytest.mark.parametrize("op", [ops.MaxPool(2), ops.MaxPool(3, 2, 1), ops.MaxPool((2, 3), 1, (0, 1, 1, 0))])
def test_windows_stay_and_what_was_measured_goes(op: ops.MaxPool) -> None:
    model = pooled(op)
    replaced = replace_max_pools(model)
    pool = replaced.graph["p"].op
    assert isinstance(pool, ops.MeanPool)
    assert (pool.kernel, pool.stride, pool.padding) == (op.kernel, op.stride, op.padding)
    assert replaced.graph.shapes == model.graph.shapes
    assert (model.ranges, replaced.ranges) == ({"r": 1.0}, {})
    assert "measure the accuracy" in replaced.provenance["max pools"]
    x = np.random.default_rng(0).normal(size=(2, 8, 8))
    padded = torch.nn.functional.avg_pool2d(torch.from_numpy(x)[None], 3, 2, 1, count_include_pad=False)
    if op == ops.MaxPool(3, 2, 1):
        y = fheinfer.plain_layers(replaced, x)["p"]
        relued = torch.nn.functional.avg_pool2d(torch.from_numpy(x)[None].relu(), 3, 2, 1, count_include_pad=False)
        assert y == pytest.approx(relued[0].numpy())
        assert y != pytest.approx(padded[0].numpy())


def test_a_model_without_max_pools_comes_back_as_it_is() -> None:
    model = zoo.placeholder(zoo.network("resnet8-tiny"))
    assert replace_max_pools(model) is model


def test_a_dilated_pool_is_named() -> None:
    with pytest.raises(GraphError, match=r"node 'p' \(max_pool\) is dilated"):
        replace_max_pools(pooled(ops.MaxPool(2, 1, 0, 2)))
