from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fheinfer.errors import GraphError
from fheinfer.evaluation.plain import plain_outputs
from fheinfer.frontends import zoo
from fheinfer.frontends.importing import import_model
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import BatchNorm, Bootstrap, Conv2d, Input, Linear, MaxPool, MeanPool
from fheinfer.train.module import GraphModule


def random_state(graph: Graph, seed: int = 1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=random) * 0.5 + 0.1 for name, shape in graph.tensor_shapes().items()}


@pytest.mark.parametrize("name", zoo.names())
def test_the_state_has_exactly_the_names_and_shapes_of_the_graph(name: str) -> None:
    graph = zoo.network(name)
    state = GraphModule(graph).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == graph.tensor_shapes()


@pytest.mark.parametrize("name", zoo.names())
def test_every_node_has_the_shape_the_graph_says(name: str) -> None:
    graph = zoo.network(name)
    module = GraphModule(graph).eval()
    x = torch.randn(2, *graph.input_shape)
    values = module.forward_all(x)
    assert list(values) == [node.name for node in graph]
    assert {key: tuple(value.shape[1:]) for key, value in values.items()} == graph.shapes
    assert torch.equal(module(x), values[graph.output.name])


@pytest.mark.parametrize("op, of_window", [(MaxPool(2), np.max), (MeanPool(2), np.mean)])
def test_pools_are_of_windows_side_by_side(op: MaxPool | MeanPool, of_window: Any) -> None:
    graph = Graph("pool", (Node("x", Input((2, 7, 5))), Node("p", op, ("x",))))
    assert graph.shapes["p"] == (2, 3, 2)
    x = np.random.default_rng(3).normal(size=(2, 7, 5))
    y = GraphModule(graph)(torch.from_numpy(x[None]))[0].numpy()
    windows = x[:, :6, :4].reshape(2, 3, 2, 2, 2)
    assert y == pytest.approx(of_window(windows, axis=(2, 4)))


def test_batch_norm_is_the_usual_one() -> None:
    module, usual = GraphModule(zoo.network("resnet8-tiny")).get_submodule("bn1"), torch.nn.BatchNorm2d(4)
    for mode in (True, False):
        module.train(mode), usual.train(mode)
        x = torch.randn(5, 4, 3, 3)
        assert torch.equal(module(x), usual(x))
    assert torch.equal(module.get_buffer("running_var"), usual.get_buffer("running_var"))


def test_an_operation_of_the_compiler_is_refused() -> None:
    graph = Graph("g", (Node("input", Input((3, 8, 8))), Node("b", Bootstrap(), ("input",))))
    with pytest.raises(GraphError, match=r"node 'b' \(bootstrap\)"):
        GraphModule(graph)


@pytest.mark.parametrize("name", ["weight", "conv.kernel", "a.b.weights"])
def test_tensors_that_are_not_named_as_pytorch_names_them_are_parameters_of_their_own(name: str) -> None:
    graph = Graph("g", (Node("input", Input((3, 8, 8))), Node("c", Conv2d(4, 3, 1, 1, name), ("input",))))
    module = GraphModule(graph)
    module.load_state_dict({name: torch.randn(4, 3, 3, 3)})
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(module(x), functional.conv2d(x, module.get_parameter(name), padding=1))


def test_a_batch_norm_has_to_have_the_names_of_pytorch() -> None:
    norm = Node("n", BatchNorm(1e-5, "n.gamma", "n.beta", "n.mean", "n.var"), ("input",))
    with pytest.raises(GraphError, match=r"tensors of 'n' \(batch_norm\) are not named as PyTorch names them"):
        GraphModule(Graph("g", (Node("input", Input((3, 8, 8))), norm)))


def test_a_tensor_that_would_have_to_hold_another_is_named() -> None:
    nodes = (
        Node("input", Input((3, 8, 8))),
        Node("c", Conv2d(3, 3, 1, 1, "a.kernel"), ("input",)),
        Node("d", Conv2d(3, 3, 1, 1, "a"), ("c",)),
    )
    with pytest.raises(GraphError, match="a tensor called 'a' has no place in a torch module; rename it"):
        GraphModule(Graph("g", nodes))


def test_a_graph_of_ones_own_runs_and_takes_features_of_an_image() -> None:
    """A linear layer right after a convolution, no pool between, and a rectangle."""
    nodes = (
        Node("x", Input((2, 6, 4))),
        Node("c", Conv2d(3, 3, 2, 1, "c.weight", "c.bias"), ("x",)),
        Node("n", BatchNorm(1e-3, "n.weight", "n.bias", "n.running_mean", "n.running_var"), ("c",)),
        Node("out", Linear(5, "out.weight", "out.bias"), ("n",)),
    )
    graph = Graph("own", nodes)
    module = GraphModule(graph).eval()
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == graph.tensor_shapes()
    x = torch.randn(2, 2, 6, 4)
    t = module.state_dict()
    y = functional.conv2d(x, t["c.weight"], t["c.bias"], stride=2, padding=1) / (1 + 1e-3) ** 0.5
    assert torch.allclose(module(x), functional.linear(y.flatten(1), t["out.weight"], t["out.bias"]), atol=1e-5)


def direct_option_a(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """resnet8-tiny with subsampled, zero-padded shortcuts, written out."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = functional.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (state[f"{bn}.{key}"] for key in keys)
        return functional.batch_norm(x, mean, variance, scale, shift)

    x = torch.relu(conv_bn(x, "conv1", "bn1"))
    for name, stride, extra in (("layer1.0", 1, 0), ("layer2.0", 2, 2), ("layer3.0", 2, 4)):
        y = torch.relu(conv_bn(x, f"{name}.conv1", f"{name}.bn1", stride))
        shortcut = functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, extra, extra))
        x = torch.relu(conv_bn(y, f"{name}.conv2", f"{name}.bn2") + shortcut)
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def test_an_imported_option_a_network_computes_what_it_did(tmp_path: Path) -> None:
    graph = zoo.network("resnet8-tiny")
    state = {name: value for name, value in random_state(graph).items() if ".downsample." not in name}
    theirs = {f"module.{name.replace('fc.', 'linear.')}": value for name, value in state.items()}
    theirs["module.bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save({"state_dict": theirs, "best_prec1": 91.0}, tmp_path / "w.th")
    model = import_model(tmp_path / "w.th", "resnet8-tiny", option_a=True).model
    image = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = direct_option_a({k: v.double() for k, v in state.items()}, image[None])[0]
    assert plain_outputs(model, image.numpy()) == pytest.approx(expected.numpy(), rel=1e-7)
