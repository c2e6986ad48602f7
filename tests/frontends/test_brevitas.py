"""Layers of Brevitas import as the numbers that they represent: fakes of its layers, and the real ones where it is."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fheinfer
from fheinfer.errors import GraphError
from fheinfer.evaluation.plain import plain_layers
from fheinfer.frontends.torch_export import from_torch, import_torch
from fheinfer.frontends.torch_export.brevitas import plain
from fheinfer.model.model import Model
from fheinfer.model.ops import Clip, Conv2d, Linear
from tests.conftest import TINY

STEP = 0.25


class Quantised(NamedTuple):
    """As a tensor of Brevitas: numbers with their scale."""

    value: Tensor
    scale: float


class Quantiser(nn.Module):
    """Rounds to multiples of a step between two of them; with a second argument, of the step times its scale."""

    is_quant_enabled = True

    def __init__(self, low: int = -4, high: int = 3, step: float | Tensor = STEP) -> None:
        super().__init__()
        self.low, self.high, self.step = low, high, step

    def forward(self, x: Any, *more: Any) -> Quantised:
        step = self.step * more[0].scale if more else self.step
        return Quantised((numbers(x) / step).round().clamp(self.low, self.high) * step, STEP)


class Off(nn.Module):
    """A quantiser that is switched off."""

    is_quant_enabled = False

    def forward(self, x: Any, *more: Any) -> Any:
        return x


def numbers(x: Any) -> Tensor:
    y: Tensor = getattr(x, "value", x)
    return y


class QuantLinear(nn.Linear):
    __module__ = "brevitas.nn.quant_linear"

    def __init__(self, inputs: int, outputs: int, bias: nn.Module | None = None) -> None:
        super().__init__(inputs, outputs)
        self.weight_quant, self.bias_quant = Quantiser(), bias or Off()
        self.input_quant, self.output_quant = Off(), Off()

    def forward(self, x: Any) -> Tensor:
        weight, bias = self.weight_quant(self.weight).value, self.bias_quant(self.bias, x)
        y = nn.functional.linear(numbers(self.input_quant(x)), weight, numbers(bias))
        return numbers(self.output_quant(y))


class QuantIdentity(nn.Module):
    __module__ = "brevitas.nn.quant_activation"

    def __init__(self, act_quant: nn.Module | None = None) -> None:
        super().__init__()
        self.act_quant, self.input_quant = act_quant or Quantiser(), Off()

    def forward(self, x: Tensor) -> Any:
        return self.act_quant(x)


class QuantReLU(QuantIdentity):
    __module__ = "brevitas.nn.quant_activation"

    def forward(self, x: Tensor) -> Any:
        return self.act_quant(x.relu())


class Inner(nn.Module):
    """What a layer of Brevitas is made of, in the same package."""

    __module__ = "brevitas.nn.quant_activation"

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class QuantTanh(QuantIdentity):
    __module__ = "brevitas.nn.quant_activation"

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Any:
        return self.act_quant(self.inner(x))


class QuantLSTM(nn.Module):
    __module__ = "brevitas.nn.quant_rnn"

    def forward(self, x: Tensor) -> Tensor:
        return x


def network(*layers: Any) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()


def outputs(model: Model, x: Tensor) -> Tensor:
    y = torch.from_numpy(plain_layers(model, x[0].double().numpy())[model.graph.output.name])
    return y.sigmoid() if model.final else y  # the client's part


def test_weights_are_the_numbers_that_their_bits_represent() -> None:
    net = network(QuantLinear(5, 4))
    before = net[0].weight.clone()
    imported = import_torch(net, torch.randn(1, 5))
    weight = imported.model.tensors["0.weight"]
    assert (weight == net[0].weight_quant(net[0].weight).value.detach().numpy()).all()
    assert set((weight / STEP).ravel().tolist()) <= set(range(-4, 4))
    assert torch.equal(net[0].weight, before)
    assert isinstance(net[0], QuantLinear)
    assert any("not rounded" in note for note in imported.notes)
    assert "not rounded" in imported.model.provenance["quantised"]


def test_a_quantised_bias_has_the_scale_of_its_input() -> None:
    net = network(QuantIdentity(), QuantLinear(5, 4, bias=Quantiser(-1000, 1000)))
    model = from_torch(net, torch.randn(1, 5))
    bias = model.tensors["1.bias"] / STEP**2
    assert (bias == bias.round()).all()
    assert abs(bias * STEP**2 - net[1].bias.detach().numpy()).max() <= STEP**2 / 2


@pytest.mark.parametrize(
    ("layer", "clip"), [(QuantReLU(), Clip(0.0, 3 * STEP)), (QuantIdentity(), Clip(-4 * STEP, 3 * STEP))]
)
def test_activations_are_clipped_and_differ_by_half_a_step_at_most(layer: nn.Module, clip: Clip) -> None:
    net = network(layer)
    model = from_torch(net, torch.randn(1, 100))
    assert [node.op for node in model.graph.nodes[1:]] == [clip]
    x = 2 * torch.randn(1, 100)
    difference = (outputs(model, x) - net(x).value[0].double()).abs().max()
    assert STEP / 4 < difference <= STEP / 2 + 1e-6


def test_quantisers_of_inputs_and_outputs_become_clips_and_those_that_are_off_nothing() -> None:
    layer: Any = QuantLinear(5, 4)
    layer.input_quant = Quantiser()
    net = network(layer, QuantIdentity(Off()), QuantReLU(Off()))
    kinds = [node.op.kind for node in from_torch(net, torch.randn(1, 5)).graph.nodes[1:]]
    assert kinds == ["clip", "linear", "relu"]


def test_a_layer_that_is_used_twice_is_replaced_in_both_places() -> None:
    layer = QuantLinear(4, 4)
    found: Any = plain(network(layer, layer), torch.randn(1, 4)).net
    assert found[0] is found[1]
    assert type(found[0]) is nn.Linear


def test_what_a_layer_is_made_of_goes_with_it() -> None:
    found: Any = plain(network(QuantTanh(), QuantIdentity()), torch.randn(1, 4)).net
    assert [type(layer) for layer in found] == [nn.Tanh, nn.Hardtanh]


def test_networks_without_layers_of_brevitas_stay_the_same_object() -> None:
    net = network(nn.Linear(3, 2))
    assert plain(net, torch.randn(1, 3)).net is net


def _twice() -> nn.Module:
    layer = QuantLinear(4, 4, bias=Quantiser(-1000, 1000))
    return nn.Sequential(QuantIdentity(), layer, _Rescaled(), layer)


class _Rescaled(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return Quantised(x, 3 * STEP) if type(x) is Tensor and not torch.compiler.is_compiling() else x


class _ReadsFields(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.identity = QuantIdentity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.identity(x).value
        return y


class _Own(QuantIdentity):
    def forward(self, x: Tensor) -> Any:
        return x + 1


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(QuantLSTM()), "module '0' (QuantLSTM of Brevitas): is not supported"),
        (nn.Sequential(QuantIdentity(Quantiser(step=torch.tensor([1.0, 2, 3, 4])))), "a range for each channel"),
        (nn.Sequential(QuantReLU(Quantiser(-4, 0))), "leaves nothing between 0 and 0"),
        (nn.Sequential(_Own()), "forward of its own class"),
        (_twice(), "is used twice"),
        (_ReadsFields(), "may not read the fields of quantised tensors"),
    ],
    ids=["not supported", "per channel", "empty range", "own forward", "two biases", "reads fields"],
)
def test_what_cannot_be_written_without_quantisers_is_refused_by_name(net: nn.Module, words: str) -> None:
    with pytest.raises(GraphError) as caught:
        from_torch(net, torch.randn(1, 4))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_brevitas_is_not_imported() -> None:
    from_torch(network(QuantLinear(3, 2)), torch.randn(1, 3))
    assert "brevitas" not in sys.modules or "brevitas.nn" in sys.modules


WHY = "Brevitas is not here: pip install --no-deps brevitas==0.13.4 dependencies==2.0.1 unfoldNd==0.2.3"


@pytest.fixture
def real() -> Any:
    return SimpleNamespace(
        nn=pytest.importorskip("brevitas.nn", reason=WHY), quant=pytest.importorskip("brevitas.quant", reason=WHY)
    )


class Guide(nn.Module):
    """Convolution, sum of activations, transpose, reshape, flatten and a linear layer, as Concrete ML's guide has."""

    def __init__(self, qnn: Any, quant: Any, bits: int) -> None:
        super().__init__()
        options = {"weight_bit_width": bits, "bias_quant": quant.Int8Bias}
        self.start = qnn.QuantIdentity(bit_width=bits, return_quant_tensor=True)
        self.conv1 = qnn.QuantConv2d(1, 4, 3, padding=1, return_quant_tensor=True, **options)
        self.relu1 = qnn.QuantReLU(bit_width=bits, return_quant_tensor=True)
        self.conv2 = qnn.QuantConv2d(4, 4, 3, padding=1, stride=2, groups=2, return_quant_tensor=True, **options)
        self.same = qnn.QuantIdentity(bit_width=bits, return_quant_tensor=True)
        self.skip = qnn.QuantConv2d(4, 4, 1, stride=2, **options)
        self.end = qnn.QuantLinear(4 * 4 * 4, 3, bias=True, weight_bit_width=bits)

    def forward(self, x: Any) -> Any:
        x = self.relu1(self.conv1(self.start(x)))
        x = self.same(self.conv2(x)) + self.same(self.skip(x))
        x = x.transpose(2, 3).reshape(1, 4, 16)
        return self.end(x.flatten(1))


