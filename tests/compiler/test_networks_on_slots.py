"""Every operation of a network, alone and in random graphs, computes on slots what PyTorch computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.model.graph import Graph
from fheinfer.model.ops import Input, Shape
from tests.compiler import random_graphs
from tests.compiler.canonical import EXACT, batch_norm, built, conv, linear, tamed
from tests.compiler.networks import slots_error, squares
from tests.compiler.programs import program
from tests.compiler.random_graphs import Maker, graphs

pytest.importorskip("torch")
some = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))

ONE, SEVERAL = squares(4096), squares(64)
"""Enough slots for a value, and so few that most have several ciphertexts."""
SQUARE = ("square", ops.Power(2))


@pytest.mark.parametrize("slots", [4096, 32])
@settings(some, max_examples=25)
@given(graph=graphs(6, random_graphs.EXACT), seed=st.integers(0, 99))
def test_random_graphs(slots: int, graph: Graph, seed: int) -> None:
    assume(not any(isinstance(graph[name].op, Input) for name in graph.outputs))
    assert slots_error(tamed(program(graph, seed=seed)), squares(slots), seed) < EXACT


SIZES = st.sampled_from([(4, 4), (7, 9), (12, 12), (5, 16), (28, 28), (1, 13), (8, 3)])
MAKERS: dict[str, Maker] = {
    "conv2d": random_graphs.conv,
    "conv_transpose2d": random_graphs.transposed,
    "linear": random_graphs.linear,
    "mean_pool": random_graphs.mean_pool,
    "batch_norm": random_graphs.batch_norm,
    "constant": random_graphs.constant,
    "reduce": random_graphs.reduce,
    "resample": random_graphs.resample,
    "pad": random_graphs.pad,
    "slice": random_graphs.slice_,
    "permute": random_graphs.permute,
    "reshape": random_graphs.reshape,
}


@pytest.mark.parametrize("kind", MAKERS)
@some
@given(data=st.data())
def test_one_operation_between_convolutions(kind: str, data: st.DataObject) -> None:
    """On the grid that a strided convolution leaves, in one ciphertext and in several."""
    size, channels = data.draw(SIZES), data.draw(st.sampled_from([1, 2, 3, 4, 8]))
    stride = data.draw(st.sampled_from([1, 1, 2]))
    params = data.draw(st.sampled_from([ONE, SEVERAL]))
    entry = (data.draw(st.integers(1, 3)), *size)
    first = conv("first", channels, 3, stride, 1)
    shape: Shape = first[1].infer([entry])
    op = MAKERS[kind](data.draw, "op", shape)
    try:
        op.check([shape])
    except ops.Invalid:
        assume(False)
    nodes = [first, SQUARE, ("op", op)]
    if len(op.infer([shape])) == 3 and data.draw(st.booleans()):
        nodes += [("again", ops.Power(2)), conv("last", 3, 3, 1, 1), ("squared", ops.Power(2))]
    try:
        start = built(entry, *nodes, linear("end", 3))
        error = slots_error(start, params)
    except PlanError as refused:
        assert "row" in str(refused)
        return
    assert error < EXACT


def squeeze(x: str) -> Sequence[Any]:
    """Squeeze-and-excitation: every channel times a number that depends on the means of all."""
    return [
        ("mean", ops.Reduce((1, 2), True, True), x),
        conv("reduce", 2, 1),
        ("inner", ops.Power(2)),
        conv("restore", 4, 1),
        ("wide", ops.Expand((4, 8, 8))),
        ("product", ops.Product(), f"wide {x}"),
    ]


NETWORKS: dict[str, tuple[Shape, Sequence[Any]]] = {
    "residual": (
        (3, 8, 8),
        [
            *(conv("c1", 4, 3, 1, 1), batch_norm("b1"), SQUARE, conv("c2", 4, 3, 1, 1), batch_norm("b2")),
            *(("sum", ops.Add(), "b2 square"), ("again", ops.Power(2)), conv("c3", 8, 3, 2, 1)),
            ("right", ops.Conv2d(8, 1, 2, 0, "right.weight"), "again"),
            *(("sum2", ops.Add(), "c3 right"), ("last", ops.Power(2)), ("pool", ops.GlobalAvgPool()), linear("fc", 3)),
        ],
    ),
    "depthwise": (
        (3, 12, 12),
        [
            *(conv("c", 8, 3, 2, 1), SQUARE, conv("d", 8, 3, 1, 1, groups=8), batch_norm("b"), ("s", ops.Power(2))),
            *(conv("p", 6, 1), ("t", ops.Power(2)), conv("e", 6, 3, 2, 1, groups=6), ("pool", ops.GlobalAvgPool())),
            linear("fc", 4),
        ],
    ),
    "dense": (
        (3, 8, 8),
        [
            *(conv("c1", 4, 3, 1, 1), SQUARE, ("cat", ops.Concat(0, 2), "square input"), batch_norm("b")),
            *(("s", ops.Power(2)), conv("c2", 3, 3, 1, 1), ("cat2", ops.Concat(0, 2), "c2 cat")),
            *(("pool", ops.MeanPool(2)), ("t", ops.Power(2)), linear("fc", 4)),
        ],
    ),
    "shuffled": (
        (4, 8, 8),
        [
            *(
                conv("c", 8, 3, 1, 1, groups=2),
                SQUARE,
                ("r", ops.Reshape((2, 4, 8, 8))),
                ("p", ops.Permute((1, 0, 2, 3))),
            ),
            *(("back", ops.Reshape((8, 8, 8))), conv("d", 8, 3, 2, 1, groups=4), ("s", ops.Power(2)), linear("fc", 3)),
        ],
    ),
    "attention": ((3, 8, 8), [conv("c", 4, 3, 1, 1), *squeeze("c"), ("pool", ops.GlobalAvgPool()), linear("fc", 3)]),
    "upsampled": (
        (2, 6, 6),
        [
            *(conv("c", 4, 3, 2, 1), SQUARE, ("t", ops.ConvTranspose2d(3, 2, 2, 0, "t.weight", "t.bias"))),
            *(("s", ops.Power(2)), ("r", ops.Resample((12, 9), "r.rows", "r.columns")), conv("d", 2, 3)),
        ],
    ),
    "sequence": (
        (3, 20),
        [
            *(("r", ops.Reshape((3, 1, 20))), conv("c", 6, (1, 5), (1, 2), (0, 0, 2, 2)), SQUARE),
            *(("back", ops.Reshape((6, 10))), ("mean", ops.Reduce((1,), True, False)), linear("fc", 3)),
        ],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("slots", [4096, 128])
def test_small_networks(name: str, slots: int) -> None:
    entry, nodes = NETWORKS[name]
    assert slots_error(built(entry, *nodes), squares(slots)) < EXACT


def test_a_slice_of_rows_in_several_ciphertexts() -> None:
    """Its rows follow each other in slots that go on in the next ciphertext: no band of rows does."""
    assert slots_error(built((1, 28, 28), ("s", ops.Slice(1, 0, 3)), conv("c", 3, 3, 1, 1)), SEVERAL) < EXACT
