"""What the compiler cannot do is named with its node and module before anything is computed."""

from __future__ import annotations

import pytest

from fheinfer.compiler.pipeline import compile
from fheinfer.errors import PlanError
from fheinfer.frontends import zoo
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Op

IMAGE = (4, 8, 8)


def refusal(op: Op, shape: tuple[int, ...] = IMAGE) -> str:
    nodes = (
        Node("x", ops.Input(shape)),
        Node("y", op, ("x",) * op.arity, module="net.part"),
        Node("fc", ops.Linear(2, "fc.weight"), ("y",)),
    )
    with pytest.raises(PlanError) as caught:
        compile(zoo.placeholder(Graph("g", nodes)))
    return str(caught.value)


@pytest.mark.parametrize(
    "op",
    [
        *(ops.ConvTranspose2d(2, 2, 2, 0, "w"), ops.Reduce((1, 2), True), ops.Subtract(), ops.Product()),
        *(ops.Power(2), ops.Clip(0.0, 6.0), ops.Sigmoid(), ops.Reshape((256,)), ops.Concat(0, 2), ops.Pad((1,) * 6)),
    ],
    ids=lambda op: op.kind,
)
def test_an_operation_without_an_encrypted_form_is_named(op: Op) -> None:
    assert refusal(op).startswith(f"node 'y' ({op.kind}, from net.part): the compiler has no encrypted form")


@pytest.mark.parametrize(
    "changes",
    [{"kernel": (1, 3)}, {"stride": (1, 2)}, {"padding": (0, 1, 0, 1)}, {"dilation": 2}, {"groups": 4}],
    ids=str,
)
def test_convolutions_that_are_not_square_are_named(changes: dict[str, object]) -> None:
    fields = {"out_channels": 4, "kernel": 3, "stride": 1, "padding": 1, "weight": "w", **changes}
    assert "node 'y' (conv2d, from net.part): encrypted convolutions are square" in refusal(ops.Conv2d(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("op", [ops.MaxPool(3, 2, 1), ops.MeanPool((2, 4)), ops.MeanPool(2, 1)], ids=repr)
def test_pools_that_are_not_side_by_side_are_named(op: Op) -> None:
    assert f"node 'y' ({op.kind}, from net.part): encrypted pools are of square windows side by side" in refusal(op)


def test_a_network_has_to_end_in_a_linear_layer() -> None:
    nodes = (Node("x", ops.Input(IMAGE)), Node("c", ops.Conv2d(2, 3, 1, 1, "c.weight"), ("x",)))
    for outputs in (("c",), ("r", "c")):
        graph = Graph("g", (*nodes, Node("r", ops.Relu(), ("c",))) if len(outputs) > 1 else nodes, outputs)
        with pytest.raises(PlanError, match=f"the output of g is {', '.join(outputs)}; to encrypt it, end the network"):
            compile(zoo.placeholder(graph))