@pytest.mark.parametrize("bits", [3, 8])
def test_a_network_of_brevitas_computes_the_same_but_for_rounding(real: Any, bits: int) -> None:
    torch.manual_seed(0)
    net = Guide(real.nn, real.quant, bits)
    for _ in range(3):
        net(torch.rand(1, 1, 8, 8))  # in training, quantisers measure their ranges
    net.eval()
    x = torch.rand(1, 1, 8, 8)
    model = from_torch(net, x)
    for name in ("conv1", "conv2", "skip", "end"):
        expected = getattr(net, name).quant_weight().value.detach().numpy()
        assert (model.tensors[f"{name}.weight"].reshape(expected.shape) == expected).all()
    assert sum(isinstance(node.op, Conv2d | Linear) for node in model.graph) == 4
    with torch.no_grad():
        expected = net(x)[0].double()
    error = float((outputs(model, x) - expected).abs().max() / expected.abs().max())
    assert error < (0.02 if bits == 8 else 1.0), error
    assert model.provenance["quantised"].startswith("Brevitas: 7 layers")
    assert isinstance(net.conv1, real.nn.QuantConv2d)


@pytest.mark.parametrize("kind", ["QuantConv1d", "QuantConv2d", "QuantConvTranspose1d", "QuantConvTranspose2d"])
def test_convolutions_of_brevitas_are_exact(real: Any, kind: str) -> None:
    torch.manual_seed(0)
    axes = 1 + kind.endswith("2d")
    net = nn.Sequential(getattr(real.nn, kind)(2, 4, 3, stride=2, padding=1, groups=2, weight_bit_width=4)).eval()
    x = torch.randn(1, 2, *[7] * axes)
    with torch.no_grad():
        expected = net(x)[0].double()
    torch.testing.assert_close(outputs(from_torch(net, x), x).reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "halves"),
    [("QuantReLU", 1), ("QuantIdentity", 1), ("QuantHardTanh", 1), ("QuantSigmoid", 3), ("QuantTanh", 3)],
)
def test_activations_of_brevitas_differ_by_half_a_step_but_where_they_saturate(
    real: Any, kind: str, halves: int
) -> None:
    torch.manual_seed(0)
    options = {"min_val": -1.0, "max_val": 1.0} if kind == "QuantHardTanh" else {}
    layer = getattr(real.nn, kind)(bit_width=4, **options)
    for _ in range(3):
        layer(torch.randn(1, 1000))
    net = nn.Sequential(layer).eval()
    x = 2 * torch.randn(1, 1000)
    model = from_torch(net, x)
    with torch.no_grad():
        expected, step = net(x)[0].double(), float(layer.act_quant.scale())
    difference = float((outputs(model, x) - expected).abs().max())
    assert step / 4 < difference <= halves * step / 2 + 1e-6


