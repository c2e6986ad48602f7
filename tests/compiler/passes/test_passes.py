"""Each pass by its contract."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer.approx import activation, names
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.fold_batch_norm import fold_batch_norm
from fheinfer.compiler.passes.fold_pool import fold_pool
from fheinfer.compiler.passes.layouts import layouts
from fheinfer.compiler.passes.levels import levels
from fheinfer.compiler.passes.merge_shortcuts import merge_shortcuts
from fheinfer.compiler.passes.pools import pools
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.passes.skews import skews
from fheinfer.compiler.pipeline import PASSES
from fheinfer.compiler.program import Program
from fheinfer.compiler.steps import step_of
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import PlanError, UsageError
from fheinfer.frontends import zoo
from fheinfer.model.graph import GraphBuilder, Node
from tests.compiler.programs import ACTIVATIONS, placed, program, run, scaled, small


def test_folding_a_batch_norm_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    before = small(lambda b: b.conv_bn("input", "conv", "bn", 5, 3, 2))
    after = run(before, fold_batch_norm)
    assert [n.op for n in after.graph] == ["input", "conv2d"]
    node, c = after.graph["bn"], {k: torch.tensor(v) for k, v in before.constants.items()}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    functional = torch.nn.functional
    expected = functional.batch_norm(
        functional.conv2d(x, c["conv.weight"], None, 2, 1),
        c["bn.running_mean"],
        c["bn.running_var"],
        c["bn.weight"],
        c["bn.bias"],
        False,
        0.0,
        1e-5,
    )
    weight, bias = (torch.tensor(after.constants[node.weights[role]]) for role in ("weight", "bias"))
    assert (functional.conv2d(x, weight, bias, 2, 1) - expected).abs().max() < 1e-12
    assert "bn/weight" not in before.constants  # trained weights stay as they are


def test_a_batch_norm_after_anything_else_cannot_be_folded() -> None:
    roles = {"weight": "bn.weight", "bias": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}

    def after_relu(b: GraphBuilder) -> None:
        b.add(
            "bn", "batch_norm", b.add("relu", "relu", b.conv_bn("input", "conv", None, 4, 3)), weights=roles, eps=1e-5
        )

    def shared(b: GraphBuilder) -> None:
        x = b.conv_bn("input", "conv", None, 4, 3)
        b.add("sum", "add", b.add("bn", "batch_norm", x, weights=roles, eps=1e-5), x)

    for build in (after_relu, shared):
        with pytest.raises(PlanError, match="'bn' does not follow a convolution of its own"):
            fold_batch_norm(small(build))


@pytest.mark.parametrize(("stride", "kernel", "shortcut"), [(1, 3, None), (1, 5, 1), (2, 3, 1), (2, 5, 3)])
def test_a_merged_shortcut_equals_pytorch(stride: int, kernel: int, shortcut: int | None) -> None:
    torch = pytest.importorskip("torch")

    def build(b: GraphBuilder) -> None:
        x = b.conv_bn("input", "c0", "b0", 4, 1)
        y = b.conv_bn(x, "c1", "b1", 4, kernel, stride)
        b.add("sum", "add", y, b.conv_bn(x, "c2", "b2", 4, shortcut, stride) if shortcut else x)

    before = run(small(build), fold_batch_norm)
    after = run(before, merge_shortcuts)
    assert [node.op for node in after.graph] == ["input", "conv2d", "conv2d"]
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def conv(of: Program, name: str) -> Any:
        node = of.graph[name]
        weight, bias = (torch.tensor(of.constants[node.weights[role]]) for role in ("weight", "bias"))
        return torch.nn.functional.conv2d(x, weight, bias, node.attrs["stride"], node.attrs["padding"])

    expected = conv(before, "b1") + (conv(before, "b2") if shortcut else x)
    assert (conv(after, "sum") - expected).abs().max() < 1e-12


def test_convolutions_that_others_read_are_not_merged() -> None:
    def shared(b: GraphBuilder) -> None:
        x = b.conv_bn("input", "c0", "b0", 4, 1)
        y = b.conv_bn(x, "c1", "b1", 4, 3)
        b.add("again", "add", b.add("sum", "add", y, x), y)

    def strided(b: GraphBuilder) -> None:
        x = b.conv_bn("input", "c0", "b0", 4, 1)
        b.add("sum", "add", b.conv_bn(x, "c1", "b1", 4, 3), b.conv_bn(b.add("r", "relu", x), "c2", "b2", 4, 3))

    for build in (shared, strided):
        before = run(small(build), fold_batch_norm)
        assert run(before, merge_shortcuts).graph.nodes == before.graph.nodes


def test_folding_a_pool_moves_its_division_into_the_linear_layer() -> None:
    before = small(
        lambda b: b.add(
            "fc", "linear", b.add("pool", "avg_pool", "input"), weights={"weight": "fc.weight"}, out_features=4
        )
    )
    after = run(before, fold_pool)
    x = np.random.default_rng(1).normal(size=(3, 8, 8))
    expected = before.constants["fc.weight"] @ x.mean(axis=(1, 2))
    folded = after.constants[after.graph["fc"].weights["weight"]]
    assert np.abs(folded @ x.sum(axis=(1, 2)) - expected).max() < 1e-12


def test_a_pool_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(PlanError, match="must be followed by a linear layer"):
        fold_pool(small(lambda b: b.add("relu", "relu", b.add("pool", "avg_pool", "input"))))


def test_strides_widen_the_gap_and_keep_the_grid() -> None:
    placed = run(program(zoo.network("resnet20"), parameter_set(1)), fold_batch_norm, fold_pool, approximate, layouts)
    gaps = {(n.attrs["layout"].channels, n.attrs["layout"].gap) for n in placed.graph if n.op == "conv2d"}
    assert gaps == {(16, 1), (32, 2), (64, 4)}
    grids = {(n.attrs["layout"].grid_height, n.attrs["layout"].grid_width) for n in placed.graph if n.op != "linear"}
    assert grids == {(32, 32)}


def test_a_layer_of_more_slots_than_the_set_has_is_refused() -> None:
    with pytest.raises(PlanError, match=r"'conv1' needs 16384 slots; set insecure-tiny has 512|needs \d+ slots"):
        run(program(zoo.network("resnet20")), fold_batch_norm, fold_pool, layouts)


def test_what_a_pass_left_behind_cannot_be_encrypted() -> None:
    start = program(zoo.network("vgg11"), dataclasses.replace(parameter_set(1), slots=1 << 20))
    with pytest.raises(PlanError, match="max_pool cannot be"):
        run(start, fold_batch_norm, approximate, layouts)


@pytest.mark.parametrize(
    ("op", "kernel", "relu", "words"),
    [
        ("max_pool", 2, False, "must follow a ReLU"),
        ("max_pool", 4, True, "has to be of 2x2"),
        ("max_pool", 3, True, "do not fill 8x8"),
        ("mean_pool", 3, True, "do not fill 8x8"),
    ],
)
def test_pools_that_cannot_be_evaluated_say_so(op: str, kernel: int, relu: bool, words: str) -> None:
    def build(g: GraphBuilder) -> None:
        x = g.conv_bn("input", "conv", None, 4, 3)
        g.add("pool", op, g.activation("relu", x, "relu") if relu else x, kernel=kernel)

    with pytest.raises(PlanError, match=words):
        run(small(build), pools)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 4]), st.sampled_from([1, 3, 5]), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_mean_pool_and_the_convolution_after_it_are_one(kernel: int, taps: int, alone: bool, seed: int) -> None:
    torch = pytest.importorskip("torch")
    conv2d, avg_pool2d = torch.nn.functional.conv2d, torch.nn.functional.avg_pool2d
    builder = GraphBuilder("small", (3, 8, 8))
    builder.conv_bn(builder.add("pool", "mean_pool", "input", kernel=kernel), "conv", None, 5, taps, 2 if alone else 1)
    before = program(builder.build(), seed=seed)
    after = run(before, pools)
    assert [node.op for node in after.graph] == ["input", *["conv2d"] * (2 if alone else 1)]
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 3, 8, 8)))
    expected = conv2d(avg_pool2d(x, kernel), torch.from_numpy(before.constants["conv.weight"]),
                      stride=2 if alone else 1, padding=taps // 2)
    for node in after.graph.nodes[1:]:
        weight = torch.from_numpy(after.constants[node.weights["weight"]])
        x = conv2d(x, weight, stride=node.attrs["stride"], padding=node.attrs["padding"])
    assert torch.allclose(x, expected, atol=1e-12)


@pytest.mark.parametrize("native", [True, False], ids=["native", "openfhe"])
@pytest.mark.parametrize("name", [*(n for n in names() if activation(n).function == "ReLU"), "square"])
def test_levels_of_a_plan_are_those_of_the_registry(name: str, native: bool) -> None:
    """`Step.trace` asserts that the kernels consume what each step says, so this compares them with the table."""
    about, levelled = activation(name), scaled(activation=name, levels=20, native=native)
    for relu in (node for node in zoo.network("resnet8-tiny") if node.op == "relu"):
        assert depth(levelled, relu.name) == (about.levels if native else about.openfhe_levels)


def depth(made: Program, name: str) -> int:
    """Levels of all steps of one activation, each checked by the trace evaluator."""
    steps = [step_of(node, made) for node in made.graph if node.attrs.get("activation") == name]
    assert steps
    for step in steps:
        step.trace(made)
    return sum(step.depth for step in steps)


@pytest.mark.parametrize("kind", ["silu", "gelu"])
@pytest.mark.parametrize("bound", [1.0, 8.0, 20.0])
def test_levels_of_smooth_activations_are_those_of_the_registry(kind: str, bound: float) -> None:
    def build(g: GraphBuilder) -> None:
        g.activation(kind, g.conv_bn("input", "conv", None, 4, 3), "smooth")

    made = small(build)
    made = dataclasses.replace(made, ranges={"smooth": bound}, params=dataclasses.replace(made.params, levels=20))
    made = run(made, approximate, layouts, scales)
    (node,) = (node for node in made.graph if node.attrs.get("activation") == "smooth")
    degree = len(made.constants[node.weights["coefficients"]]) - 1
    assert depth(made, "smooth") == activation(f"{kind}:{degree}:{node.attrs['range']}").levels


@pytest.mark.parametrize("sign", ["minimax:7", "minimax:10", "f1g2"])
def test_levels_of_a_max_pool_are_those_of_the_registry(sign: str) -> None:
    def build(g: GraphBuilder) -> None:
        x = g.activation("relu", g.conv_bn("input", "conv", None, 4, 3), "relu")
        g.conv_bn(g.add("pool", "max_pool", x, kernel=2), "next", None, 4, 3)

    made = small(build)
    made = dataclasses.replace(made, params=dataclasses.replace(made.params, activation=sign, levels=20))
    made = run(made, pools, approximate, layouts, scales)
    rounds = [depth(made, f"pool/{name}/relu") for name in ("rows", "corners")]
    assert sum(rounds) == activation(f"maxpool2:{sign}").levels
    assert rounds[0] == activation(f"max:{sign}").levels


@pytest.mark.parametrize(
    ("activation", "ops"),
    [
        ("relu:59", ["chebyshev"]),
        ("f1", ["chebyshev", "multiply"]),
        ("minimax:10", ["chebyshev", "chebyshev", "chebyshev", "multiply"]),
        ("relu-aq", ["quadratic"]),
    ],
)
def test_an_activation_becomes_polynomials_under_its_name(activation: str, ops: list[str]) -> None:
    made = placed(activation=activation)
    group = [node for node in made.graph if node.attrs.get("activation") == "layer2.0.relu1"]
    assert [node.op for node in group] == ops
    assert group[-1].name == "layer2.0.relu1"
    assert group[0].inputs == ("layer2.0.bn1",)
    if ops[-1] == "multiply":
        assert group[-1].inputs == ("layer2.0.bn1", group[-2].name)
    assert not any(node.op == "relu" for node in made.graph)


@pytest.mark.parametrize("activation", ["silu:31:8", "max:minimax:10", "maxpool2:minimax:10"])
def test_what_is_no_relu_cannot_stand_for_one(activation: str) -> None:
    with pytest.raises(PlanError, match=r"cannot stand for the ReLU 'relu1'.*approx list"):
        placed(activation=activation)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(UsageError, match="no activation 'tanh'"):
        placed(activation="tanh")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_polynomial_sees_its_range_as_one_and_addends_have_one_scale(activation: str) -> None:
    after = scaled(activation=activation)
    for node in after.graph:
        scale = node.attrs["scale"]
        if node.op == "chebyshev":
            assert after.graph[node.inputs[0]].attrs["scale"] == node.attrs["range"]
        if node.op == "quadratic":
            assert (after.graph[node.inputs[0]].attrs["scale"] >= after.ranges[node.name]).all()
        if node.op == "add":
            assert all(np.allclose(after.graph[i].attrs["scale"], scale, rtol=1e-12) for i in node.inputs)


def test_scales_change_no_value() -> None:
    """weight' = weight * scale_in / scale_out, so slot * scale is what the layer computes."""
    start, after = placed(), scaled()
    for node in after.graph:
        if node.op not in ("conv2d", "linear"):
            continue
        ratio = after.graph[node.inputs[0]].attrs["scale"] / node.attrs["scale"]
        before = start.graph[node.name].weights
        assert np.allclose(after.constants[node.weights["weight"]], start.constants[before["weight"]] * ratio)
        assert np.allclose(after.constants[node.weights["bias"]], start.constants[before["bias"]] / node.attrs["scale"])


