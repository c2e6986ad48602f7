"""Whatever a user has: told by its content, with what it lacks or does not need said."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fheinfer
from fheinfer.errors import InputError, UsageError, WeightsError
from fheinfer.frontends.anything import Wishes, import_any

torch = pytest.importorskip("torch")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's in the current folder, and an instance of its class."""
    (tmp_path / "mynetwork.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(NET, names)
    yield names["Net"]().eval()
    sys.modules.pop("mynetwork", None)


def same(model: fheinfer.Model, net: Any) -> None:
    x = np.random.default_rng(1).normal(0, 1, (3, 8, 8))
    expected = net.double()(torch.tensor(x)[None])[0].detach().numpy()
    assert np.abs(fheinfer.plain_outputs(model, x) - expected).max() < 1e-6


def test_a_class_is_a_network(package: Any) -> None:
    found = import_any("mynetwork:Net", Wishes(shape=(3, 8, 8), classes=list("abcde"), name="mine"))
    assert (found.model.name, found.model.classes) == ("mine", tuple("abcde"))
    same(found.model, package)


def test_a_class_takes_a_checkpoint(package: Any) -> None:
    with torch.no_grad():
        package.head.bias.fill_(2.0)
    torch.save({"state_dict": package.state_dict()}, "weights.pt")
    same(import_any("mynetwork:Net", Wishes(shape=(3, 8, 8), state=Path("weights.pt"))).model, package)


@pytest.mark.parametrize("name", ["net.pt2", "net.onnx", "net.bin"])
def test_a_file_is_told_by_its_content(package: Any, name: str) -> None:
    example = torch.zeros(1, 3, 8, 8)
    if name == "net.pt2":
        torch.export.save(torch.export.export(package, (example,)), name)
    else:
        onnx = pytest.importorskip("onnx")
        _write_onnx(onnx, package, name)
    same(import_any(name, Wishes()).model, package)


def _write_onnx(onnx: Any, net: Any, name: str) -> None:
    from onnx import TensorProto, helper, numpy_helper

    tensors = {key: value.detach().numpy() for key, value in net.state_dict().items()}
    nodes = [
        helper.make_node(
            "Conv", ["x", "features.0.weight", "features.0.bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(value, key) for key, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), name)


def test_a_model_and_a_checkpoint_of_the_zoo_are_read_as_before(tiny_model: fheinfer.Model, tmp_path: Path) -> None:
    tiny_model.save(tmp_path / "m")
    assert import_any(str(tmp_path / "m"), Wishes()).model.identity == tiny_model.identity
    torch.save({name: torch.tensor(array) for name, array in tiny_model.tensors.items()}, tmp_path / "c")
    found = import_any(str(tmp_path / "c"), Wishes(network="resnet8-tiny"))
    assert "taken for resnet8-tiny" in " ".join(found.notes)


@pytest.mark.parametrize("names", [("0", "2"), ("body", "fc")])
def test_a_checkpoint_of_ones_own_network_says_how_to_import_it(names: tuple[str, str], tmp_path: Path) -> None:
    layers = {name: torch.nn.Linear(2, 2) for name in names}
    torch.save(torch.nn.ModuleDict(layers).state_dict(), tmp_path / "own.pt")
    with pytest.raises(WeightsError, match=r"taken for resnet20.*package\.module:Class --weights \S*own\.pt"):
        import_any(str(tmp_path / "own.pt"), Wishes())


@pytest.mark.parametrize(
    "source, wishes, error, says",
    [
        ("mynetwork:Net", {}, UsageError, "--example-shape, such as 1,3,32,32"),
        ("mynetwork:Net", {"shape": (3, 8, 8), "network": "resnet20"}, UsageError, "--network changes nothing here"),
        ("mynetwork:Gone", {"shape": (3, 8, 8)}, UsageError, "Gone"),
        ("gone.onnx", {}, InputError, "no such file; name a model, an ONNX file"),
        ("folder", {}, Exception, "folder"),
        ("text", {"shape": (3, 8, 8)}, UsageError, "--example-shape changes nothing here"),
        ("text", {"batch": False}, UsageError, "--no-batch changes nothing here: it is of ONNX files"),
        ("mynetwork:Net", {"shape": (3, 8, 8), "batch": False}, UsageError, "--no-batch changes nothing here"),
        ("text", {"state": Path("x")}, UsageError, "--weights changes nothing here"),
    ],
)
def test_what_is_missing_or_changes_nothing_is_said(
    package: Any, source: str, wishes: dict[str, Any], error: type[Exception], says: str
) -> None:
    Path("folder").mkdir()
    Path("text").write_text("hello")
    with pytest.raises(error, match=says) as caught:
        import_any(source, Wishes(**wishes))
    assert "\n" not in str(caught.value)


def test_an_onnx_file_without_a_batch(command: Callable[..., Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3, 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Softplus", ["x"], ["y"])], "net", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    for option, shape in ([], (4,)), (["--no-batch"], (3, 4)):
        done = command("model", "import", tmp_path / "net.onnx", *option, "-o", tmp_path / "net.safetensors")
        assert done.code == 0, done.err
        assert fheinfer.load_model(tmp_path / "net.safetensors").graph.input_shape == shape


def test_the_command_imports_compiles_and_infers_a_network_of_a_user(
    package: Any, process: Callable[..., Any], tmp_path: Path
) -> None:
    """From a class to an answer, by the commands of the README, on a small ring."""
    np.save(tmp_path / "data.npy", np.random.default_rng(2).normal(0, 1, (20, 3, 8, 8)).astype(np.float32))
    np.save(tmp_path / "one.npy", np.load(tmp_path / "data.npy")[0])
    steps = [
        ("model", "import", "mynetwork:Net", "--example-shape", "1,3,8,8", "-o", "net.safetensors"),
        ("calibrate", "net.safetensors", "--data", "data.npy"),
        ("compile", "net.safetensors", "--set", "insecure-tiny", "-o", "plan"),
        ("keygen", "plan", "-o", "mykeys"),
    ]
    for step in steps:
        done = process(*step, cwd=tmp_path)
        assert done.code == 0, done.err
    done = process("infer", "--plan", "plan", "--keys", "mykeys", "--input", "one.npy", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    x = torch.tensor(np.load(tmp_path / "one.npy"))[None]
    expected = package(x)[0].detach().numpy()
    found = np.array(json.loads(done.out)["logits"])
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
