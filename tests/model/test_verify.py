"""What a legal graph is: a broken example for every rule, under `python -O` too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fheinfer.errors import GraphError, PlanError
from fheinfer.frontends import zoo
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import graph_from_json
from fheinfer.model.ops import Add, Conv2d, Input, Linear, Multiply, Op, Relu
from fheinfer.model.verify import verify

IMAGE: dict[str, Any] = {"name": "x", "op": "input", "shape": [4, 8, 8]}
VECTOR: dict[str, Any] = {"name": "x", "op": "input", "shape": [16]}
CONV: dict[str, Any] = {
    "name": "c",
    "op": "conv2d",
    "inputs": ["x"],
    "out_channels": 4,
    "kernel": 3,
    "stride": 1,
    "padding": 1,
    "weight": "w",
}
RELU: dict[str, Any] = {"name": "r", "op": "relu", "inputs": ["x"]}
HERPN = {"name": "h", "op": "herpn", "inputs": ["x"], "eps": 1e-5, "weight": "a", "bias": "b", "mean": "m", "var": "v"}
PAF = {"name": "p", "op": "paf", "inputs": ["x"], "degrees": [3, 5], "coefficients": "c", "scale": "s"}


def end(source: str = "x", **changes: Any) -> dict[str, Any]:
    return {"name": "fc", "op": "linear", "inputs": [source], "out_features": 2, "weight": "fcw", **changes}


def conv(**changes: Any) -> list[dict[str, Any]]:
    return [IMAGE, {**CONV, **changes}, end("c")]


BROKEN: list[tuple[list[dict[str, Any]], str]] = [
    # The shapes of an operation's inputs
    (
        [
            IMAGE,
            {**CONV, "stride": 2},
            {"name": "big", "op": "add", "inputs": ["x", "x"]},
            {"name": "sum", "op": "add", "inputs": ["big", "c"]},
            end("sum"),
        ],
        "node 'sum' (add): adds values of the shapes (4, 8, 8) and (4, 4, 4)",
    ),
    ([VECTOR, CONV, end("c")], "node 'c' (conv2d): takes an image (C, H, W), not a value of the shape (16,)"),
    (conv(kernel=9, padding=0), "node 'c' (conv2d): kernel 9 is larger than the padded input (8, 8)"),
    (
        [IMAGE, {"name": "p", "op": "max_pool", "inputs": ["x"], "kernel": 9}, end("p")],
        "node 'p' (max_pool): a window of 9 is larger than the input (8, 8)",
    ),
    (
        [VECTOR, {"name": "p", "op": "avg_pool", "inputs": ["x"]}, end("p")],
        "node 'p' (avg_pool): takes an image (C, H, W), not a value of the shape (16,)",
    ),
    # Fields
    (conv(padding_mode="zeros"), "node 'c': conv2d has no padding_mode; it has out_channels, kernel, stride, padding,"),
    (conv(groups=3), "node 'c' (conv2d): 3 groups do not divide 4 channels and 4 out_channels"),
    (conv(kernel=[3, 3, 3]), "node 'c' (conv2d): kernel is (3, 3, 3), not 2 whole numbers"),
    (conv(kernel=[3, 0]), "node 'c' (conv2d): kernel is 0, not a whole number of 1 or more"),
    (conv(kernel=[3, 9], padding=[1, 0]), "node 'c' (conv2d): kernel 3x9 is larger than the padded input (8, 8)"),
    (conv(dilation=5), "node 'c' (conv2d): kernel 3 is larger than the padded input (8, 8)"),
    (conv(padding=[1, 1, 1]), "node 'c' (conv2d): padding is (1, 1, 1), not 4 whole numbers"),
    (conv(kernel=0), "node 'c' (conv2d): kernel is 0, not a whole number of 1 or more"),
    (conv(kernel=True), "node 'c' (conv2d): kernel is True, not a whole number of 1 or more"),
    (conv(kernel=3.0), "node 'c' (conv2d): kernel is 3.0, not a whole number of 1 or more"),
    (conv(stride=0), "node 'c' (conv2d): stride is 0, not a whole number of 1 or more"),
    (conv(stride=-1), "node 'c' (conv2d): stride is -1, not a whole number of 1 or more"),
    (conv(padding=-1), "node 'c' (conv2d): padding is -1, not a whole number of 0 or more"),
    (conv(padding="same"), "node 'c' (conv2d): padding is 'same', not a whole number of 0 or more"),
    (conv(out_channels=0), "node 'c' (conv2d): out_channels is 0, not a whole number of 1 or more"),
    (conv(weight=None), "node 'c': weight is None, not the name of a tensor"),
    (conv(weight=""), "node 'c': weight is '', not the name of a tensor"),
    (conv(bias=3), "node 'c': bias is 3, not the name of a tensor"),
    ([IMAGE, {k: v for k, v in CONV.items() if k not in ("stride", "weight")}, end("c")], "node 'c': conv2d lacks str"),
    ([IMAGE, end(out_features=0)], "node 'fc' (linear): out_features is 0, not a whole number of 1 or more"),
    ([IMAGE, {**HERPN, "eps": -1}, end("h")], "node 'h' (herpn): eps is -1, not a positive number"),
    ([IMAGE, {**HERPN, "eps": float("nan")}, end("h")], "node 'h' (herpn): eps is nan, not a positive number"),
    ([IMAGE, {**PAF, "degrees": [3, 4]}, end("p")], "node 'p' (paf): degree 4 is even; polynomials of a PAF are odd"),
    ([IMAGE, {**PAF, "degrees": []}, end("p")], "node 'p' (paf): degrees () are no tuple of odd numbers"),
    (
        [{**IMAGE, "shape": [1] * 6}, end()],
        "node 'x' (input): shape (1, 1, 1, 1, 1, 1) is none of a value, such as (C, H, W) or (F,)",
    ),
    ([{**IMAGE, "shape": [0, 8, 8]}, end()], "node 'x' (input): a size is 0, not a whole number of 1 or more"),
    ([{**IMAGE, "shape": 16}, end()], "node 'x' (input): shape 16 is none of a value, such as (C, H, W) or (F,)"),
    ([{**IMAGE, "shape": [1, 1 << 20, 1 << 20]}, end()], "has more than 16777216 values"),
    (conv(padding=1 << 30), "node 'c' (conv2d): its output (4, 2147483654, 2147483654) has more than 16777216 values"),
    # The graph
    ([], "graph 'broken' must start with its input"),
    ([RELU, end("r")], "graph 'broken' must start with its input"),
    ([IMAGE], "node 'x' (input) is an output; there is nothing to compute"),
    ([IMAGE, {**RELU, "op": "softsign"}, end("r")], "node 'r': unknown operation 'softsign'; there are input, conv2d"),
    ([IMAGE, {**RELU, "op": None}, end("r")], "node 'r': unknown operation None"),
    ([IMAGE, {"name": "r", "op": "bootstrap", "inputs": ["x"]}, end("r")], "node 'r': unknown operation 'bootstrap'"),
    ([IMAGE, {**IMAGE, "name": "y"}, end("y")], "node 'y' (input) is a second input"),
    ([IMAGE, {**CONV, "name": "dead"}, RELU, end("r")], "graph 'broken' computes dead and uses it nowhere"),
    ([IMAGE, RELU, RELU, end("r")], "two nodes are called 'r'"),
    ([IMAGE, {**RELU, "name": ""}, end("")], "a node has no name"),
    ([IMAGE, {"op": "relu", "inputs": ["x"]}, end("r")], "a node of the graph has no name"),
    ([IMAGE, {**RELU, "inputs": "x"}, end("r")], "node 'r': inputs are not a list of names"),
    ([IMAGE, {"name": "a", "op": "add", "inputs": ["x"]}, end("a")], "node 'a' (add) reads 1 values instead of 2"),
    ([IMAGE, {**RELU, "inputs": ["x", "x"]}, end("r")], "node 'r' (relu) reads 2 values instead of 1"),
    ([IMAGE, {**RELU, "inputs": ["fc"]}, end("r")], "node 'r' (relu) reads 'fc', which is not computed before it"),
    ([IMAGE, {**RELU, "inputs": ["r"]}, end("r")], "node 'r' (relu) reads 'r', which is not computed before it"),
    # Names
    ([IMAGE, {**RELU, "name": "r/p1"}, end("r/p1")], "node 'r/p1' (relu) uses the name 'r/p1'; no name may hold a '/'"),
    (conv(weight="c/weight"), "node 'c' (conv2d) uses the name 'c/weight'; no name may hold a '/'"),
    (conv(weight="__metadata__"), "node 'c' (conv2d) uses the name '__metadata__'; no name may hold a '/' or begin"),
    (
        [IMAGE, CONV, {**CONV, "name": "d", "inputs": ["c"], "kernel": 5, "padding": 2}, end("d")],
        "node 'd' (conv2d): weight 'w' has to be (4, 4, 5, 5) and is (4, 4, 3, 3) elsewhere",
    ),
]


def refusal(nodes: list[dict[str, Any]]) -> str:
    with pytest.raises(GraphError) as caught:
        graph_from_json({"name": "broken", "nodes": nodes})
    return str(caught.value)


@pytest.mark.parametrize(("nodes", "says"), BROKEN, ids=[says for _, says in BROKEN])
def test_a_broken_rule_names_the_node(nodes: list[dict[str, Any]], says: str) -> None:
    message = refusal(nodes)
    assert says in message
    assert "\n" not in message


PROGRAM = """
import json, sys
from fheinfer.errors import GraphError
from fheinfer.model.model import graph_from_json
if __debug__:
    sys.exit("asserts are on")
