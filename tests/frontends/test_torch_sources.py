"""Modules that cannot be imported, and where modules come from: files and classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fheinfer
from fheinfer.errors import FheinferError, GraphError, InputError, UsageError, WeightsError
from fheinfer.frontends.torch_export.checking import check
from fheinfer.frontends.torch_export.exporting import export
from fheinfer.frontends.torch_export.importer import translate
from fheinfer.frontends.torch_export.sources import import_class, import_program, is_program_file
from tests.frontends.torch_cases import Function

EXAMPLE = torch.zeros(1, 3, 8, 8)


def with_nan() -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight[1, 2, 0, 0] = float("nan")
    return nn.Sequential(layer, nn.ReLU())


def scripted() -> nn.Module:
    made: nn.Module = torch.jit.trace(nn.Linear(4, 3), torch.zeros(1, 4))  # type: ignore[no-untyped-call]
    return made


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Item(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sum().item()


class Counting(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 8), Scores())

    def forward(self, x: Tensor) -> Any:
        return self.encoder(x)


class Scores(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.transpose(-1, -2)


class LazyLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


BAD: list[tuple[Callable[[], Any], Any, type[FheinferError], str]] = [
    (Branching, EXAMPLE, GraphError, "Branching cannot be exported: its control flow depends on the input"),
    (Item, EXAMPLE, GraphError, "is `.item()`, `int()`, `float()` or `bool()` of a value that depends on the input"),
    (nn.Identity, np.zeros((1, 4)), InputError, "the example is of the type ndarray; give a torch tensor, such as"),
    (nn.Identity, [0.0, 1.0], InputError, "the example is of the type list; give a torch tensor, such as"),
    (with_nan, EXAMPLE, WeightsError, "tensor '0.weight' holds NaN, infinite or complex values"),
    (LazyLayer, EXAMPLE, WeightsError, "tensor 'layer.weight' has no values yet"),
    (lambda: nn.Conv2d(3, 4, 3), torch.zeros(1, 4, 8, 8), InputError, "does not take an example of the shape (1, 4, 8"),
    (lambda: nn.Conv2d(3, 4, 3), torch.zeros(3), InputError, "its first axis is the batch, as in (1, 3, 32, 32)"),
    (lambda: nn.Conv2d(3, 4, 3), EXAMPLE.long(), InputError, "the example holds torch.int64"),
    (TwoInputs, (EXAMPLE, EXAMPLE), InputError, "the example is 2 inputs; a network has one tensor as its input"),
    (scripted, torch.zeros(1, 4), InputError, "a TorchScript module cannot be imported"),
    (TwoInputs, EXAMPLE, InputError, "TwoInputs does not take an example"),
    (lambda: "resnet18", EXAMPLE, InputError, "str is no module of PyTorch"),
    (lambda: nn.BatchNorm2d(3, track_running_stats=False), EXAMPLE, GraphError, "normalises by statistics"),
    (lambda: Function(lambda x: x + torch.rand(3, 8, 8)), EXAMPLE, GraphError, "operation 'rand' of"),
    (Counting, EXAMPLE, GraphError, "changes 'calls' while it runs"),
    (Attention, EXAMPLE, GraphError, "operation 'matmul' of module 'encoder.1' (Scores), test_torch_sources.py line"),
    (lambda: Function(lambda x: torch.ones(1, 4)), EXAMPLE, GraphError, "does not depend on the input"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "example", "kind", "says"), BAD, ids=[says for *_, says in BAD])
def test_what_cannot_be_imported_is_one_line(
    make: Callable[[], Any], example: Any, kind: type[FheinferError], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind) as caught:
        fheinfer.from_torch(make(), example)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert capfd.readouterr() == ("", "")  # the exporter prints the graph of what it refuses


def small() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_program_file_is_the_module_it_was_made_of(tmp_path: Path, dynamic: bool) -> None:
    net, path = small(), tmp_path / "net.pt2"
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    example = torch.zeros(2 if dynamic else 1, 3, 8, 8)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=shapes), path)
    assert is_program_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = import_program(path, classes=tuple("abcde")).model
    assert (model.name, model.classes) == ("net", tuple("abcde"))
    x = torch.randn(3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = net.double()(x[None])[0].numpy()
    assert fheinfer.plain_outputs(model, x.numpy()) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_program_files_that_cannot_be_taken_are_one_line(tmp_path: Path) -> None:
    cases = {tmp_path / "none.pt2": "no such file"}
    torch.save(small().state_dict(), tmp_path / "state.pt2")
    cases[tmp_path / "state.pt2"] = "no exported program"
    torch.export.save(torch.export.export(small(), (torch.zeros(4, 3, 8, 8),)), tmp_path / "four.pt2")
    cases[tmp_path / "four.pt2"] = "was exported for batches of 4; export it for a batch of one"
    training = torch.export.export(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(), (torch.zeros(1, 4),))
    torch.export.save(training, tmp_path / "training.pt2")
    cases[tmp_path / "training.pt2"] = "is random; call net.eval()"
    data = (tmp_path / "four.pt2").read_bytes()
    (tmp_path / "half.pt2").write_bytes(data[: len(data) // 2])
    cases[tmp_path / "half.pt2"] = "no exported program"
    for path, says in cases.items():
        with pytest.raises(FheinferError) as caught:
            import_program(path)
        assert says in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


CODE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))

class Needy(nn.Module):
    def __init__(self, width):
        super().__init__()

def number():
    return 7
"""


