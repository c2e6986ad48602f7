"""What a legal graph is: a broken example for every rule."""

from __future__ import annotations

from typing import Any

import pytest

from fheinfer.crypto.keygen import manifest_plan
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import GraphError, PlanError
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph, GraphBuilder, Node
from fheinfer.model.verify import OPS, verify

INPUT = Node("x", "input", attrs={"shape": (3, 8, 8)})
RELU = Node("r", "relu", ("x",))


def conv(name: str = "c", source: str = "x", **attrs: Any) -> Node:
    shape = {"out_channels": 4, "kernel": 3, "stride": 1, "padding": 1}
    return Node(name, "conv2d", (source,), {"weight": "w"}, {**shape, **attrs})


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ((), "must start with its input"),
        ((RELU,), "must start with its input"),
        ((INPUT, RELU, Node("r", "relu", ("x",))), "two nodes are called 'r'"),
        ((INPUT, Node("r", "softplus", ("x",))), "unknown operation 'softplus'"),
        ((INPUT, Node("a", "add", ("x",))), "reads 1 values instead of 2"),
        ((INPUT, Node("r", "relu", ("x", "x"))), "reads 2 values instead of 1"),
        ((INPUT, Node("second", "input", ("x",), attrs={"shape": (1,)})), "instead of 0"),
        (
            (INPUT, Node("r", "relu", ("later",)), Node("later", "relu", ("x",))),
            "'later', which is not computed before",
        ),
        ((INPUT, Node("r", "relu", ("r",))), "'r', which is not computed before"),
        ((INPUT, Node("r", "relu", ("x",), {"weight": "w"})), "weights it has no use for: weight"),
        ((INPUT, Node("c", "conv2d", ("x",), {"weight": "w"}, {"kernel": 3})), "lacks out_channels, padding, stride"),
        ((INPUT, Node("f", "linear", ("x",), {"weight": "w"})), "lacks out_features"),
        ((INPUT, conv("dead"), RELU), "computes dead and uses it nowhere"),
        ((INPUT, conv(kernel=9, padding=0)), "empty shape"),
        ((INPUT, conv(out_channels=0)), "empty shape"),
        ((Node("x", "input", attrs={"shape": (0, 8, 8)}), RELU), "empty shape"),
    ],
)
def test_a_broken_rule_names_the_node(nodes: tuple[Node, ...], says: str) -> None:
    with pytest.raises(GraphError, match=says):
        verify(Graph("broken", nodes))


def test_a_legal_graph_comes_back_as_it_is() -> None:
    graph = Graph("good", (INPUT, conv(), Node("r", "relu", ("c",)), Node("a", "add", ("r", "c"))))
    assert verify(graph) is graph


def test_every_operation_of_the_rules_appears_in_a_network_or_a_plan() -> None:
    ops = {node.op for name in (*zoo.names(), "resnet20+f1g2") for node in zoo.network(name)}
    for activation in ("relu:59", "f1", "relu-aq"):
        made = manifest_plan("resnet8-tiny", parameter_set(f"insecure-tiny+{activation}"))
        ops |= {step.op for step in made.steps}
    assert ops == set(OPS)


def test_shapes_follow_pytorch() -> None:
    b = GraphBuilder("g", (3, 32, 32))
    x = b.conv_bn("input", "c1", "b1", 16, 3)
    x = b.conv_bn(x, "c2", None, 32, 5, 2)
    x = b.add("p", "avg_pool", x)
    b.add("f", "linear", x, out_features=10)
    shapes = b.build().shapes()
    assert shapes == {
        "input": (3, 32, 32),
        "c1": (16, 32, 32),
        "b1": (16, 32, 32),
        "c2": (32, 16, 16),
        "p": (32,),
        "f": (10,),
    }


def test_graphs_do_not_change() -> None:
    node = conv()
    with pytest.raises(TypeError):
        node.attrs["kernel"] = 5  # type: ignore[index]
    with pytest.raises(AttributeError):
        node.name = "other"  # type: ignore[misc]
    assert node.with_attrs(kernel=5).attrs["kernel"] == 5
    assert node.attrs["kernel"] == 3


def test_a_node_that_is_not_there_is_an_error() -> None:
    with pytest.raises(GraphError, match="has no node 'nothing'"):
        Graph("g", (INPUT, RELU))["nothing"]
    assert issubclass(GraphError, PlanError)
