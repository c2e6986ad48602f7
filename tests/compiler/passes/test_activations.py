"""Every activation by polynomials against PyTorch, over its whole range, within the error that is stated."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer.approx import activation, fidelity
from fheinfer.approx.functions import function_of
from fheinfer.compiler.activations import activation_levels, polynomials_of, relu_of
from fheinfer.compiler.passes.approximate import approximate, depth_of
from fheinfer.compiler.program import Program
from fheinfer.compiler.stages import Stage, verify
from fheinfer.errors import PlanError, UsageError
from fheinfer.frontends import zoo
from fheinfer.model import ops
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.model import Model
from tests.compiler.programs import kinds, program

torch = pytest.importorskip("torch")

CHANNELS, POINTS = 3, 501
FUNCTIONS: tuple[ops.Op, ...] = (
    *(ops.Relu(), ops.Clip(0.0, 6.0), ops.Clip(-1.0, 1.0), ops.Clip(0.5, 30.0), ops.LeakyRelu(0.1), ops.LeakyRelu(1.5)),
    *(ops.Elu(1.0), ops.Elu(0.5), ops.Selu(), ops.Silu(), ops.Gelu(), ops.Gelu("tanh"), ops.Hardswish()),
    *(ops.Hardsigmoid(), ops.Sigmoid(), ops.Tanh(), ops.Softplus(), ops.Softplus(2.0), ops.Mish(), ops.Abs()),
)


def names_of(op: ops.Op) -> str:
    return "-".join([op.kind, *(str(value) for value in dataclasses.astuple(op))])


def single(op: ops.Op, bound: float, shape: tuple[int, ...] = (CHANNELS, 1, POINTS), **constants: object) -> Program:
    """One activation of the input of a network."""
    builder = GraphBuilder("single", shape)
    start = program(builder.build(builder.add("act", op, "input")))
    given_ = {name: np.asarray(value, np.float64) for name, value in constants.items()}
    return dataclasses.replace(start, ranges={"act": bound}, constants=given_)


def values(made: Program, x: Any) -> np.ndarray:
    """What the nodes compute in values: a Chebyshev series sees its input divided by its bound."""
    found: dict[str, Any] = {}
    for node in made.graph:
        xs = [found[name] for name in node.inputs] or [x]
        tensors = {role: torch.from_numpy(np.array(made.constants[n])) for role, n in node.op.tensors.items()}
        if isinstance(node.op, ops.Chebyshev):
            found[node.name] = node.op.reference([xs[0] / node.op.bound], tensors) * node.op.unit
        else:
            found[node.name] = node.op.reference(xs, tensors)
    return np.asarray(found[made.graph.nodes[-1].name])


def line(bound: float) -> Any:
    return torch.linspace(-bound, bound, POINTS, dtype=torch.float64).expand(1, CHANNELS, 1, POINTS)


@pytest.mark.parametrize("op", FUNCTIONS, ids=names_of)
@settings(max_examples=8, deadline=None)
@given(bound=st.floats(0.3, 40.0), bits=st.sampled_from([2.0, 4.0, 5.0]))
def test_a_function_is_within_its_stated_error_on_its_whole_range(op: ops.Op, bound: float, bits: float) -> None:
    function = function_of(op)
    assert function is not None
    asked = fidelity.of_bits(bits)
    found = fidelity.choose(function, bound, asked)
    assert found is not None
    start = dataclasses.replace(single(op, bound), bits=bits, relu=asked.relu)
    made = verify(approximate(start), Stage.POLYNOMIAL)
    missed = np.abs(values(made, line(bound)) - op.reference([line(bound)], {}).numpy()).max()
    stated = (
        bound * np.abs(asked.relu.evaluate(np.linspace(-1, 1, 9001)) - np.maximum(np.linspace(-1, 1, 9001), 0)).max()
    )
    assert missed <= (stated if isinstance(op, ops.Relu) else found.largest) * (1 + 1e-3) + 1e-12
    assert (
        found.largest <= function.largest(bound) * 20 * asked.kinked
        or found.largest <= function.largest(bound) * asked.smooth
    )


@pytest.mark.parametrize("op", FUNCTIONS, ids=names_of)
@settings(max_examples=4, deadline=None)
@given(bound=st.floats(0.5, 20.0), relu=st.sampled_from(["minimax:7", "minimax:10"]))
def test_a_composite_that_was_asked_for_is_at_every_kink(op: ops.Op, bound: float, relu: str) -> None:
    function, gate = function_of(op), activation(relu)
    assert function is not None
    start = dataclasses.replace(single(op, bound), relu=gate)
    made = verify(approximate(start), Stage.POLYNOMIAL)
    kinks = function.inside(bound)
    assert kinds(made.graph).count("multiply") == len(kinks)
    worst = sum(abs(k.jump) for k in kinks) * (bound + max([abs(k.at) for k in kinks], default=0)) * 2.0**-7.03
    rest = function.largest(bound) * fidelity.UNSAID
    missed = np.abs(values(made, line(bound)) - op.reference([line(bound)], {}).numpy()).max()
    assert missed <= worst * (1 if relu == "minimax:7" else 2.0**-3) + 1.01 * rest


@pytest.mark.parametrize("bound", [4.5, 20.0])
@pytest.mark.parametrize("op", [ops.Hardswish(), ops.Selu(), ops.Elu(0.5), ops.Tanh()], ids=names_of)
def test_eleven_bits_are_within_reach_of_bent_functions(op: ops.Op, bound: float) -> None:
    function, asked = function_of(op), fidelity.of_bits(11)
    assert function is not None
    found = fidelity.choose(function, bound, asked)
    assert found is not None
    assert found.typical <= asked.kinked * function.largest(bound)
    assert found.levels <= 15


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0.5, 30.0),
    st.sampled_from(["relu:63", "minimax:7"]),
    st.lists(st.floats(-0.5, 1.5), min_size=3, max_size=3),
)
def test_a_prelu_has_a_slope_for_every_channel(bound: float, relu: str, slopes: list[float]) -> None:
    op = ops.Prelu("slopes")
    start = dataclasses.replace(single(op, bound, slopes=slopes), relu=activation(relu))
    made = verify(approximate(start), Stage.POLYNOMIAL)
    expected = op.reference([line(bound)], {"weight": torch.tensor(slopes, dtype=torch.float64)}).numpy()
    error = 2.0 ** -(6.85 if relu == "relu:63" else 7.03)
    # Least squares may miss by more than that where the range ends.
    assert np.abs(values(made, line(bound)) - expected).max() <= 2 * bound * error


def test_a_prelu_of_one_slope_is_a_leaky_relu() -> None:
    made = approximate(single(ops.Prelu("slopes", shared=True), 2.0, slopes=[0.25]))
    assert kinds(made.graph) == ["input", "chebyshev"]


@pytest.mark.parametrize(
    ("relu", "op", "levels"),
    [
        ("relu:63", ops.Relu(), 6),
        ("relu:63", ops.LeakyRelu(0.1), 6),
        ("minimax:7", ops.LeakyRelu(0.1), 7),
        ("minimax:7", ops.Clip(-1.0, 1.0), 7),
        ("minimax:7", ops.Hardswish(), 7),
        ("minimax:7", ops.Selu(), 7),
        ("relu:63", ops.Sigmoid(), 4),
        ("relu:63", ops.Prelu("slopes"), 7),
        ("minimax:7", ops.Prelu("slopes"), 7),
        *(("relu:63", ops.Power(n), levels) for n, levels in ((2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 3), (8, 3))),
    ],
)
def test_levels_of_an_activation(relu: str, op: ops.Op, levels: int) -> None:
    builder = GraphBuilder("single", (CHANNELS, 1, 4))
    graph = builder.build(builder.add("act", op, "input"))
    tensors = {"slopes": np.array([0.1, 0.2, 0.3], np.float32)} if isinstance(op, ops.Prelu) else {}
    model = Model(graph, tensors, (0.0,) * 3, (1.0,) * 3, ranges={"act": 6.0})
    assert activation_levels(model, relu) == {"act": levels}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.floats(0.2, 20.0))
def test_a_power_is_exact(exponent: int, bound: float) -> None:
    made = verify(approximate(single(ops.Power(exponent), bound)), Stage.POLYNOMIAL)
    expected = line(bound).numpy() ** exponent
    assert np.abs(values(made, line(bound)) - expected).max() <= 1e-12 * bound**exponent


def test_factors_of_a_product_have_their_own_ranges() -> None:
    """A gate of squeeze and excitation is between 0 and 1, whatever it is multiplied with."""
    builder = GraphBuilder("gated", (CHANNELS, 2, 2))
    conv = builder.conv2d("conv", "input", CHANNELS, 3)
    builder.add("product", ops.Product(), conv, builder.activation("sigmoid", conv, "gate"))
    start = dataclasses.replace(program(builder.build()), ranges={"gate": 4.0, "product": 7.0})
    last = approximate(start).graph.nodes[-1]
    assert isinstance(last.op, ops.Multiply)
    assert (last.name, last.inputs) == ("product", ("conv", "gate"))
    assert last.op.bound == 7.0
    assert last.op.second == pytest.approx(1 / (1 + np.exp(-4.0)))
    with pytest.raises(PlanError, match="no range is known for the activation 'product'"):
        approximate(dataclasses.replace(start, ranges={"gate": 4.0}))


def test_more_bits_take_more_levels_and_deeper_networks_too() -> None:
    levels = {}
    for name in ("resnet20", "resnet44"):
        model = zoo.placeholder(zoo.network(name))
        levels[name] = [max(activation_levels(model, bits=bits).values()) for bits in fidelity.OFFERED]
    assert levels == {"resnet20": [7, 8, 14], "resnet44": [7, 13, 15]}


def test_depth_counts_activations_in_a_row() -> None:
    assert depth_of(zoo.network("resnet20")) == 19
    assert depth_of(zoo.network("resnet20-herpn")) == 1  # polynomials are exact


@pytest.mark.parametrize("bits", [0.5, 20, float("nan")])
def test_bits_out_of_range_are_refused(bits: float) -> None:
    with pytest.raises(UsageError, match="bits of the outputs; choose 1 to 12"):
        relu_of(zoo.placeholder(zoo.network("resnet8-tiny")), None, bits, "relu:59")


def test_bits_and_an_activation_are_too_much() -> None:
    with pytest.raises(UsageError, match="not both"):
        polynomials_of(zoo.placeholder(zoo.network("resnet8-tiny")), "relu:59", 5)


def test_an_error_that_no_polynomial_reaches_is_refused() -> None:
    wide = dataclasses.replace(single(ops.Clip(-1.0, 1.0), 200.0), bits=11.0)
    with pytest.raises(PlanError, match="the range 200 of the activation 'act' is too large for clip"):
        approximate(wide)