def test_a_range_that_is_missing_is_named() -> None:
    start = program(zoo.network("resnet8-tiny"))
    start = dataclasses.replace(start, ranges={k: v for k, v in start.ranges.items() if k != "layer2.0.relu1"})
    with pytest.raises(PlanError, match=r"no range is known for the activation 'layer2\.0\.relu1'"):
        run(start, fold_batch_norm, fold_pool, approximate)


def test_a_value_for_activations_of_different_ranges_is_refused() -> None:
    def build(b: GraphBuilder) -> None:
        x = b.conv_bn("input", "conv", None, 4, 3)
        y, z = b.add("r1", "relu", x), b.add("r2", "relu", x)
        b.add("sum", "add", y, z)

    with pytest.raises(PlanError, match="'conv' feeds activations of different ranges"):
        run(small(build), approximate, layouts, scales)


def test_a_constant_channel_of_a_quadratic_is_computed_and_a_linear_one_refused() -> None:
    made = placed(activation="relu-aq")
    for c1, expected in ((0.0, None), (1.0, "is linear")):
        constants = dict(made.constants)
        for role, value in (("c0", 3.0), ("c1", c1), ("c2", 0.0)):
            array = constants[f"relu1/{role}"].copy()
            array[1] = value
            constants[f"relu1/{role}"] = array
        start = dataclasses.replace(made, constants=constants)
        if expected:
            with pytest.raises(PlanError, match=expected):
                scales(start)
            continue
        after = scales(start)
        node, source = after.graph["relu1"], after.graph["bn1"]
        assert not after.constants[source.weights["weight"]][1].any()  # x is 0 there, whatever the input
        assert after.constants[node.weights["constant"]][1] * node.attrs["scale"][1] == 3


def test_passes_come_in_this_order_and_each_leaves_a_legal_graph() -> None:
    assert (fold_batch_norm, merge_shortcuts, fold_pool, pools, approximate, layouts, skews, scales, levels) == PASSES
    run(program(zoo.network("resnet8-tiny")), *PASSES)


def test_a_pass_does_not_change_its_argument() -> None:
    start: Any = program(zoo.network("resnet8-tiny"))
    names, nodes = set(start.constants), start.graph.nodes
    run(start, *PASSES)
    assert set(start.constants) == names
    assert start.graph.nodes is nodes
    assert all(isinstance(n, Node) and "level" not in n.attrs for n in nodes)