for nodes in json.loads(sys.argv[1]):
    try:
        graph_from_json({"name": "broken", "nodes": nodes})
        print("compiles")
    except GraphError as error:
        print(error)
"""


def test_all_of_them_are_refused_in_the_same_words_without_asserts(process: Callable[..., Any]) -> None:
    result = process(json.dumps([nodes for nodes, _ in BROKEN]), python=PROGRAM, options=["-O"])
    assert result.code == 0, result.err
    assert result.out.splitlines() == [refusal(nodes) for nodes, _ in BROKEN]


@pytest.mark.parametrize("content", [None, [], "graph", {}, {"nodes": {}}, {"nodes": ["x"]}, {"nodes": [None]}])
def test_what_is_no_graph_is_refused(content: object) -> None:
    with pytest.raises(GraphError):
        graph_from_json(content)


def test_a_name_has_an_end() -> None:
    with pytest.raises(GraphError, match="201 characters; at most 200"):
        GraphBuilder("n" * 201, (3,)).build()


def test_a_legal_graph_comes_back_as_it_is() -> None:
    nodes = (
        Node("x", Input((4, 8, 8))),
        Node("c", Conv2d(4, 3, 1, 1, "w"), ("x",)),
        Node("d", Conv2d(4, 3, 1, 1, "w"), ("c",)),  # shares its weights
        Node("r", Relu(), ("d",)),
        Node("a", Add(), ("r", "c")),
        Node("fc", Linear(2, "fcw"), ("a",)),
    )
    graph = Graph("good", nodes)
    assert verify(graph) is graph


def test_operations_of_the_compiler_are_none_of_a_network() -> None:
    nodes = (Node("x", Input((4,))), Node("m", Multiply(1.0), ("x", "x")), Node("fc", Linear(2, "w"), ("m",)))
    with pytest.raises(GraphError, match=r"node 'm' \(multiply\) is not an operation of this stage"):
        verify(Graph("early", nodes))


def test_a_class_of_ones_own_with_a_known_kind_is_refused() -> None:
    class Other(Op):
        kind = "relu"

    nodes = (Node("x", Input((4,))), Node("r", Other(), ("x",)), Node("fc", Linear(2, "w"), ("r",)))
    with pytest.raises(GraphError, match="not an operation of this stage"):
        verify(Graph("other", nodes))


def test_shapes_follow_pytorch() -> None:
    g = GraphBuilder("g", (3, 28, 30))
    x = g.conv_bn("input", "c1", "b1", 16, 3)
    x = g.conv2d("c2", x, 32, 5, 2)
    g.linear("f", x, 10)
    shapes = {"input": (3, 28, 30), "c1": (16, 28, 30), "b1": (16, 28, 30), "c2": (32, 14, 15), "f": (10,)}
    graph = g.build()
    assert graph.shapes == shapes
    assert graph.tensor_shapes()["f.weight"] == (10, 32 * 14 * 15)


def test_graphs_do_not_change() -> None:
    graph = zoo.network("resnet8-tiny")
    with pytest.raises(AttributeError):
        graph.nodes[1].op.kernel = 5  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        graph.nodes[1].name = "other"  # type: ignore[misc]


def test_a_node_that_is_not_there_is_an_error() -> None:
    with pytest.raises(GraphError, match="has no node 'nothing'"):
        zoo.network("resnet8-tiny")["nothing"]
    assert issubclass(GraphError, PlanError)


def test_images_and_vectors_are_told_apart() -> None:
    assert zoo.network("resnet8-tiny").image_size == (8, 8)
    with pytest.raises(GraphError, match="checkerboard takes 2 numbers, not images"):
        _ = zoo.network("checkerboard").image_size