def test_a_class_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynet_of_a_test.py").write_text(CODE)
    (tmp_path / "broken_of_a_test.py").write_text("import nothing_like_it")
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, "net.pt")
    imported = import_class("mynet_of_a_test:Net", (4,), state=Path("net.pt"))
    assert not any("random" in note for note in imported.notes)
    made = import_class("mynet_of_a_test:Net", (4,))
    assert made.notes[0] == "weights: those that the class makes (random unless it loads some)"
    x = torch.randn(4, dtype=torch.float64)
    with torch.no_grad():
        expected = net.double()(x).numpy()
    assert fheinfer.plain_outputs(imported.model, x.numpy()) == pytest.approx(expected, rel=1e-6)
    for target, says in {
        "mynet_of_a_test": "names no class; write it as package.module:Class",
        "mynet_of_a_test:Nothing": "no class 'Nothing' in module 'mynet_of_a_test'; check the name",
        "mynet_of_a_test:Needy": "missing 1 required positional argument",
        "broken_of_a_test:Net": "module 'broken_of_a_test' cannot be imported: No module named 'nothing_like_it'",
        "mynet_of_a_test:number": "makes a int, and no module of PyTorch",
        "no_such_module_at_all:Net": "no module 'no_such_module_at_all' in this folder or among the installed packages",
    }.items():
        with pytest.raises(UsageError) as caught:
            import_class(target, (4,))
        assert says in str(caught.value)
    torch.save(nn.Linear(4, 3).state_dict(), "other.pt")
    with pytest.raises(WeightsError):
        import_class("mynet_of_a_test:Net", (4,), state=Path("other.pt"))


def test_wrappers_come_off() -> None:
    net = small()
    compiled: Any = torch.compile(net)
    for wrapped in (nn.DataParallel(net), compiled):
        model = fheinfer.from_torch(wrapped, EXAMPLE)
        assert model.name == "Sequential"
        assert set(model.tensors) == {name for name in net.state_dict() if "tracked" not in name}


def test_a_graph_that_computes_something_else_is_found_out() -> None:
    """By hand: an import never gives one."""
    net = small()
    translated = translate(export(net, EXAMPLE), "small")
    assert "compared with PyTorch on 3 inputs" in check(net, translated, EXAMPLE)
    name = "4.bias"
    changed = replace(translated, tensors={**translated.tensors, name: translated.tensors[name] + np.float32(1e-4)})
    with pytest.raises(GraphError, match="output '4' differs by"):
        check(net, changed, EXAMPLE)
    random = Function(lambda x: x + torch.rand(1))
    program = translate(export(Function(lambda x: x + 0.5), EXAMPLE), "other")
    with pytest.raises(GraphError, match="differs by"):
        check(random, program, EXAMPLE)
