"""Activations of any graph become PAFs or quadratics under the same names."""

from __future__ import annotations

import pytest

from fheinfer.errors import UsageError
from fheinfer.frontends import zoo
from fheinfer.frontends.replacing import replace_activations
from fheinfer.model import ops
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.verify import verify


@pytest.mark.parametrize("to", ["paf:f1", "f1g2:f-first", "quadratic"])
@pytest.mark.parametrize("network", ["resnet32", "resnet20-silu", "vgg11", "vgg11-mean", "checkerboard"])
def test_names_inputs_and_all_other_operations_stay(network: str, to: str) -> None:
    before, after = zoo.network(network), verify(replace_activations(zoo.network(network), to))
    assert after.name == f"{network}+{to.removeprefix('paf:')}"
    assert [(n.name, n.inputs) for n in after] == [(n.name, n.inputs) for n in before]
    made = ops.HerPN if to == "quadratic" else ops.Paf
    for old, new in zip(before, after, strict=True):
        assert isinstance(new.op, made) if old.op.activation else new.op == old.op
    assert zoo.network(f"{network}+{to.removeprefix('paf:')}").nodes == after.nodes


def test_what_is_no_relu_stays_and_tensors_have_names_of_their_own() -> None:
    g = GraphBuilder("mixed", (3, 8, 8))
    x = g.activation("silu", g.conv2d("conv", "input", 4, 3), "first")
    x = g.add("second", ops.Prelu("second.weight"), x)
    x = g.activation("hardswish", g.add("pool", ops.MaxPool(3, 2, 1), x), "features.3")
    x = g.add("norm", ops.Conv2d(4, 1, 1, 0, "taken.weight"), x)
    x = g.add("taken", ops.LeakyRelu(0.1), x)
    gate = g.activation("sigmoid", x, "gate")
    before = g.build(gate, g.add("clip", ops.Clip(0.0, 6.0), x))
    after = verify(replace_activations(before, "quadratic"))
    assert after.outputs == before.outputs
    assert after["gate"].op == ops.Sigmoid()
    replaced = [n.name for n in after if isinstance(n.op, ops.HerPN)]
    assert replaced == ["first", "second", "features.3", "taken", "clip"]
    assert after["second"].op.tensors["weight"] == "second.weight"
    assert after["taken"].op.tensors["weight"] == "taken.polynomial.weight"
    assert after.tensor_shapes()["taken.weight"] == (4, 4, 1, 1)


@pytest.mark.parametrize("to", ["nonsense", "paf:", "cubic", "paf:f1:f-first", "paf:quadratic"])
def test_an_unknown_polynomial_is_refused(to: str) -> None:
    with pytest.raises(UsageError, match=r"no PAF .*; there are .*; or quadratic"):
        replace_activations(zoo.network("resnet20"), to)


def test_a_network_without_anything_to_replace_is_refused() -> None:
    with pytest.raises(UsageError, match="resnet20-herpn has no ReLU to replace"):
        replace_activations(zoo.network("resnet20-herpn"), "paf:f1")