class Checkerboard(nn.Module):
    """2-n-n-2 with weights of 3 bits, as Concrete ML's guide has it."""

    def __init__(self, qnn: Any, n: int, bits: int) -> None:
        super().__init__()
        self.start = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
        self.fc1, self.relu1 = qnn.QuantLinear(2, n, True, weight_bit_width=3), qnn.QuantReLU(bit_width=bits)
        self.fc2, self.relu2 = qnn.QuantLinear(n, n, True, weight_bit_width=3), qnn.QuantReLU(bit_width=bits)
        self.fc3 = qnn.QuantLinear(n, 2, True, weight_bit_width=3)

    def forward(self, x: Any) -> Any:
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(self.start(x))))))


@pytest.mark.parametrize("bits, most", [(3, 0.25), (8, 0.03)])
def test_a_trained_network_of_3_bits_is_encrypted_what_brevitas_computes(
    real: Any, bits: int, most: float, tmp_path: Path
) -> None:
    """Activations are not rounded when it is imported: of 3 bits outputs may differ visibly, of 8 next to nothing."""
    torch.manual_seed(0)
    x = 4 * torch.rand(300, 2) - 2
    colours = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()
    net = Checkerboard(real.nn, 16, bits)
    optimiser = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), colours).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    net.eval()
    expected = net(x).detach().double().numpy()
    assert (expected.argmax(1) == colours.numpy()).mean() > 0.9
    model = from_torch(net, x[:1]).calibrate(x)
    for name in ("fc1", "fc2", "fc3"):
        steps = getattr(net, name).quant_weight()
        assert len(np.unique(np.round(model.tensors[f"{name}.weight"] / steps.scale.detach().numpy()))) <= 7
    plan = fheinfer.compile(model, TINY)
    fheinfer.keygen(plan.client, tmp_path)
    client, session = fheinfer.Client(tmp_path, plan.client), fheinfer.Server().session(plan, tmp_path / "server")
    points = x[:8].double().numpy()
    found = np.stack([client.decrypt(session.evaluate(client.encrypt(point))) for point in points])
    assert np.abs(found - expected[:8]).max() < most * np.abs(expected).max()
    sure = np.abs(expected[:8, 0] - expected[:8, 1]) > most * np.abs(expected).max()
    assert sure.any()
    assert (found.argmax(1) == expected[:8].argmax(1))[sure].all()
