"""Every operation against the module of torch that it is named after: values, shapes, and the graph as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model, graph_from_json, graph_to_json
from fheinfer.model.ops import Invalid, Op, Shape, from_fields, to_fields
from fheinfer.train.module import GraphModule, from_model

many = settings(max_examples=60, deadline=None)
sizes = st.integers(1, 9)
small = st.integers(1, 3)
pairs = st.tuples(small, small)


def tensors_of(op: Op, *shapes: Shape) -> dict[str, Tensor]:
    wanted = op.tensor_shapes(shapes)
    return {role: torch.rand(wanted[role], dtype=torch.float64) + 0.1 for role in op.tensors}


def agrees(op: Op, torch_says: Callable[..., Tensor], *shapes: Shape, **tensors: Tensor) -> None:
    """The operation, what it infers, its fields in a file, and the same as a trainable module."""
    op.check(shapes)
    x = [torch.randn(2, *shape, dtype=torch.float64) for shape in shapes]
    tensors = tensors or tensors_of(op, *shapes)
    assert {role: tuple(value.shape) for role, value in tensors.items()} == {
        role: op.tensor_shapes(shapes)[role] for role in op.tensors
    }
    expected, value = torch_says(*x), op.reference(x, tensors)
    assert value.shape == expected.shape
    assert tuple(value.shape[1:]) == op.infer(shapes)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    assert from_fields(op.kind, to_fields(op)) == op
    if len(shapes) == 1:
        as_module(op, shapes[0], x[0], tensors, value)


def as_module(op: Op, shape: Shape, x: Tensor, tensors: dict[str, Tensor], expected: Tensor) -> None:
    graph = Graph("g", (Node("x", ops.Input(shape)), Node("y", op, ("x",))))
    arrays = {op.tensors[role]: value.float().numpy() for role, value in tensors.items()}
    model = Model(graph_from_json(graph_to_json(graph)), arrays, (0.0,) * shape[0], (1.0,) * shape[0])
    module = from_model(model, torch.float64)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@many
@given(st.data(), pairs, pairs, pairs, st.sampled_from([1, 2, 4]), st.booleans())
def test_convolutions(
    data: st.DataObject,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    bias: bool,
) -> None:
    shape = (4, data.draw(sizes), data.draw(sizes))
    sides = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    op = ops.Conv2d(8, kernel, stride, sides, "c.weight", "c.bias" if bias else None, dilation, groups)
    top, bottom, left, right = sides
    full = shape[1] + top + bottom, shape[2] + left + right
    assume(all(size > d * (k - 1) for size, k, d in zip(full, kernel, dilation, strict=True)))
    t = tensors_of(op, shape)

    def expected(x: Tensor) -> Tensor:
        x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, t["weight"], t.get("bias"), stride, 0, dilation, groups)

    agrees(op, expected, shape, **t)


@many
@given(st.data(), pairs, pairs, pairs, st.sampled_from([1, 2, 4]), st.booleans())
def test_transposed_convolutions(
    data: st.DataObject,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    bias: bool,
) -> None:
    shape = (4, data.draw(sizes), data.draw(sizes))
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
    added = data.draw(st.tuples(st.integers(0, most[0]), st.integers(0, most[1])))
    names = ("c.weight", "c.bias" if bias else None)
    op = ops.ConvTranspose2d(8, kernel, stride, padding, *names, dilation, groups, added)
    layer = nn.ConvTranspose2d(4, 8, kernel, stride, padding, added, groups, bias, dilation).double()
    assume(min(op.infer([shape])) >= 1)
    tensors = {name: value.detach() for name, value in layer.named_parameters()}
    agrees(op, lambda x: layer(x).detach(), shape, **tensors)


def test_uneven_cropping_of_a_transposed_convolution() -> None:
    op = ops.ConvTranspose2d(3, 3, 2, (0, 1, 2, 0), "c.weight", "c.bias")
    t = tensors_of(op, (2, 4, 5))
    agrees(
        op,
        lambda x: functional.conv_transpose2d(x, t["weight"], t["bias"], 2)[:, :, : 9 - 1, 2:11],
        (2, 4, 5),
        **t,
    )


@many
@given(st.tuples(sizes, sizes, sizes), pairs, pairs, st.data(), st.booleans())
def test_pools(
    shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], data: st.DataObject, counted: bool
) -> None:
    padding = data.draw(st.tuples(st.integers(0, kernel[0] // 2), st.integers(0, kernel[1] // 2)))
    assume(all(n + 2 * p >= k for n, p, k in zip(shape[1:], padding, kernel, strict=True)))
    agrees(ops.MaxPool(kernel, stride, padding), nn.MaxPool2d(kernel, stride, padding), shape)
    mean = nn.AvgPool2d(kernel, stride, padding, count_include_pad=counted)
    agrees(ops.MeanPool(kernel, stride, padding, counted), mean, shape)


def test_pools_have_dilation_and_a_stride_of_their_own_size() -> None:
    agrees(ops.MaxPool(3, 1, 1, 2), nn.MaxPool2d(3, 1, 1, 2), (2, 7, 6))
    agrees(ops.MaxPool(2), nn.MaxPool2d(2), (2, 7, 6))
    agrees(ops.MeanPool((3, 2)), nn.AvgPool2d((3, 2)), (2, 7, 6))
    assert to_fields(ops.MaxPool(2, 2)) == {"kernel": 2}
    assert to_fields(ops.MaxPool((3, 2), 2)) == {"kernel": (3, 2), "stride": 2}
    agrees(ops.GlobalAvgPool(), lambda x: nn.AdaptiveAvgPool2d(1)(x).flatten(1), (3, 4, 5))


def test_pixels_outside_an_image_do_not_count_for_uneven_padding() -> None:
    agrees(ops.MaxPool(2, 2, (0, 1, 0, 1)), nn.MaxPool2d(2, 2, ceil_mode=True), (2, 7, 5))
    agrees(ops.MeanPool(2, 2, (0, 1, 0, 1), False), nn.AvgPool2d(2, 2, ceil_mode=True), (2, 7, 5))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [(0,), (2,), (1, 2), (0, 1)])
def test_reductions(axes: tuple[int, ...], mean: bool, keepdims: bool) -> None:
    reduce = torch.mean if mean else torch.sum
    op = ops.Reduce(axes, mean, keepdims)
    agrees(op, lambda x: reduce(x, [a + 1 for a in axes], keepdim=keepdims), (3, 4, 5))


def test_a_reduction_of_everything_is_a_vector_of_one() -> None:
    agrees(ops.Reduce((0, 1), False), lambda x: x.sum((1, 2), keepdim=True)[:, 0], (3, 4))


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 5, 4)])
def test_batch_norm_and_linear(shape: Shape) -> None:
    kinds: list[Any] = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d]
    norm = kinds[len(shape) - 1](6, eps=1e-3).double().eval()
    names = ("weight", "bias", "running_mean", "running_var")
    for name, value in norm.state_dict().items():
        if name in names:
            value.copy_(torch.rand(6) + 0.2)
    op = ops.BatchNorm(1e-3, *(f"n.{name}" for name in names))
    state = norm.state_dict()
    tensors = dict(zip(op.TENSORS, (state[name] for name in names), strict=True))
    agrees(op, lambda x: norm(x).detach(), shape, **tensors)
    linear = ops.Linear(4, "l.weight", "l.bias")
    t = tensors_of(linear, shape)
    agrees(linear, lambda x: functional.linear(x.flatten(1), t["weight"], t["bias"]), shape, **t)


@pytest.mark.parametrize("gain", [None, "u.gain"])
def test_resampling_upsamples_and_pools(gain: str | None) -> None:
    eye = torch.eye(4, dtype=torch.float64)
    rows = functional.interpolate(eye[None, None], size=(8, 4), mode="bilinear")[0, 0]
    columns = functional.adaptive_avg_pool2d(torch.eye(5, dtype=torch.float64)[None, None], (3, 5))[0, 0]
    op = ops.Resample((8, 3), "u.rows", "u.columns", gain)
    factor = torch.rand(2, dtype=torch.float64) if gain else torch.ones(2, dtype=torch.float64)
    tensors = {"rows": rows, "columns": columns} | ({"gain": factor} if gain else {})

    def expected(x: Tensor) -> Tensor:
        up = functional.interpolate(x, size=(8, 5), mode="bilinear")
        return functional.adaptive_avg_pool2d(up, (8, 3)) * factor.view(-1, 1, 1)

    agrees(op, expected, (2, 4, 5), **tensors)


ACTIVATIONS: list[tuple[Op, Callable[[Tensor], Tensor]]] = [
    (ops.Relu(), nn.ReLU()),
    (ops.Clip(0.0, 6.0), nn.ReLU6()),
    (ops.Clip(-1.0, 1.0), nn.Hardtanh()),
    (ops.LeakyRelu(), nn.LeakyReLU()),
    (ops.LeakyRelu(0.3), nn.LeakyReLU(0.3)),
    (ops.Elu(), nn.ELU()),
    (ops.Elu(0.5), nn.ELU(0.5)),
    (ops.Selu(), nn.SELU()),
    (ops.Silu(), nn.SiLU()),
    (ops.Gelu(), nn.GELU()),
    (ops.Gelu("tanh"), nn.GELU("tanh")),
    (ops.Hardswish(), nn.Hardswish()),
    (ops.Hardsigmoid(), nn.Hardsigmoid()),
    (ops.Sigmoid(), nn.Sigmoid()),
    (ops.Tanh(), nn.Tanh()),
    (ops.Softplus(), nn.Softplus()),
    (ops.Softplus(2.0, 3.0), nn.Softplus(2.0, 3.0)),
    (ops.Mish(), nn.Mish()),
    (ops.Abs(), torch.abs),
    (ops.Power(2), torch.square),
    (ops.Power(3), lambda x: x * x * x),
]


@pytest.mark.parametrize(("op", "function"), ACTIVATIONS, ids=[repr(op) for op, _ in ACTIVATIONS])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (3, 4, 5)])
def test_activations(op: Op, function: Callable[[Tensor], Tensor], shape: Shape) -> None:
    agrees(op, lambda x: function(4 * x / 4), shape)


def test_there_is_a_test_of_every_activation() -> None:
    tested = {type(op) for op, _ in ACTIVATIONS}
    assert tested | {ops.Prelu, ops.HerPN, ops.Paf} == set(ops.ACTIVATIONS.values())
    assert all(kind.ranged for kind in tested)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 5, 6)])
def test_prelu(shared: bool, shape: Shape) -> None:
    layer = nn.PReLU(1 if shared else 4).double()
    with torch.no_grad():
        layer.weight.copy_(torch.rand(len(layer.weight)))
    agrees(ops.Prelu("p.weight", shared), lambda x: layer(x).detach(), shape, weight=layer.weight.detach())


def test_arithmetic() -> None:
    shapes = ((3, 4, 5), (3, 4, 5))
    agrees(ops.Add(), torch.add, *shapes)
    agrees(ops.Subtract(), torch.sub, *shapes)
    agrees(ops.Product(), torch.mul, *shapes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1, 4, 5), (3, 4, 5)])
def test_constants(shape: Shape) -> None:
    value = torch.randn(shape, dtype=torch.float64)
    agrees(ops.MultiplyConstant("m.value", shape), lambda x: x * value, (3, 4, 5), value=value)
    agrees(ops.AddConstant("m.value", shape), lambda x: x + value, (3, 4, 5), value=value)


def test_views() -> None:
    agrees(ops.Reshape((4, 15)), lambda x: x.view(2, 4, 15), (3, 4, 5))
    agrees(ops.Reshape((60,)), nn.Flatten(), (3, 4, 5))
    agrees(ops.Permute((2, 0, 1)), lambda x: x.permute(0, 3, 1, 2), (3, 4, 5))
    agrees(ops.Slice(0, 1, 3), lambda x: x[:, 1:3], (3, 4, 5))
    agrees(ops.Slice(2, 1, 5, 2), lambda x: x[..., 1::2], (3, 4, 5))
    agrees(ops.Expand((3, 4, 5)), lambda x: x.expand(2, 3, 4, 5), (3, 1, 1))
    agrees(ops.Concat(0, 3), lambda *x: torch.cat(x, 1), (3, 4, 5), (1, 4, 5), (2, 4, 5))
    agrees(ops.Concat(2, 2), lambda *x: torch.cat(x, 3), (3, 4, 5), (3, 4, 2))
    agrees(ops.Pad((0, 0, 1, 2, 3, 0)), nn.ZeroPad2d((3, 0, 1, 2)), (3, 4, 5))


REFUSED: list[tuple[Op, list[Shape], str]] = [
    (ops.Conv2d(4, 3, 1, 1, "w", groups=3), [(3, 8, 8)], "3 groups do not divide 3 channels and 4 out_channels"),
    (ops.Conv2d(4, 3, 1, 1, "w", dilation=5), [(3, 8, 8)], r"kernel 3 is larger than the padded input \(8, 8\)"),
    (ops.ConvTranspose2d(4, 3, 2, 9, "w"), [(3, 2, 2)], "leaves nothing of the output"),
    (ops.ConvTranspose2d(4, 3, 2, 1, "w", output_padding=2), [(3, 2, 2)], "output_padding 2 is not below stride"),
    (ops.MaxPool(2, 2, 2), [(3, 8, 8)], "leaves windows of 2 without a pixel"),
    (ops.MaxPool((2, 9)), [(3, 8, 8)], r"a window of 2x9 is larger than the input \(8, 8\)"),
    (ops.MeanPool(3, 0), [(3, 8, 8)], "stride is 0, not a whole number of 1 or more"),
    (ops.MaxPool(3, 1, 0, 0), [(3, 8, 8)], "dilation is 0, not a whole number of 1 or more"),
    (ops.MeanPool(3, 1, 1, 1), [(3, 8, 8)], "count_include_pad is 1, neither true nor false"),  # type: ignore[arg-type]
    (ops.BatchNorm(1e-5, "a", "b", "c", "d"), [(3, 4, 4, 4)], "at most three axes"),
    (ops.Reduce((), True), [(3,)], r"axes \(\) are not a tuple of different axes"),
    (ops.Reduce((3,), True), [(3, 8, 8)], r"axis 3 is none of a value of the shape \(3, 8, 8\)"),
    (ops.Resample((0, 2), "r", "c"), [(3, 8, 8)], "size is 0, not a whole number of 1 or more"),
    (ops.Subtract(), [(3,), (4,)], r"subtracts values of the shapes \(3,\) and \(4,\)"),
    (ops.Product(), [(3, 8, 8), (3, 1, 1)], r"multiplies values of the shapes"),
    (ops.MultiplyConstant("v", (3,)), [(3, 8, 8)], r"a constant of the shape \(3,\) does not fit"),
    (ops.AddConstant("v", (2, 1, 1)), [(3, 8, 8)], r"a constant of the shape \(2, 1, 1\) does not fit"),
    (ops.Clip(1.0, 1.0), [(3,)], "low 1.0 is not below high 1.0"),
    (ops.Clip(0.0, float("inf")), [(3,)], "high is inf, not a number"),
    (ops.Power(9), [(3,)], "exponent is 9; at most 8 is supported"),
    (ops.Power(1), [(3,)], "exponent is 1, not a whole number of 2 or more"),
    (ops.Gelu("fast"), [(3,)], "approximate is 'fast', neither 'none' nor 'tanh'"),
    (ops.Softplus(-1.0), [(3,)], "beta is -1.0, not a positive number"),
    (ops.Reshape((4, 4)), [(3, 8, 8)], r"does not fit the shape \(4, 4\)"),
    (ops.Permute((0, 0, 1)), [(3, 8, 8)], r"order \(0, 0, 1\) is none of 3 axes"),
    (ops.Permute((0, 1)), [(3, 8, 8)], r"order is \(0, 1\), not 3 whole numbers"),
    (ops.Slice(0, 2, 2), [(3, 8, 8)], "entries 2 to 2 are none of an axis of 3"),
    (ops.Slice(0, 0, 4), [(3, 8, 8)], "entries 0 to 4 are none of an axis of 3"),
    (ops.Slice(3, 0, 1), [(3, 8, 8)], "axis 3 is none of a value"),
    (ops.Concat(0, 2), [(3, 8, 8), (3, 8, 4)], "joins values of the shapes"),
    (ops.Expand((4, 8, 8)), [(3, 8, 8)], r"does not expand to \(4, 8, 8\)"),
    (ops.Pad((1, 1)), [(3, 8, 8)], r"sides is \(1, 1\), not 6 whole numbers"),
]


@pytest.mark.parametrize(("op", "shapes", "says"), REFUSED, ids=[says for *_, says in REFUSED])
def test_what_cannot_be_is_refused(op: Op, shapes: list[Shape], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        op.check(shapes)


def test_sizes_are_normalised_and_written_as_version_0_1_wrote_them() -> None:
    op = ops.Conv2d(16, 3, 1, 1, "w")
    assert (op.kernel, op.stride, op.padding, op.dilation) == ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    assert op == ops.Conv2d(16, (3, 3), [1, 1], (1, 1), "w", dilation=(1, 1))
    assert to_fields(op) == {"out_channels": 16, "kernel": 3, "stride": 1, "padding": 1, "weight": "w"}
    uneven = ops.Conv2d(16, (1, 3), 1, (0, 1), "w", groups=2)
    assert to_fields(uneven) == {
        "out_channels": 16,
        "kernel": (1, 3),
        "stride": 1,
        "padding": (0, 0, 1, 1),
        "weight": "w",
        "groups": 2,
    }


def test_several_outputs_and_modules_come_back_from_a_file() -> None:
    nodes = (
        Node("x", ops.Input((4,))),
        Node("a", ops.Linear(3, "a.weight"), ("x",), module="net.a"),
        Node("b", ops.Sigmoid(), ("a",)),
    )
    graph = graph_from_json(graph_to_json(Graph("two", nodes, ("b", "a"))))
    assert (graph.outputs, graph.nodes) == (("b", "a"), nodes)
    module = GraphModule(graph)
    assert set(module.forward_all(torch.zeros(1, 4))) == {"x", "a", "b"}
