from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fheinfer.errors import GraphError, ModelError
from fheinfer.evaluation.plain import plain_outputs
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import import_file, shapes
from fheinfer.train.module import GraphModule


def random_state(graph: Graph, seed: int = 1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=random) * 0.5 + 0.1 for name, shape in shapes(graph).items()}


@pytest.mark.parametrize("name", zoo.names())
def test_the_state_has_exactly_the_names_and_shapes_of_the_graph(name: str) -> None:
    graph = zoo.network(name)
    state = GraphModule(graph).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes(graph)


@pytest.mark.parametrize("name", zoo.names())
def test_every_node_has_the_shape_the_graph_says(name: str) -> None:
    graph = zoo.network(name)
    module = GraphModule(graph).eval()
    x = torch.randn(2, *graph.input.attrs["shape"])
    values = module.forward_all(x)
    assert list(values) == [node.name for node in graph]
    assert {key: tuple(value.shape[1:]) for key, value in values.items()} == graph.shapes()
    assert torch.equal(module(x), values[graph.output.name])


@pytest.mark.parametrize("op, of_window", [("max_pool", np.max), ("mean_pool", np.mean)])
def test_pools_are_of_windows_side_by_side(op: str, of_window: Any) -> None:
    graph = Graph("pool", (Node("x", "input", attrs={"shape": (2, 7, 5)}), Node("p", op, ("x",), {}, {"kernel": 2})))
    assert graph.shapes()["p"] == (2, 3, 2)
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


def test_an_operation_without_a_plain_meaning_is_refused() -> None:
    graph = Graph("g", (Node("input", "input", attrs={"shape": (3, 8, 8)}), Node("b", "bootstrap", ("input",))))
    with pytest.raises(GraphError, match="bootstrap"):
        GraphModule(graph)


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
    weights = import_file(tmp_path / "w.th", "resnet8-tiny")
    assert weights.mean == (0.485, 0.456, 0.406)
    image = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = direct_option_a({k: v.double() for k, v in state.items()}, image[None])[0]
    assert plain_outputs(weights, image.numpy()) == pytest.approx(expected.numpy(), rel=1e-7)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-run"),))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".pt", ".npz"]), st.data())
def test_damaged_files_of_others_never_crash(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    path = tmp_path / f"w{suffix}"
    state = random_state(zoo.network("resnet8-tiny"))
    if suffix == ".pt":
        torch.save(state, path)
    else:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in state.items()}
        np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 4000) | st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        import_file(path, "resnet8-tiny")
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"conv1.weight": Evil()}},
        {"conv1.weight": [1.0]},
        {3: torch.zeros(1)},
        [1, 2],
        {},
        {"conv1.weight": torch.zeros(1).expand(10**11)},
        {"conv1.weight": torch.eye(3).to_sparse()},
    ],
)
def test_a_torch_file_of_anything_but_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pt")
    with pytest.raises(ModelError) as caught:
        import_file(Path("w.pt"))
    assert "\n" not in str(caught.value)
    assert not Path("was-run").exists()
